"""The engine ``memory://``: rings in this process, gone with it.

Bounds: each channel keeps its last ``history_events``, none older than ``history_seconds``, or what
its namespace says, which can bound it in bytes, too. All channels together keep at most
``history_bytes``, and the oldest event of all goes first. A channel whose last kept event went is
forgotten; what is still known of it is its namespace's floor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import attrs
import trio

from triocast.clock import timestamp
from triocast.documents import Document
from triocast.engines.base import Documents, Engine, History, Outlet
from triocast.engines.debounce import Debounce
from triocast.engines.documents import DocumentTable, check_writes, cut
from triocast.engines.idempotency import Records, check_batch, fresh
from triocast.engines.retention import Keep, Retention
from triocast.engines.usage import Bounds, Usage
from triocast.events import (
    Accepted,
    Event,
    Pending,
    Position,
    Publication,
    is_connection_channel,
    is_pattern,
    namespace_of,
    pattern_matches,
)

EVENT_OVERHEAD: Final = 600
"""Bytes that a kept event costs beyond its data (measured: objects, ring, strings)."""

SHORT_NAMES: Final = 48
"""Characters of channel, type, key, user and tags that the overhead includes."""

MOST_NAMESPACES: Final = 1_000
"""Namespaces whose floors are kept apart; those of more become one."""

RETENTION_SECONDS: Final = 5.0
"""How often events' age is looked at."""

_CHANNELS_PER_TURN: Final = 1_000
_SLACK: Final = 1024


@attrs.define(eq=False)
class _Ring:
    """One channel's kept publications, oldest first."""

    floor: int
    last: int
    keep: Keep
    size: int = 0
    kept: deque[Publication] = attrs.field(factory=deque)


def _size(publication: Publication) -> int:
    event = publication.event
    size = len(event.data) + EVENT_OVERHEAD
    names = len(event.channel) + len(event.type)
    if event.key or event.user or event.tags:
        names += len(event.key or "") + len(event.user or "") + sum(map(len, event.tags))
    return size if names <= SHORT_NAMES else size + names - SHORT_NAMES


class MemoryEngine(Engine):
    """Order and history in memory; see the module's docstring for the bounds."""

    def __init__(
        self,
        *,
        epoch: str,
        history_events: int,
        history_bytes: int,
        history_seconds: float = 0,
        namespaces: Mapping[str, Keep] | None = None,
        idempotency_seconds: float = 86_400,
        debounce: Debounce | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self._head = Position(epoch, 0)
        self._retention = Retention(Keep(history_events, history_seconds), namespaces)
        self._history_bytes = history_bytes
        self._bounds = Bounds() if bounds is None else bounds
        self._records = Records(seconds=idempotency_seconds, bounds=self._bounds)
        self._debounce = Debounce() if debounce is None else debounce
        self._held_more = trio.Event()
        self._documents = DocumentTable()
        self._outlets: list[Outlet] = []
        self._rings: dict[str, _Ring] = {}
        self._namespace_floors: dict[str, int] = {}
        self._other_floor = 0
        self._highest_floor = 0
        # In the order they will be forgotten; those that their ring has dropped already stay in
        # it until they come up or are swept.
        self._order: deque[Publication] = deque()
        self._kept = 0
        self._bytes = 0

    @property
    def head(self) -> Position:
        return self._head

    @property
    def kept_bytes(self) -> int:
        """What history costs now, by `EVENT_OVERHEAD` and the events' data."""
        return self._bytes

    @property
    def merged(self) -> int:
        return self._debounce.merged

    @property
    def usage(self) -> Usage:
        history = Usage(events=self._kept, event_bytes=self._bytes)
        return history + self._documents.usage + self._records.usage

    def attach(self, outlet: Outlet) -> None:
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        self._outlets.remove(outlet)

    async def publish(self, events: Sequence[Event]) -> tuple[Accepted, ...]:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not events:
            return ()
        await self._wait_for_room()
        # From here on nothing blocks, so that no other publisher comes between.
        self._check(events)
        new: list[Publication] = []
        accepted = tuple(self._accept_once(event, new) for event in events)
        self._debounce.settle()
        self._spread(new)
        return accepted

    async def history(
        self,
        names: Sequence[str],
        *,
        after: int,
        limit: int,
        before: int | None = None,
        newest: bool = False,
    ) -> History:
        await trio.lowlevel.checkpoint()
        asked = dict.fromkeys(names)
        floors = {name: self._floor(name, after) for name in asked}
        below = self._head.seq + 1 if before is None else before
        # From the newest to the oldest.
        if any(is_pattern(name) for name in asked):
            found = self._covered(asked, after, below)
        else:
            found = [
                publication
                for name in asked
                for publication in self._kept_of(name, after)
                if publication.seq < below
            ]
            found.sort(key=lambda publication: publication.seq, reverse=True)
        complete = len(found) <= limit
        chosen = found if complete else found[:limit] if newest else found[len(found) - limit :]
        return History(tuple(reversed(chosen)), floors, self._head, complete)

    async def latest(
        self, names: Sequence[str], *, limit: int, limit_bytes: int
    ) -> tuple[Publication, ...] | None:
        await trio.lowlevel.checkpoint()
        found: dict[tuple[str, str | None], Publication] = {}
        size = 0
        for channel in self._channels(names):
            for publication in reversed(self._rings[channel].kept):
                if found.setdefault((channel, publication.event.key), publication) is publication:
                    size += len(publication.event.data)
            if len(found) > limit or size > limit_bytes:
                return None
        return tuple(sorted(found.values(), key=lambda publication: publication.seq))

    async def document(self, channel: str, key: str) -> Document | None:
        await trio.lowlevel.checkpoint()
        return self._documents.get(channel, key)

    async def documents(
        self,
        channel: str,
        *,
        after: str = "",
        limit: int,
        limit_bytes: int,
        counted: bool = False,
    ) -> Documents:
        await trio.lowlevel.checkpoint()
        count = self._documents.count(channel) if counted else None
        behind = self._documents.list(channel, after)
        chosen, complete = cut(behind, limit=limit, limit_bytes=limit_bytes)
        return Documents(chosen, self._head, self._documents.revision, complete, count)

    async def document_channels(self, prefix: str) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return self._documents.channels(prefix)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._release)
            nursery.start_soon(self._retain)

    async def _release(self) -> None:
        """Accept what was held back when its time has come."""
        while True:
            self._held_more = trio.Event()
            with trio.move_on_at(self._debounce.next_due):
                await self._held_more.wait()
                continue
            await self._wait_for_room()
            due = self._debounce.due(trio.current_time())
            self._debounce.settle()
            self._spread([self._accept(event) for event in due])

    async def _retain(self) -> None:
        while True:
            await trio.sleep(RETENTION_SECONDS)
            await self.trim()

    async def trim(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._retention.by_age:
            return
        for number, (channel, ring) in enumerate(list(self._rings.items())):
            if number % _CHANNELS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            if ring.keep.seconds and self._rings.get(channel) is ring:
                oldest = timestamp(seconds_ago=ring.keep.seconds)
                while ring.kept and ring.kept[0].event.timestamp < oldest:
                    self._drop_oldest(ring)
                if not ring.kept:
                    self._forget(channel, ring)

    async def forget(self, channels: Sequence[str]) -> int:
        await trio.lowlevel.checkpoint()
        removed = self._debounce.forget(channels)
        self._debounce.settle()
        for channel in channels:
            ring = self._rings.get(channel)
            if ring is not None:
                removed += len(ring.kept)
                while ring.kept:
                    self._drop_oldest(ring)
                self._forget(channel, ring)
        return removed

    def close(self) -> None:
        """Nothing to do: what is in memory goes with the process."""

    async def check_health(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _wait_for_room(self) -> None:
        # Again after each wait: meanwhile another outlet may have been filled.
        while (full := next((o for o in self._outlets if not o.has_room), None)) is not None:
            await full.wait_for_room()

    def _check(self, events: Sequence[Event]) -> None:
        """Raise what stands against accepting these events."""
        digests = self._records.digests(events)
        check_batch(events, digests)
        if any(event.write is not None for event in events):
            table = self._documents
            writers = fresh(events, digests)
            known = table.standings(writers)
            check_writes(writers, known, table.revision, table.usage, self._bounds)

    def _accept_once(self, event: Event, new: list[Publication]) -> Accepted:
        record = self._records.find(event)
        if record is not None:
            return record.answer(event)
        if event.write is not None:
            event = self._documents.write(event)
        if self._debounce.active:
            ready = self._debounce.add(event, trio.current_time())
            if not ready:
                self._records.add(event, 0, self._head.epoch)
                self._held_more.set()
                return Pending(event, self._head.epoch)
            new += [self._accept(overtaken) for overtaken in ready[:-1]]
        publication = self._accept(event)
        self._records.add(event, publication.seq, self._head.epoch)
        new.append(publication)
        return publication

    def _spread(self, publications: Sequence[Publication]) -> None:
        if publications:
            for outlet in self._outlets:
                outlet.put(publications)

    def _accept(self, event: Event) -> Publication:
        position = self._head = Position(self._head.epoch, self._head.seq + 1)
        if is_connection_channel(event.channel):
            return Publication(event, position, prev=0)
        ring = self._rings.get(event.channel)
        if ring is None:
            floor = self._floor_of(namespace_of(event.channel))
            keep = self._retention.of(event.channel)
            ring = self._rings[event.channel] = _Ring(floor=floor, last=floor, keep=keep)
        publication = Publication(event, position, prev=ring.last)
        ring.last = position.seq
        self._keep(ring, publication)
        return publication

    def _keep(self, ring: _Ring, publication: Publication) -> None:
        ring.kept.append(publication)
        self._order.append(publication)
        self._kept += 1
        size = _size(publication)
        self._bytes += size
        ring.size += size
        while len(ring.kept) > ring.keep.events or 0 < ring.keep.size < ring.size:
            self._drop_oldest(ring)
            if not ring.kept:
                self._forget(publication.event.channel, ring)
                break
        while self._bytes > self._history_bytes:
            oldest = self._order.popleft()
            channel = oldest.event.channel
            owner = self._rings.get(channel)
            if owner is not None and owner.kept and owner.kept[0] is oldest:
                self._drop_oldest(owner)
                if not owner.kept:
                    self._forget(channel, owner)
        if len(self._order) > 2 * self._kept + _SLACK:
            self._order = deque(filter(self._is_kept, self._order))

    def _drop_oldest(self, ring: _Ring) -> None:
        gone = ring.kept.popleft()
        ring.floor = gone.seq
        self._highest_floor = max(self._highest_floor, gone.seq)
        self._kept -= 1
        size = _size(gone)
        self._bytes -= size
        ring.size -= size

    def _forget(self, channel: str, ring: _Ring) -> None:
        namespace = namespace_of(channel)
        self._namespace_floors[namespace] = max(self._floor_of(namespace), ring.last)
        del self._rings[channel]
        if len(self._namespace_floors) > MOST_NAMESPACES:
            own = {n: floor for n, floor in self._namespace_floors.items() if n.startswith("$")}
            self._other_floor = max(self._namespace_floors.values())
            self._namespace_floors = own

    def _is_kept(self, publication: Publication) -> bool:
        ring = self._rings.get(publication.event.channel)
        return ring is not None and publication.seq > ring.floor

    def _kept_of(self, channel: str, after: int) -> Iterator[Publication]:
        """Yield what is kept of a channel after a ``seq``, newest first."""
        ring = self._rings.get(channel)
        for publication in reversed(ring.kept) if ring is not None else ():
            if publication.seq <= after:
                return
            yield publication

    def _covered(self, names: Collection[str], after: int, below: int) -> list[Publication]:
        """Return what is kept of channels and patterns after a ``seq``, newest first."""
        wanted: dict[str, bool] = {}
        found = []
        for publication in reversed(self._order):
            if publication.seq <= after:
                break
            channel = publication.event.channel
            covered = wanted.get(channel)
            if covered is None:
                covered = any(pattern_matches(name, channel) for name in names)
                wanted[channel] = covered
            if covered and publication.seq < below and self._is_kept(publication):
                found.append(publication)
        return found

    def _channels(self, names: Sequence[str]) -> list[str]:
        """Return the channels that something is kept of, out of channels and patterns."""
        if any(is_pattern(name) for name in names):
            return [c for c in self._rings if any(pattern_matches(name, c) for name in names)]
        return [name for name in dict.fromkeys(names) if name in self._rings]

    def _floor(self, name: str, after: int) -> int:
        if not is_pattern(name):
            ring = self._rings.get(name)
            return self._floor_of(namespace_of(name)) if ring is None else ring.floor
        if self._highest_floor <= after:
            return self._highest_floor
        rings = (
            ring.floor for channel, ring in self._rings.items() if pattern_matches(name, channel)
        )
        if name == "*":
            forgotten = [f for n, f in self._namespace_floors.items() if not n.startswith("$")]
            return max(*rings, *forgotten, self._other_floor, 0)
        return max(*rings, self._floor_of(namespace_of(name)), 0)

    def _floor_of(self, namespace: str) -> int:
        unheard = 0 if namespace.startswith("$") else self._other_floor
        return self._namespace_floors.get(namespace, unheard)
