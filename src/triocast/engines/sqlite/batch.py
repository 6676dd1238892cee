"""What one commit does, worked out before it is written."""

from __future__ import annotations

from collections.abc import Sequence

from triocast.documents import Document
from triocast.engines.debounce import Debounce
from triocast.engines.documents import (
    NOTHING,
    Standing,
    apply_write,
    check_writes,
    is_counted,
)
from triocast.engines.documents import place_of as document_of
from triocast.engines.documents import size_of as document_size
from triocast.engines.idempotency import Record, check_batch, fresh, place_of
from triocast.engines.idempotency import size_of as record_size
from triocast.engines.sqlite.channels import Channels
from triocast.engines.sqlite.rows import ROW_OVERHEAD, Channel, Row, row_of
from triocast.engines.sqlite.store import Changes, Known, record_of
from triocast.engines.usage import Bounds, Usage
from triocast.events import Accepted, Event, Pending, Position, Publication, is_connection_channel


class Batch:
    """Events that are accepted together.

    Changes what is in memory as it goes; `undo` takes that back if the commit fails. ``known`` is
    what the store has under the events' idempotency keys and of the documents that they write.
    ``records_at`` is when it happens by the store's `Ages`; None keeps no records of keys.
    """

    def __init__(
        self,
        channels: Channels,
        debounce: Debounce,
        known: Known,
        *,
        head: Position,
        bounds: Bounds,
        records_at: float | None,
        now: float,
    ) -> None:
        self.publications: list[Publication] = []
        """What gets its place in this commit, in order."""
        self.seq = head.seq
        self.revision = known.revision
        self._added = Usage()
        self._row_bytes = 0
        self._channels = channels
        self._debounce = debounce
        self._known = known
        self._epoch = head.epoch
        self._bounds = bounds
        self._records_at = records_at
        self._now = now
        self._before: dict[str, tuple[int, int, int]] = {}
        self._new: list[Channel] = []
        self._rows: list[Row] = []
        self._records: list[Row] = []
        self._documents: dict[tuple[str, str], Document | None] = {}

    def check(self, events: Sequence[Event]) -> None:
        """Raise what stands against accepting all of these events, which comes next."""
        records = self._known.records
        places = (place_of(event.once) for event in events if event.once is not None)
        # Of these events alone: thousands of requests may share a commit.
        digests = {place: records[place].digest for place in places if place in records}
        check_batch(events, digests)
        if any(event.write is not None for event in events):
            usage = self._known.usage + self.added
            known = self._known.documents
            check_writes(fresh(events, digests), known, self.revision, usage, self._bounds)

    def accept(self, event: Event) -> Accepted:
        """Accept an event that has been checked; return what becomes of it."""
        if event.once is not None:
            record = self._known.records.get(place_of(event.once))
            if record is not None:
                return record.answer(event)
        if event.write is not None:
            event = self._write(event)
        ready = self._debounce.add(event, self._now) if self._debounce.active else (event,)
        accepted: Accepted = Pending(event, self._epoch)
        for each in ready:
            accepted = self._place(each)
        if event.once is not None and self._records_at is not None:
            seq = accepted.seq if isinstance(accepted, Publication) else 0
            place = place_of(event.once)
            record = self._known.records[place] = Record.of(event, seq, self._epoch)
            self._records.append(record_of(event.once, record, self._records_at))
            if place not in self._known.expired:  # Else it takes the place of one.
                self._added += Usage(records=1, record_bytes=record_size(place))
        return accepted

    def release(self) -> None:
        """Accept what was held back and is due."""
        for event in self._debounce.due(self._now):
            self._place(event)

    @property
    def added(self) -> Usage:
        """How much more of each kind there is when it is kept."""
        return self._added + Usage(events=len(self._rows), event_bytes=self._row_bytes)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to be kept: all that was published was known."""
        return not self.publications and not any(self._debounce.changes())

    @property
    def changes(self) -> Changes:
        """What is to be written."""
        return Changes(
            seq=self.seq,
            rows=self._rows,
            channels=self._new,
            records=self._records,
            revision=self.revision,
            documents=self._documents,
            held=list(self._debounce.changes()),
            usage=self.added,
        )

    def settle(self) -> list[Channel]:
        """Be told that it is kept; return the channels that have got more events."""
        self._debounce.settle()
        found = [self._channels.get(name) for name in self._before]
        return [channel for channel in found if channel is not None]

    def undo(self) -> None:
        """Be told that nothing of it could be kept."""
        self._debounce.undo()
        for channel in self._new:
            self._channels.discard(channel)
        for name, (last, count, size) in self._before.items():
            old = self._channels.get(name)
            if old is not None:
                old.last, old.count, old.size = last, count, size

    def _place(self, event: Event) -> Publication:
        self.seq += 1
        position = Position(self._epoch, self.seq)
        if is_connection_channel(event.channel):
            publication = Publication(event, position, prev=0)
        else:
            channel = self._channels.get(event.channel)
            if channel is None:
                channel = self._channels.add(event.channel)
                self._new.append(channel)
            self._before.setdefault(event.channel, (channel.last, channel.count, channel.size))
            publication = Publication(event, position, prev=channel.last)
            channel.last = self.seq
            channel.count += 1
            size = len(event.data) + ROW_OVERHEAD
            channel.size += size
            self._row_bytes += size
            self._rows.append(row_of(publication, channel.id, channel.namespace))
        self.publications.append(publication)
        return publication

    def _write(self, event: Event) -> Event:
        self.revision += 1
        event, document = apply_write(event, self.revision)
        place = document_of(event)
        before = self._known.documents.get(place, NOTHING)
        after = NOTHING
        if document is not None:
            after = Standing(document.version, document_size(place, len(document.data)))
        if is_counted(event.channel):
            count = bool(after.version) - bool(before.version)
            self._added += Usage(documents=count, document_bytes=after.size - before.size)
        self._known.documents[place] = after
        self._documents[place] = document
        return event
