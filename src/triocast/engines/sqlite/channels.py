"""The channels of a store, as they are in memory: where each stands, and the floors of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import Final

import attrs

from triocast.engines.names import Names
from triocast.engines.retention import Retention
from triocast.engines.sqlite.rows import Channel, Peak
from triocast.events import is_pattern, is_whole, namespace_of, pattern_scope

MAX_NAMESPACES: Final = 1_000
"""Namespaces whose floors are kept apart. Clients name them, so there is a bound."""

OTHERS: Final = ""
"""Stands for all namespaces that have no floor of their own."""

MAX_SEEKS: Final = 64
"""A pattern of no more channels than this is looked for in each of them, and one of no more
namespaces in each of those. Else it is looked for among all that may be covered.
"""


@attrs.frozen
class Source:
    """Where events are looked for: in a channel, a namespace, or everywhere.

    Of a namespace or everywhere, in channels whose names begin with ``prefix``; where that is None,
    in all of them, and everywhere in all but the server's own.
    """

    channel: int | None = None
    namespace: int | None = None
    prefix: str | None = None


@attrs.define(eq=False)
class _Namespace:
    """The channels of a namespace that something is kept of, and the highest of their floors."""

    number: int
    peak: Peak
    names: Names = attrs.field(factory=Names)


class Channels:
    """All channels that something is kept of, and the floors of namespaces for the others."""

    def __init__(
        self, channels: Iterable[Channel], floors: Mapping[str, int], retention: Retention
    ) -> None:
        self.by_id = {channel.id: channel for channel in channels}
        self._by_name: dict[str, Channel] = {}
        self._floors = dict(floors)
        self._retention = retention
        self._next_id = max(self.by_id, default=0) + 1
        self._next_number = max((c.namespace for c in self.by_id.values()), default=0) + 1
        self._namespaces: dict[str, _Namespace] = {}
        # Of all channels but the server's own, those forgotten included.
        self._peak = Peak(max((f for n, f in floors.items() if not n.startswith("$")), default=0))
        for channel in sorted(self.by_id.values(), key=lambda channel: channel.name):
            self._join(channel)

    def get(self, name: str) -> Channel | None:
        return self._by_name.get(name)

    def add(self, name: str) -> Channel:
        """Return a new channel, of which all before now is gone as far as anybody knows."""
        floor = self._floor_of(namespace_of(name))
        channel = Channel(self._next_id, name, floor, floor, self._retention.of(name))
        self._next_id += 1
        self.by_id[channel.id] = channel
        self._join(channel)
        return channel

    def _join(self, channel: Channel) -> None:
        name = namespace_of(channel.name)
        namespace = self._namespaces.get(name)
        if namespace is None:
            number = channel.namespace
            if not number:
                number = self._next_number
                self._next_number += 1
            namespace = self._namespaces[name] = _Namespace(number, Peak(self._floor_of(name)))
        namespace.names.add(channel.name)
        channel.namespace = namespace.number
        is_own = name.startswith("$")
        channel.peaks = (namespace.peak,) if is_own else (namespace.peak, self._peak)
        channel.raise_floor(channel.floor)
        self._by_name[channel.name] = channel

    def discard(self, channel: Channel) -> None:
        """Take back `add`."""
        del self._by_name[channel.name], self.by_id[channel.id]
        name = namespace_of(channel.name)
        namespace = self._namespaces[name]
        namespace.names.remove(channel.name)
        if not namespace.names:
            del self._namespaces[name]

    def forget(self, channel: Channel) -> bool:
        """Remove a channel that nothing is kept of; its namespace keeps its floor.

        Return whether the floors of all namespaces have become one, as there were too many. That
        one is the highest, so that nothing missing goes untold.
        """
        namespace = namespace_of(channel.name)
        self._floors[namespace] = max(self._floor_of(namespace), channel.last)
        channel.raise_floor(channel.last)
        self.discard(channel)
        if len(self._floors) <= MAX_NAMESPACES:
            return False
        highest = max(self._floors.values())
        own = {name: floor for name, floor in self._floors.items() if name.startswith("$")}
        self._floors = {OTHERS: highest, **own}
        return True

    def sources(self, names: Iterable[str], *, after: int) -> list[Source]:
        """Return where to look for what channels and patterns have had after a ``seq``."""
        found: dict[Source, None] = {}
        for name in dict.fromkeys(names):
            if is_pattern(name):
                found |= dict.fromkeys(self._sources(name, after))
            elif (channel := self._by_name.get(name)) is not None and channel.last > after:
                found[Source(channel=channel.id)] = None
        return list(found)

    def _sources(self, pattern: str, after: int) -> Iterable[Source]:
        scope, prefix = pattern_scope(pattern)
        if scope is None:
            if len(self._namespaces) > MAX_SEEKS:
                return (Source(),)
            spaces = self._namespaces.items()
            return [Source(namespace=s.number) for n, s in spaces if not n.startswith("$")]
        namespace = self._namespaces.get(scope)
        if namespace is None:
            return ()
        if is_whole(scope, prefix):
            return (Source(namespace=namespace.number),)
        few = list(islice(namespace.names.starting_with(prefix), MAX_SEEKS + 1))
        if len(few) > MAX_SEEKS:
            return (Source(namespace=namespace.number, prefix=prefix),)
        channels = (self._by_name[name] for name in few)
        return [Source(channel=channel.id) for channel in channels if channel.last > after]

    def groups(self, names: Iterable[str]) -> list[Source]:
        """Return the channels and groups of channels that names and patterns cover."""
        found: dict[Source, None] = {}
        for name in dict.fromkeys(names):
            if not is_pattern(name):
                channel = self._by_name.get(name)
                if channel is not None:
                    found[Source(channel=channel.id)] = None
                continue
            scope, prefix = pattern_scope(name)
            if scope is None:
                found[Source()] = None
            elif (namespace := self._namespaces.get(scope)) is not None:
                found[Source(namespace=namespace.number, prefix=prefix)] = None
        return list(found)

    def floor(self, name: str, after: int = 0) -> int:
        """Return the highest ``seq`` that retention removed of a channel or pattern.

        Where that is not above ``after``, any number up to there.
        """
        if not is_pattern(name):
            channel = self._by_name.get(name)
            return self._floor_of(namespace_of(name)) if channel is None else channel.floor
        scope, prefix = pattern_scope(name)
        if scope is None:
            return max(self._peak.floor, self._floors.get(OTHERS, 0))
        forgotten = self._floor_of(scope)
        namespace = self._namespaces.get(scope)
        if namespace is None:
            return forgotten
        highest = max(namespace.peak.floor, forgotten)
        if highest <= after or is_whole(scope, prefix):
            return highest
        by_name = self._by_name
        floors = (by_name[name].floor for name in namespace.names.starting_with(prefix))
        return max(chain((forgotten,), floors))

    def _floor_of(self, namespace: str) -> int:
        floor = self._floors.get(namespace)
        return self._floors.get(OTHERS, 0) if floor is None else floor
