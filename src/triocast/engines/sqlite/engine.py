"""`SQLiteEngine`: accepts events by group commit, and spreads them when they are kept.

One task writes: it takes all publishes that are ready, gives them their places, commits them in
one transaction, and only then fans them out and answers. In between it does retention, a little at
a time. Another task reads; see `Reader`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from triocast.documents import Document
from triocast.engines.base import Documents, Engine, History, Outlet, spread
from triocast.engines.debounce import Debounce
from triocast.engines.documents import place_of as document_of
from triocast.engines.idempotency import place_of
from triocast.engines.retention import Keep, Retention
from triocast.engines.sqlite import reading, store
from triocast.engines.sqlite.batch import Batch
from triocast.engines.sqlite.channels import Channels
from triocast.engines.sqlite.file import open_file
from triocast.engines.sqlite.reader import Reader
from triocast.engines.sqlite.reading import Damage, Range
from triocast.engines.sqlite.rows import CommitUnclear, DamagedRow
from triocast.engines.sqlite.store import Changes, Known
from triocast.engines.sqlite.trimming import Trimming
from triocast.engines.usage import Bounds, Usage
from triocast.engines.worker import Job, JobQueue, RunSync, Thread, fail_all
from triocast.errors import (
    InternalError,
    OutcomeUnknown,
    TriocastError,
    Unavailable,
)
from triocast.events import (
    Accepted,
    Event,
    Position,
    Publication,
)
from triocast.turns import Turns

log = logging.getLogger("triocast.sqlite")

EVENT_OVERHEAD: Final = 300
BATCH_BYTES: Final = 2_097_152
"""How much is committed together at the most."""

QUEUE_BYTES: Final = 16_777_216
"""How much may wait for its commit before publishers wait."""

RETRY_SECONDS: Final = 1.0
"""After this, what could not be kept when it was released is released again."""

RETENTION_SECONDS: Final = 5.0
"""How often age and the file's size are looked at."""

HEALTHY_SECONDS: Final = 1.0
"""How long a commit proves that the store accepts publishes."""

DISK_MARGIN_BYTES: Final = 1_048_576
"""How much of the disk has to be free, beyond what was refused, once a commit has failed."""

PROBE_SECONDS: Final = 2.0
"""How long a commit may take before the store counts as not healthy."""


class StoreFailed(Unavailable):
    """The store's file cannot be written or read now."""

    code = "store_failed"


@attrs.frozen
class _Publish:
    events: Sequence[Event]


_Outcome = tuple[Job[_Publish], Any]
"""A job, and what its caller is told: what was accepted, or a refusal."""

_PROBE: Final = _Publish(())
"""Changes nothing, and is committed all the same."""


class SQLiteEngine(Engine):
    """Order and history in a file; see the module's docstring.

    ``durable`` waits for the disk at each commit. ``history_seconds`` 0 keeps events of any age.
    ``run_sync`` makes the blocking calls; see `Thread`. Raises CannotOpen.
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
        debounce: Debounce | None = None,
        bounds: Bounds | None = None,
        durable: bool = True,
        run_sync: RunSync | None = None,
    ) -> None:
        self._file = open_file(path, durable=durable)
        retention = Retention(Keep(history_events, history_seconds), namespaces)
        self._idempotency_seconds = idempotency_seconds
        self._head = Position(self._file.epoch, self._file.seq)
        self._channels = Channels(
            store.load_channels(self._file.writer, retention),
            store.load_namespace_floors(self._file.writer),
            retention,
        )
        self._revision = store.load_revision(self._file.writer)
        self._usage = store.load_usage(self._file.writer)
        self._bounds = Bounds() if bounds is None else bounds
        self._debounce = Debounce() if debounce is None else debounce
        self._debounce.restore(store.load_held(self._file.writer))
        self._no_release_before = -math.inf
        self._outlets: list[Outlet] = []
        self._publishes: JobQueue[_Publish] = JobQueue(
            max_bytes=QUEUE_BYTES, batch_bytes=BATCH_BYTES
        )
        self._writing = Thread(run_sync)
        self._reading = Thread(run_sync)
        self._reads = Reader(self._file.readers, self._reading, explain=self._explain_read)
        self._writer_lock = trio.Lock()
        self._trimming = Trimming(
            self._file.writer,
            retention=retention,
            history_bytes=history_bytes,
            oldest_record=self._oldest_record,
            bounds=self._bounds,
            usage=lambda: self._usage,
            note_removed=self._note_removed,
            lock=self._writer_lock,
            thread=self._writing,
            channels=self._channels.by_id,
            forget=self._channels.forget,
        )
        self.damaged = 0
        """How many rows could not be read, since the start."""
        self._committed_at = -math.inf
        """When the last commit was kept, by trio's clock."""
        self._refused_bytes = 0
        """How much the last commit had that failed, if none has been kept since."""

    @property
    def head(self) -> Position:
        return self._head

    @property
    def merged(self) -> int:
        return self._debounce.merged

    @property
    def usage(self) -> Usage:
        return self._usage

    def _note_removed(self, less: Usage) -> None:
        self._usage += less

    def attach(self, outlet: Outlet) -> None:
        self._outlets.append(outlet)

    def detach(self, outlet: Outlet) -> None:
        self._outlets.remove(outlet)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._reads.run)
                nursery.start_soon(self._retain)
        finally:
            self._publishes.close("this server is going away")
            self._reads.close("this server is going away")

    def close(self) -> None:
        self._file.close()

    # Publishing.

    @property
    def has_room(self) -> bool:
        return self._publishes.has_room and all(outlet.has_room for outlet in self._outlets)

    async def publish(self, events: Sequence[Event]) -> tuple[Accepted, ...]:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not events:
            return ()
        size = sum(len(event.data) + EVENT_OVERHEAD for event in events)
        accepted: tuple[Accepted, ...] = await self._publishes.do(_Publish(events), size)
        return accepted

    async def _write(self) -> None:
        while True:
            # First what was held back when the engine ended; a failed release is tried again later.
            with trio.move_on_at(max(self._debounce.next_due, self._no_release_before)):
                await self._publishes.wait()
            # Again after each wait: meanwhile another outlet may have been filled.
            while (full := next((o for o in self._outlets if not o.has_room), None)) is not None:
                await full.wait_for_room()
            before = self._head.seq
            async with self._writer_lock:
                with self._publishes.batch() as jobs:
                    await self._commit(jobs)
            try:
                await self._trimming.keep_up(self._head.seq - before)
            except sqlite3.Error as error:
                self._failed(error)

    async def _commit(self, jobs: Sequence[Job[_Publish]]) -> None:
        """Do jobs in one commit, and give each its outcome.

        A fault of ours is contained as long as nothing is kept: only the job that has it fails.
        Raises what goes wrong after that, when jobs are told that they are done all the same.
        """
        try:
            done = await self._commit_together(jobs)
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    await self._commit([job])
                return
            log.error("an event could not be stored, by an error of ours", exc_info=error)
            fail_all(jobs, InternalError())
            return
        if done is None:
            return
        batch, outcomes = done
        try:
            self._kept(batch)
        finally:
            with trio.CancelScope(shield=True):
                await _answer(outcomes)

    async def _commit_together(
        self, jobs: Sequence[Job[_Publish]]
    ) -> tuple[Batch, list[_Outcome]] | None:
        """Do jobs in one commit; return what it kept and each job's outcome.

        None if the store failed, which jobs have been told. Raises what is no error of the store.
        Then nothing has been done, and no job has an outcome.
        """
        try:
            known = await self._look_up(jobs)
        except sqlite3.Error as error:
            fail_all(jobs, self._failed(error))
            return None
        batch = Batch(
            self._channels,
            self._debounce,
            known,
            head=self._head,
            bounds=self._bounds,
            records_at=self._file.ages.now() if self._idempotency_seconds > 0 else None,
            now=trio.current_time(),
        )
        outcomes: list[_Outcome] = []
        try:
            if trio.current_time() >= self._no_release_before:
                batch.release()
            turns = Turns()
            for job in jobs:
                await turns.give_if_over()
                try:
                    batch.check(job.work.events)
                except TriocastError as refusal:  # It concerns this job alone.
                    outcomes.append((job, refusal))
                    continue
                accepted = []
                for event in job.work.events:
                    await turns.give_if_over()
                    accepted.append(batch.accept(event))
                outcomes.append((job, tuple(accepted)))
            is_probe = any(job.work is _PROBE for job in jobs)
            if is_probe or not batch.is_empty:
                await self._writing.call(store.append, self._file.writer, batch.changes)
        except sqlite3.Error as error:
            batch.undo()
            self._no_release_before = trio.current_time() + RETRY_SECONDS
            self._refused_bytes = sum(job.size for job in jobs)
            # Also what was refused: it may have been for what has not been kept now.
            fail_all(jobs, self._failed(error))
            return None
        except BaseException:
            batch.undo()
            self._no_release_before = trio.current_time() + RETRY_SECONDS
            raise
        return batch, outcomes

    def _kept(self, batch: Batch) -> None:
        """Bring what is in memory to what a commit has kept, and spread its events."""
        self._committed_at = trio.current_time()
        if batch.publications:
            self._refused_bytes = 0
        for channel in batch.settle():
            self._trimming.note(channel)
        self._revision = batch.revision
        self._usage += batch.added
        if batch.publications:
            self._head = batch.publications[-1].position
            self._file.note_head(self._head.seq)
            spread(self._outlets, batch.publications)

    async def _look_up(self, jobs: Sequence[Job[_Publish]]) -> Known:
        """Return what the store has of the keys and documents that these jobs name."""
        known = Known(self._revision, self._usage)
        events = [event for job in jobs for event in job.work.events]
        places = [place_of(event.once) for event in events if event.once is not None]
        documents = [document_of(event) for event in events if event.write is not None]
        if places or documents:
            find = partial(store.find_known, oldest=self._oldest_record())
            await self._writing.call(find, self._file.writer, known, places, documents)
        return known

    def _oldest_record(self) -> float:
        """Return since when idempotency records are kept, by the store's `Ages`."""
        return self._file.ages.now() - self._idempotency_seconds

    def _failed(self, error: sqlite3.Error) -> TriocastError:
        """Note that the store failed; return what to tell those who asked something of it."""
        self._committed_at = -math.inf
        fault = f"the event store cannot be used: {error}"
        log.error("%s", fault)
        is_unclear = isinstance(error, CommitUnclear)
        return OutcomeUnknown.because(fault) if is_unclear else StoreFailed(fault)

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
        while True:
            found = await self._read_history(names, after, before, limit, newest)
            if found.complete or found.publications or not limit:
                return found
            # Retention removed the whole page while it was read; there is more behind it.

    async def _read_history(
        self, names: Sequence[str], after: int, before: int | None, limit: int, newest: bool
    ) -> History:
        # The moment that is answered for: what is accepted while it is read is left out.
        head = self._head
        below = head.seq + 1 if before is None else min(before, head.seq + 1)
        sources = self._channels.sources(names, after=after)
        publications: list[Publication] = []
        complete = True
        if sources:
            asked = Range(sources, after, below, limit, newest)
            publications, complete, damage = await self._reads.do(
                lambda db: reading.read(db, asked, head.epoch, self._channels.by_id)
            )
            self._note_damage(damage)
        # Looked at after the events, and raised before any is removed: so nothing goes unseen.
        # What was accepted and removed since is not missing.
        floors = {
            name: min(self._channels.floor(name, after), head.seq) for name in dict.fromkeys(names)
        }
        kept = tuple(p for p in publications if p.seq > self._channels.floor(p.event.channel))
        return History(kept, floors, head, complete)

    async def latest(
        self, names: Sequence[str], *, limit: int, limit_bytes: int
    ) -> tuple[Publication, ...] | None:
        await trio.lowlevel.checkpoint()
        groups = self._channels.groups(names)
        read = partial(reading.read_latest, limit=limit, limit_bytes=limit_bytes)
        epoch = self._head.epoch
        found, damage = await self._reads.do(lambda db: read(db, groups, epoch))
        self._note_damage(damage)
        return None if found is None else tuple(found)

    def _note_damage(self, damage: Damage) -> None:
        """Have those who miss an event that cannot be read be told so, as if it were removed."""
        for name, seq, why in damage:
            channel = self._channels.get(name)
            if channel is not None and channel.floor < seq:
                channel.raise_floor(seq)
                self.damaged += 1
                log.error("the event %d of %s cannot be read and is lost: %s", seq, name, why)

    async def document(self, channel: str, key: str) -> Document | None:
        await trio.lowlevel.checkpoint()
        found: Document | None = await self._reads.do(
            lambda db: reading.read_document(db, channel, key)
        )
        return found

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
        # Before the documents, which may be newer but not older.
        head, version = self._head, self._revision
        read = partial(
            reading.read_documents, limit=limit, limit_bytes=limit_bytes, counted=counted
        )
        (found, complete), count = await self._reads.do(lambda db: read(db, channel, after))
        return Documents(found, head, version, complete, count)

    async def document_channels(self, prefix: str) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        found: tuple[str, ...] = await self._reads.do(
            lambda db: reading.read_document_channels(db, prefix)
        )
        return found

    async def check_health(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._refused_bytes:
            # An empty commit may fit where what was refused does not.
            free = (await self._reading.call(shutil.disk_usage, self._file.path.parent)).free
            if free < self._refused_bytes + DISK_MARGIN_BYTES:
                raise StoreFailed(f"the disk is full: {free} bytes are free; make room on it")
        if trio.current_time() - self._committed_at < HEALTHY_SECONDS:
            return
        # Through the same queue and the same commit as a publish: nothing else is a proof.
        with trio.move_on_after(PROBE_SECONDS), contextlib.suppress(OutcomeUnknown):
            await self._publishes.do(_PROBE, 1, patience_seconds=PROBE_SECONDS)
            return
        raise StoreFailed(f"the event store takes more than {PROBE_SECONDS:g} s for a commit")

    def _explain_read(self, error: Exception) -> TriocastError:
        """Note what ended a read; return what to tell who asked for it."""
        if isinstance(error, sqlite3.Error):
            return StoreFailed(f"the event store cannot be read: {error}")
        if isinstance(error, DamagedRow):
            self.damaged += 1
            log.error("%s", error)
            return StoreFailed(str(error))
        log.error("a read failed by an error of ours", exc_info=error)
        return InternalError()

    # Retention.

    async def forget(self, channels: Sequence[str]) -> int:
        await trio.lowlevel.checkpoint()
        try:
            removed = await self._drop_held(channels)
        except sqlite3.Error as error:
            raise self._failed(error) from None
        for name in channels:
            channel = self._channels.get(name)
            if channel is not None:
                try:
                    removed += await self._trimming.remove(channel, channel.last)
                except sqlite3.Error as error:
                    raise self._failed(error) from None
        return removed

    async def _drop_held(self, channels: Sequence[str]) -> int:
        async with self._writer_lock:
            count = self._debounce.forget(channels)
            changes = Changes(self._head.seq, held=list(self._debounce.changes()))
            try:
                if changes.held:
                    await self._writing.call(store.append, self._file.writer, changes)
            except sqlite3.Error:
                self._debounce.undo()
                raise
            self._debounce.settle()
        return count

    async def trim(self) -> None:
        await self._trimming.trim()

    async def _retain(self) -> None:
        while True:
            try:
                await self._trimming.trim()
            except sqlite3.Error as error:
                self._failed(error)
            await trio.sleep(RETENTION_SECONDS)


async def _answer(outcomes: Sequence[_Outcome]) -> None:
    """Give jobs their outcomes. Others may run meanwhile."""
    turns = Turns()
    for job, outcome in outcomes:
        await turns.give_if_over()
        if isinstance(outcome, TriocastError):
            job.fail(outcome)
        else:
            job.finish(outcome)
