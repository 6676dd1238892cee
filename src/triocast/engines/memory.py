"""The engine ``memory://``: rings in this process, gone with it.

Bounds: each channel keeps its last ``history_events``, none older than ``history_seconds``, or what
its namespace says, which can bound it in bytes, too. All channels together keep at most
``history_bytes``, and the oldest event of all goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import trio

from triocast.clock import timestamp
from triocast.documents import Document
from triocast.engines.base import Documents, Engine, History, Outlet, spread
from triocast.engines.debounce import Debounce
from triocast.engines.documents import DocumentTable, check_writes, cut
from triocast.engines.idempotency import Records, check_batch, fresh
from triocast.engines.order import SEQ
from triocast.engines.retention import Keep, Retention
from triocast.engines.rings import Rings
from triocast.engines.usage import Bounds, Usage
from triocast.events import (
    Accepted,
    Event,
    Pending,
    Position,
    Publication,
    is_connection_channel,
)
from triocast.turns import Turns, in_turns

RETENTION_SECONDS: Final = 5.0
"""How often events' age is looked at."""

_EVENTS_PER_LOOK: Final = 32
"""So many events are read between two looks at the clock."""

_RECORDS_PER_LOOK: Final = 100
"""So many idempotency records go between two looks at the clock."""


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
        self._rings = Rings(retention=self._retention, max_bytes=history_bytes)
        self._bounds = Bounds() if bounds is None else bounds
        self._records = Records(seconds=idempotency_seconds, bounds=self._bounds)
        self._debounce = Debounce() if debounce is None else debounce
        self._held_more = trio.Event()
        self._documents = DocumentTable()
        self._outlets: list[Outlet] = []
        self._fault: Exception | None = None
        self._faulty = trio.Event()

    @property
    def head(self) -> Position:
        return self._head

    @property
    def kept_bytes(self) -> int:
        """What history costs now, by `rings.EVENT_OVERHEAD` and the events' data."""
        return self._rings.bytes

    @property
    def merged(self) -> int:
        return self._debounce.merged

    @property
    def usage(self) -> Usage:
        history = Usage(events=self._rings.count, event_bytes=self._rings.bytes)
        return history + self._documents.usage + self._records.usage

    def attach(self, outlet: Outlet) -> None:
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        self._outlets.remove(outlet)

    @property
    def has_room(self) -> bool:
        return all(outlet.has_room for outlet in self._outlets)

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
        # The moment that is answered for: what is accepted while others run is left out.
        head = self._head
        below = head.seq + 1 if before is None else min(before, head.seq + 1)
        while True:
            found, complete = await self._read(names, after, below, limit, newest)
            # Looked at after the events: what was dropped meanwhile is told of.
            floors = {
                name: min(self._rings.floor(name, after), head.seq) for name in dict.fromkeys(names)
            }
            kept = tuple(filter(self._rings.is_kept, found))
            if complete or kept or not limit:
                return History(kept[::-1] if newest else kept, floors, head, complete)

    async def _read(
        self, names: Sequence[str], after: int, before: int, limit: int, newest: bool
    ) -> tuple[list[Publication], bool]:
        """Return publications as they are read, and whether that is all. Others may run."""
        turns = Turns()
        found: list[Publication] = []
        for item in self._rings.read(names, after=after, before=before, newest=newest):
            if item is None:
                await turns.give_if_over()
                continue
            if len(found) == limit:
                return found, False
            found.append(item)
            if len(found) % _EVENTS_PER_LOOK == 0:
                await turns.give_if_over()
        return found, True

    async def latest(
        self, names: Sequence[str], *, limit: int, limit_bytes: int
    ) -> tuple[Publication, ...] | None:
        await trio.lowlevel.checkpoint()
        turns = Turns()
        found: list[Publication] = []
        size = 0
        # In one step, which the limit bounds: so it is of one moment.
        for ring in self._rings.covered(names):
            newest = ring.newest()
            found += newest
            size += sum(len(publication.event.data) for publication in newest)
            if len(found) > limit or size > limit_bytes:
                return None
        await turns.give_if_over()
        found.sort(key=SEQ)
        await turns.give_if_over()
        return tuple(found)

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
        channels = self._documents.channels(prefix)
        return tuple([channel async for channel in in_turns(channels)])

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._release)
            nursery.start_soon(self._retain)
            await self._faulty.wait()
            assert self._fault is not None
            raise self._fault

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
        turns = Turns()
        while self._records.forget_old(at_most=_RECORDS_PER_LOOK):
            await turns.give_if_over()
        if not self._retention.by_age:
            return
        for ring in self._rings.all():
            if ring.keep.seconds:
                oldest = timestamp(seconds_ago=ring.keep.seconds)
                while ring and ring.first.event.timestamp < oldest:
                    self._rings.drop_oldest(ring)
                    await turns.give_if_over()
            await turns.give_if_over()

    async def forget(self, channels: Sequence[str]) -> int:
        await trio.lowlevel.checkpoint()
        removed = self._debounce.forget(channels)
        self._debounce.settle()
        rings = [ring for ring in map(self._rings.get, channels) if ring is not None]
        turns = Turns()
        for ring, last in [(ring, ring.last) for ring in rings]:
            while ring and SEQ(ring.first) <= last:
                self._rings.drop_oldest(ring)
                removed += 1
                await turns.give_if_over()
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
            try:
                spread(self._outlets, publications)
            except Exception as error:  # noqa: BLE001  # `run` raises it
                # Whoever published is told that it is done, as it is.
                self._fault = error
                self._faulty.set()

    def _accept(self, event: Event) -> Publication:
        position = self._head = Position(self._head.epoch, self._head.seq + 1)
        if is_connection_channel(event.channel):
            return Publication(event, position, prev=0)
        return self._rings.add(event, position)
