"""The channels of a store, as they are in memory: where each stands, and the floors of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from triocast.engines.retention import Retention
from triocast.engines.sqlite.rows import Channel
from triocast.events import is_pattern, namespace_of, pattern_matches

MAX_NAMESPACES: Final = 1_000
"""Namespaces whose floors are kept apart. Clients name them, so there is a bound."""

OTHERS: Final = ""
"""Stands for all namespaces that have no floor of their own."""


class Channels:
    """All channels that something is kept of, and the floors of namespaces for the others."""

    def __init__(
        self, channels: Iterable[Channel], floors: Mapping[str, int], retention: Retention
    ) -> None:
        self.by_id = {channel.id: channel for channel in channels}
        self._by_name = {channel.name: channel for channel in self.by_id.values()}
        self._floors = dict(floors)
        self._retention = retention
        self._next_id = max(self.by_id, default=0) + 1

    def get(self, name: str) -> Channel | None:
        return self._by_name.get(name)

    def add(self, name: str) -> Channel:
        """Return a new channel, of which all before now is gone as far as anybody knows."""
        floor = self._floor_of(namespace_of(name))
        channel = Channel(self._next_id, name, floor, floor, self._retention.of(name))
        self._next_id += 1
        self._by_name[name] = self.by_id[channel.id] = channel
        return channel

    def discard(self, channel: Channel) -> None:
        """Take back `add`."""
        del self._by_name[channel.name], self.by_id[channel.id]

    def forget(self, channel: Channel) -> bool:
        """Remove a channel that nothing is kept of; its namespace keeps its floor.

        Return whether the floors of all namespaces have become one, as there were too many. That
        one is the highest, so that nothing missing goes untold.
        """
        namespace = namespace_of(channel.name)
        self._floors[namespace] = max(self._floor_of(namespace), channel.last)
        self.discard(channel)
        if len(self._floors) <= MAX_NAMESPACES:
            return False
        highest = max(self._floors.values())
        own = {name: floor for name, floor in self._floors.items() if name.startswith("$")}
        self._floors = {OTHERS: highest, **own}
        return True

    def covered(self, names: Iterable[str]) -> list[Channel]:
        """Return the channels that something may be kept of, out of channels and patterns."""
        if any(is_pattern(name) for name in names):
            return [
                channel
                for channel in self._by_name.values()
                if any(pattern_matches(name, channel.name) for name in names)
            ]
        found = (self._by_name.get(name) for name in dict.fromkeys(names))
        return [channel for channel in found if channel is not None]

    def floor(self, name: str) -> int:
        """Return the highest ``seq`` that retention removed of a channel or pattern."""
        if not is_pattern(name):
            channel = self._by_name.get(name)
            return self._floor_of(namespace_of(name)) if channel is None else channel.floor
        floors = [c.floor for c in self._by_name.values() if pattern_matches(name, c.name)]
        if name == "*":
            floors += [f for n, f in self._floors.items() if not n.startswith("$")]
        else:
            floors.append(self._floor_of(namespace_of(name)))
        return max(floors, default=0)

    def _floor_of(self, namespace: str) -> int:
        floor = self._floors.get(namespace)
        return self._floors.get(OTHERS, 0) if floor is None else floor
