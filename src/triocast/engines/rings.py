"""What the memory engine keeps of channels, found at a cost of what is found.

Each channel has a ring of its events. All events together have an order, and so have those of each
namespace: a pattern is read from the narrowest of these, or, where it covers few channels, from
their rings. A channel whose last kept event went is forgotten; what is still known of it is its
namespace's floor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

import attrs

from triocast.engines.names import Names
from triocast.engines.order import SEQ, Order, Queue, merge
from triocast.engines.retention import Keep, Retention
from triocast.events import (
    Event,
    Position,
    Publication,
    is_pattern,
    is_whole,
    namespace_of,
    pattern_scope,
)

EVENT_OVERHEAD: Final = 600
"""Bytes that a kept event costs beyond its data (measured: objects, ring, strings)."""

SHORT_NAMES: Final = 48
"""Characters of channel, type, key, user and tags that the overhead includes."""

MOST_NAMESPACES: Final = 1_000
"""Namespaces whose floors are kept apart; those of more become one."""

MAX_SEEKS: Final = 256
"""A pattern of more channels than this is read from its namespace's order, not channel by channel.
"""

SKIPS_PER_PAUSE: Final = 32
"""So many events are passed over before a reader may let others run."""


@attrs.define(eq=False)
class Namespace:
    """The channels of a namespace that something is kept of, and their events in order.

    ``floor`` is the highest of its channels, those forgotten included while there are others.
    """

    order: Order
    names: Names = attrs.field(factory=Names)
    kept: int = 0
    floor: int = 0


@attrs.define(eq=False)
class Ring(Queue):
    """One channel's kept publications, and the newest of each key."""

    channel: str
    namespace: Namespace
    floor: int
    last: int
    keep: Keep
    size: int = 0
    _newest: Publication | None = None
    _newest_of_key: dict[str, Publication] | None = None

    def add(self, publication: Publication) -> None:
        self._items.append(publication)
        self.last = publication.position.seq
        key = publication.event.key
        if key is None:
            self._newest = publication
        elif self._newest_of_key is None:
            self._newest_of_key = {key: publication}
        else:
            self._newest_of_key[key] = publication

    def drop_oldest(self) -> Publication:
        gone = self.popleft()
        self.floor = gone.position.seq
        key = gone.event.key
        if key is None:
            if self._newest is gone:
                self._newest = None
        elif self._newest_of_key is not None and self._newest_of_key[key] is gone:
            del self._newest_of_key[key]
        return gone

    def newest(self) -> Collection[Publication]:
        """Return the newest publication of each key; those without a key count as one."""
        of_keys = self._newest_of_key.values() if self._newest_of_key else ()
        return of_keys if self._newest is None else (*of_keys, self._newest)


def size_of(publication: Publication) -> int:
    """Return how many bytes a kept event counts."""
    event = publication.event
    size = len(event.data) + EVENT_OVERHEAD
    names = len(event.channel) + len(event.type)
    if event.key or event.user or event.tags:
        names += len(event.key or "") + len(event.user or "") + sum(map(len, event.tags))
    return size if names <= SHORT_NAMES else size + names - SHORT_NAMES


class Rings:
    """The kept events of all channels."""

    def __init__(self, *, retention: Retention, max_bytes: int) -> None:
        self.count = 0
        self.bytes = 0
        self._retention = retention
        self._max_bytes = max_bytes
        self._rings: dict[str, Ring] = {}
        self._namespaces: dict[str, Namespace] = {}
        # In the order in which they will be forgotten.
        self._order = Order(self.is_kept)
        self._namespace_floors: dict[str, int] = {}
        self._other_floor = 0
        self._highest_floor = 0  # Of all channels but the server's own.

    def __len__(self) -> int:
        return len(self._rings)

    def get(self, channel: str) -> Ring | None:
        return self._rings.get(channel)

    def all(self) -> list[Ring]:
        return list(self._rings.values())

    def is_kept(self, publication: Publication) -> bool:
        ring = self._rings.get(publication.event.channel)
        return ring is not None and publication.position.seq > ring.floor

    # Adding and dropping.

    def add(self, event: Event, position: Position) -> Publication:
        """Keep an event; return it with the ``prev`` of its channel."""
        ring = self._rings.get(event.channel)
        if ring is None:
            ring = self._new_ring(event.channel)
        namespace = ring.namespace
        publication = Publication(event, position, ring.last)
        ring.add(publication)
        self.count += 1
        namespace.kept += 1
        self._order.append(publication, self.count)
        namespace.order.append(publication, namespace.kept)
        size = size_of(publication)
        self.bytes += size
        ring.size += size
        keep = ring.keep
        while len(ring) > keep.events or 0 < keep.size < ring.size:
            self.drop_oldest(ring)
        while self.bytes > self._max_bytes:
            oldest = self._order.popleft()
            owner = self._rings.get(oldest.event.channel)
            if owner is not None and owner.first is oldest:
                owner.namespace.order.trim(oldest.position.seq)
                self.drop_oldest(owner)
        return publication

    def drop_oldest(self, ring: Ring) -> None:
        """Drop the oldest event of a channel; forget the channel if that was its last."""
        gone = ring.drop_oldest()
        namespace, floor = ring.namespace, ring.floor
        if floor > namespace.floor:
            namespace.floor = floor
        if floor > self._highest_floor and ring.channel[0] != "$":
            self._highest_floor = floor
        size = size_of(gone)
        self.count -= 1
        self.bytes -= size
        namespace.kept -= 1
        ring.size -= size
        if not ring:
            self._forget(ring)

    def _new_ring(self, channel: str) -> Ring:
        name = namespace_of(channel)
        floor = self._floor_of(name)
        namespace = self._namespaces.get(name)
        if namespace is None:
            namespace = self._namespaces[name] = Namespace(Order(self.is_kept), floor=floor)
        namespace.names.add(channel)
        ring = Ring(channel, namespace, floor, floor, self._retention.of(channel))
        self._rings[channel] = ring
        return ring

    def _forget(self, ring: Ring) -> None:
        name = namespace_of(ring.channel)
        self._namespace_floors[name] = max(self._floor_of(name), ring.last)
        del self._rings[ring.channel]
        ring.namespace.names.remove(ring.channel)
        if not ring.namespace.names:
            del self._namespaces[name]
        if len(self._namespace_floors) > MOST_NAMESPACES:
            own = {n: floor for n, floor in self._namespace_floors.items() if n.startswith("$")}
            self._other_floor = max(self._namespace_floors.values())
            self._namespace_floors = own

    # Floors.

    def floor(self, name: str, after: int) -> int:
        """Return the floor of a channel or pattern, as `History` says."""
        if not is_pattern(name):
            ring = self._rings.get(name)
            return self._floor_of(namespace_of(name)) if ring is None else ring.floor
        scope, prefix = pattern_scope(name)
        if scope is None:
            return max(self._highest_floor, self._other_floor)
        forgotten = self._floor_of(scope)
        namespace = self._namespaces.get(scope)
        if namespace is None:
            return forgotten
        highest = max(namespace.floor, forgotten)
        if highest <= after or is_whole(scope, prefix):
            return highest
        rings = self._rings
        floors = (rings[channel].floor for channel in namespace.names.starting_with(prefix))
        return max(chain((forgotten,), floors))

    def _floor_of(self, namespace: str) -> int:
        unheard = 0 if namespace.startswith("$") else self._other_floor
        return self._namespace_floors.get(namespace, unheard)

    # Reading.

    def read(
        self, names: Iterable[str], *, after: int, before: int, newest: bool
    ) -> Iterator[Publication | None]:
        """Yield what is kept of channels and patterns between two ``seq``, in order, each once.

        None is yielded where others may run, which may also be after each publication. What is
        dropped meanwhile may be among what is yielded.
        """
        sources: list[Iterator[Publication | None]] = []
        for name in dict.fromkeys(names):
            if is_pattern(name):
                sources += self._sources(name, after, before, newest)
            elif (ring := self._rings.get(name)) is not None and ring.last > after:
                sources.append(_range(ring, after, before, newest))
        return merge(sources, SEQ, newest=newest)

    def _sources(
        self, pattern: str, after: int, before: int, newest: bool
    ) -> Sequence[Iterator[Publication | None]]:
        scope, prefix = pattern_scope(pattern)
        if scope is None:
            return [self._chosen(_range(self._order, after, before, newest), "")]
        namespace = self._namespaces.get(scope)
        if namespace is None:
            return ()
        if not is_whole(scope, prefix):
            few = list(islice(namespace.names.starting_with(prefix), MAX_SEEKS + 1))
            if len(few) <= MAX_SEEKS:
                rings = [self._rings[channel] for channel in few]
                return [_range(r, after, before, newest) for r in rings if r.last > after]
        return [self._chosen(_range(namespace.order, after, before, newest), prefix)]

    def _chosen(
        self, publications: Iterator[Publication], prefix: str
    ) -> Iterator[Publication | None]:
        """Yield those of channels with a prefix that are not gone."""
        rings, skipped = self._rings, 0
        for publication in publications:
            channel = publication.event.channel
            if channel.startswith(prefix) and (prefix or channel[0] != "$"):
                ring = rings.get(channel)
                if ring is not None and publication.position.seq > ring.floor:
                    yield publication
                    continue
            skipped += 1
            if skipped % SKIPS_PER_PAUSE == 0:
                yield None

    def covered(self, names: Iterable[str]) -> Iterator[Ring]:
        """Yield the channels that something is kept of, out of channels and patterns, each once."""
        seen: set[str] = set()
        for channel in chain.from_iterable(map(self._channels, dict.fromkeys(names))):
            if channel not in seen:
                seen.add(channel)
                yield self._rings[channel]

    def _channels(self, name: str) -> Iterable[str]:
        if not is_pattern(name):
            return (name,) if name in self._rings else ()
        scope, prefix = pattern_scope(name)
        if scope is None:
            others = (space.names for n, space in self._namespaces.items() if n[0] != "$")
            return chain.from_iterable(names.starting_with("") for names in others)
        namespace = self._namespaces.get(scope)
        return () if namespace is None else namespace.names.starting_with(prefix)


def _range(kept: Queue | Order, after: int, before: int, newest: bool) -> Iterator[Publication]:
    if newest:
        for publication in kept.backward(before):
            if publication.position.seq <= after:
                return
            yield publication
    else:
        for publication in kept.forward(after):
            if publication.position.seq >= before:
                return
            yield publication
