"""`SQLiteEngine`: accepts events by group commit, and spreads them when they are kept.

One task writes: it takes all publishes that are ready, gives them their places, commits them in
one transaction, and only then fans them out and answers. In between it does retention, a little at
a time. Another task reads, all that is asked for in one go.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from triocast.engines.base import Engine, History, Outlet
from triocast.engines.idempotency import Place, check_batch, place_of
from triocast.engines.retention import Keep, Retention
from triocast.engines.sqlite import store
from triocast.engines.sqlite.file import open_file
from triocast.engines.sqlite.store import Channel, Range
from triocast.engines.sqlite.trimming import Trimming
from triocast.engines.worker import Desk, finish, in_thread
from triocast.errors import IdempotencyConflict, Unavailable
from triocast.events import (
    Event,
    Position,
    Publication,
    is_connection_channel,
    is_pattern,
    namespace_of,
    pattern_matches,
)

log = logging.getLogger("triocast.sqlite")

EVENT_OVERHEAD: Final = 300
BATCH_BYTES: Final = 2_097_152
"""How much is committed together at the most."""

QUEUE_BYTES: Final = 16_777_216
"""How much may wait for its commit before publishers wait."""

READS_PER_TURN: Final = 64
RETENTION_SECONDS: Final = 5.0
"""How often age and the file's size are looked at."""


class StoreFailed(Unavailable):
    """The store's file cannot be written or read now."""

    code = "store_failed"


@attrs.frozen
class _Publish:
    events: Sequence[Event]


class SQLiteEngine(Engine):
    """Order and history in a file; see the module's docstring.

    ``durable`` waits for the disk at each commit. ``history_seconds`` 0 keeps events of any age.
    Raises CannotOpen.
    """

    most_together = 512  # A commit costs as much for one as for many.

    def __init__(
        self,
        path: Path,
        *,
        history_events: int,
        history_bytes: int,
        history_seconds: float = 0,
        namespaces: Mapping[str, Keep] | None = None,
        idempotency_seconds: float = 86_400,
        durable: bool = True,
    ) -> None:
        self._file = open_file(path, durable=durable)
        self._retention = Retention(Keep(history_events, history_seconds), namespaces)
        self._idempotency_seconds = idempotency_seconds
        self._head = Position(self._file.epoch, self._file.seq)
        self._channels: dict[str, Channel] = {}
        self._names: dict[int, Channel] = {}
        for channel in store.load_channels(self._file.writer, self._retention):
            self._channels[channel.name] = self._names[channel.id] = channel
        self._namespace_floors = store.load_namespace_floors(self._file.writer)
        self._next_id = max(self._names, default=0) + 1
        self._outlets: list[Outlet] = []
        self._publishes: Desk[_Publish] = Desk(most_bytes=QUEUE_BYTES, batch_bytes=BATCH_BYTES)
        self._reads: Desk[Any] = Desk(most_bytes=100_000, batch_bytes=READS_PER_TURN)
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)
        self._writer_lock = trio.Lock()
        self._trimming = Trimming(
            self._file.writer,
            retention=self._retention,
            history_bytes=history_bytes,
            idempotency_seconds=idempotency_seconds,
            lock=self._writer_lock,
            limiter=self._writing,
            channels=self._names,
            forget=self._forget_channel,
        )
        self._fault: str | None = None

    @property
    def head(self) -> Position:
        return self._head

    def attach(self, outlet: Outlet) -> None:
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        self._outlets.remove(outlet)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._read)
                nursery.start_soon(self._retain)
        finally:
            self._publishes.close("this server is going away")
            self._reads.close("this server is going away")

    def close(self) -> None:
        self._file.close()

    # Publishing.

    async def publish(self, events: Sequence[Event]) -> tuple[Publication, ...]:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not events:
            return ()
        size = sum(len(event.data) + EVENT_OVERHEAD for event in events)
        publications: tuple[Publication, ...] = await self._publishes.do(_Publish(events), size)
        return publications

    async def _write(self) -> None:
        while True:
            await self._publishes.wait()
            # Again after each wait: meanwhile another outlet may have been filled.
            while (full := next((o for o in self._outlets if not o.has_room), None)) is not None:
                await full.wait_for_room()
            before = self._head.seq
            async with self._writer_lock:
                orders = self._publishes.take()
                if orders:
                    await self._commit(orders)
            size = sum(order.size for order in orders)
            try:
                await self._trimming.keep_up(self._head.seq - before, size)
            except sqlite3.Error as error:
                self._failed(error)

    async def _commit(self, orders: Sequence[Any]) -> None:
        head = self._head
        before: dict[str, tuple[int, int]] = {}
        new: list[Channel] = []
        seq = head.seq
        rows: list[store.Row] = []
        new_records: list[store.Row] = []
        new_publications: list[Publication] = []
        results: list[tuple[Publication, ...]] = []
        try:
            records = await self._find_records(orders)
        except sqlite3.Error as error:
            finish(orders, error=self._failed(error))
            return
        orders = self._refuse_conflicts(orders, records)
        for order in orders:
            publications = []
            for event in order.job.events:
                if event.once is not None:
                    known = records.get(place_of(event.once))
                    if known is not None:
                        position = Position(head.epoch, known[1])
                        publications.append(Publication(event, position, prev=0))
                        continue
                    if self._idempotency_seconds:
                        records[place_of(event.once)] = (event.once.digest, seq + 1)
                        new_records.append(store.record_of(event.once, seq + 1))
                seq += 1
                position = Position(head.epoch, seq)
                if is_connection_channel(event.channel):
                    publications.append(Publication(event, position, prev=0))
                    new_publications.append(publications[-1])
                    continue
                channel = self._channels.get(event.channel)
                if channel is None:
                    channel = self._add_channel(event.channel)
                    new.append(channel)
                before.setdefault(event.channel, (channel.last, channel.count))
                publication = Publication(event, position, prev=channel.last)
                channel.last = seq
                channel.count += 1
                publications.append(publication)
                new_publications.append(publication)
                rows.append(store.row_of(publication, channel.id))
            results.append(tuple(publications))
        if not new_publications:
            finish(orders, results)
            return
        try:
            append = partial(store.append, self._file.writer, rows, new, seq, new_records)
            await in_thread(self._writing, append)
        except sqlite3.Error as error:
            for name, (last, count) in before.items():
                self._channels[name].last, self._channels[name].count = last, count
            for channel in new:
                del self._channels[channel.name], self._names[channel.id]
            finish(orders, error=self._failed(error))
            return
        self._fault = None
        self._head = Position(head.epoch, seq)
        self._file.note_head(seq)
        for name in before:
            self._trimming.note(self._channels[name])
        for outlet in self._outlets:
            outlet.put(new_publications)
        finish(orders, results)

    async def _find_records(self, orders: Sequence[Any]) -> dict[Place, tuple[bytes, int]]:
        """Return what was published before under the keys of these orders."""
        places = [
            place_of(event.once)
            for order in orders
            for event in order.job.events
            if event.once is not None
        ]
        if not places:
            return {}
        find = partial(
            store.find_records, self._file.writer, places, seconds=self._idempotency_seconds
        )
        found: dict[Place, tuple[bytes, int]] = await in_thread(self._writing, find)
        return found

    @staticmethod
    def _refuse_conflicts(
        orders: Sequence[Any], records: dict[Place, tuple[bytes, int]]
    ) -> Sequence[Any]:
        """Refuse orders whose keys were used for something else; return the others."""
        digests = {place: digest for place, (digest, _) in records.items()}
        sound = []
        for order in orders:
            try:
                digests |= check_batch(order.job.events, digests)
            except IdempotencyConflict as conflict:
                finish([order], error=conflict)
            else:
                sound.append(order)
        return sound

    def _add_channel(self, name: str) -> Channel:
        floor = self._floor_of(namespace_of(name))
        channel = Channel(self._next_id, name, floor, floor, self._retention.of(name))
        self._next_id += 1
        self._channels[name] = self._names[channel.id] = channel
        return channel

    def _failed(self, error: sqlite3.Error) -> StoreFailed:
        self._fault = f"the event store cannot be used: {error}"
        log.error("%s", self._fault)
        return StoreFailed(self._fault)

    # Reading.

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
        channels = [
            (channel.id, channel.name) for channel in self._of(names) if channel.last > after
        ]
        below = 2**62 if before is None else before
        asked = Range(channels, after, below, limit, newest)
        publications: list[Publication] = []
        complete = True
        if channels:
            job = partial(store.read, self._file.reader, asked, self._head.epoch)
            publications, complete = await self._reads.do(job, 1)
        # Looked at after the events, and raised before any is removed: so nothing goes unseen.
        floors = {name: self._floor(name) for name in dict.fromkeys(names)}
        kept = tuple(p for p in publications if p.seq > self._floor(p.event.channel))
        return History(kept, floors, self._head, complete)

    async def latest(
        self, names: Sequence[str], *, limit: int, limit_bytes: int
    ) -> tuple[Publication, ...] | None:
        await trio.lowlevel.checkpoint()
        channels = [(channel.id, channel.name) for channel in self._of(names)]
        if not channels:
            return ()
        job = partial(
            store.read_latest,
            self._file.reader,
            channels,
            self._head.epoch,
            limit=limit,
            limit_bytes=limit_bytes,
        )
        found: list[Publication] | None = await self._reads.do(job, 1)
        return None if found is None else tuple(found)

    async def check_health(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._fault is None:
            return
        async with self._writer_lock:
            probe = partial(store.append, self._file.writer, (), (), self._head.seq)
            try:
                await in_thread(self._writing, probe)
            except sqlite3.Error as error:
                raise self._failed(error) from None
        self._fault = None

    async def _read(self) -> None:
        while True:
            await self._reads.wait()
            orders = self._reads.take()
            jobs = [order.job for order in orders]
            for order, outcome in zip(
                orders, await in_thread(self._reading, _do_all, jobs), strict=True
            ):
                if isinstance(outcome, sqlite3.Error):
                    finish([order], error=StoreFailed(f"the event store cannot be read: {outcome}"))
                else:
                    finish([order], [outcome])

    def _of(self, names: Iterable[str]) -> list[Channel]:
        """Return the channels that something may be kept of, out of channels and patterns."""
        if any(is_pattern(name) for name in names):
            return [
                channel
                for channel in self._channels.values()
                if any(pattern_matches(name, channel.name) for name in names)
            ]
        found = (self._channels.get(name) for name in dict.fromkeys(names))
        return [channel for channel in found if channel is not None]

    def _floor(self, name: str) -> int:
        if not is_pattern(name):
            channel = self._channels.get(name)
            return self._floor_of(namespace_of(name)) if channel is None else channel.floor
        floors = [c.floor for c in self._channels.values() if pattern_matches(name, c.name)]
        if name == "*":
            floors += [f for n, f in self._namespace_floors.items() if not n.startswith("$")]
        else:
            floors.append(self._floor_of(namespace_of(name)))
        return max(floors, default=0)

    def _floor_of(self, namespace: str) -> int:
        return self._namespace_floors.get(namespace, 0)

    # Retention.

    async def forget(self, channels: Sequence[str]) -> int:
        await trio.lowlevel.checkpoint()
        removed = 0
        for name in channels:
            channel = self._channels.get(name)
            if channel is not None:
                try:
                    removed += await self._trimming.remove(channel, channel.last)
                except sqlite3.Error as error:
                    raise self._failed(error) from None
        return removed

    async def trim(self) -> None:
        await self._trimming.trim()

    async def _retain(self) -> None:
        while True:
            try:
                await self._trimming.trim()
            except sqlite3.Error as error:
                self._failed(error)
            await trio.sleep(RETENTION_SECONDS)

    def _forget_channel(self, channel: Channel) -> None:
        namespace = namespace_of(channel.name)
        self._namespace_floors[namespace] = max(self._floor_of(namespace), channel.last)
        del self._channels[channel.name], self._names[channel.id]


def _do_all(jobs: Sequence[Any]) -> list[Any]:
    """Do reads; a failed one is its error. Runs in the reading thread."""
    outcomes: list[Any] = []
    for job in jobs:
        try:
            outcomes.append(job())
        except sqlite3.Error as error:
            outcomes.append(error)
    return outcomes
