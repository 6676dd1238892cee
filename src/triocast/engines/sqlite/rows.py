"""How events stand in a store's tables, and transactions on them."""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import Any, Final

import attrs

from triocast.engines.retention import Keep
from triocast.events import Event, Position, Publication

ROW_OVERHEAD: Final = 300
"""Bytes that a kept event counts beyond its data."""

COLUMNS: Final = (
    "e.seq, e.prev, e.type, e.timestamp, e.key, e.tags, e.user, e.exclude, e.data, e.version"
)

Row = tuple[Any, ...]


class Peak:
    """The highest floor of some channels. Floors are raised in several threads."""

    __slots__ = ("_lock", "floor")

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self._lock = threading.Lock()

    def raise_to(self, floor: int) -> None:
        if floor > self.floor:
            with self._lock:
                self.floor = max(self.floor, floor)


@attrs.define(eq=False)
class Channel:
    """What is known of a channel that something is kept of.

    ``count`` and ``size``, in bytes, are of its kept events; sizes are known only where retention
    asks for them. ``namespace`` is the number that its namespace has in this store. ``peaks`` are
    of groups of channels that this one is in.
    """

    id: int
    name: str
    floor: int
    last: int
    keep: Keep
    count: int = 0
    size: int = 0
    namespace: int = 0
    peaks: tuple[Peak, ...] = ()

    def raise_floor(self, seq: int) -> None:
        """Note that nothing up to a ``seq`` can be read any more."""
        self.floor = max(self.floor, seq)
        for peak in self.peaks:
            peak.raise_to(seq)

    @property
    def is_full(self) -> bool:
        """Whether it has more than is to be kept of it."""
        return self.count > self.keep.events or (0 < self.keep.size < self.size)


def row_of(publication: Publication, channel: int, namespace: int) -> Row:
    """Return an event as its table has it."""
    fields = fields_of(publication.event)
    return (publication.seq, channel, publication.prev, *fields, namespace)


def fields_of(event: Event) -> Row:
    """Return what tables of events and of held events have alike."""
    tags = json.dumps(event.tags) if event.tags else None
    return (
        event.type, event.timestamp, event.key, tags, event.user, event.exclude, event.data,
        event.version,
    )  # fmt: skip


class DamagedRow(ValueError):
    """A row that was not written by us, or not as it is now."""


def event_of(channel: str, fields: Row) -> Event:
    """Return the event that `fields_of` was made of. Raises DamagedRow."""
    type, timestamp, key, tags, user, exclude, data, version = fields
    texts = (type, timestamp, *(each for each in (key, tags, user, exclude) if each is not None))
    if not (
        isinstance(data, bytes)
        and all(isinstance(each, str) for each in texts)
        and isinstance(version, int | None)
    ):
        raise DamagedRow("a column has a value of another type, or a text that is not UTF-8")
    try:
        labels = tuple(json.loads(tags)) if tags else ()
    except (ValueError, TypeError) as error:
        raise DamagedRow(f"the tags cannot be read: {error}") from None
    return Event(
        type=type,
        data=data,
        channel=channel,
        timestamp=timestamp,
        key=key,
        tags=labels,
        user=user,
        exclude=exclude,
        version=version,
    )


def publication_of(row: Row, channel: str, epoch: str) -> Publication:
    """Return what `COLUMNS` say of an event of a channel."""
    return Publication(event_of(channel, row[2:10]), Position(epoch, row[0]), row[1])


class CommitUnclear(sqlite3.OperationalError):
    """The disk failed during a commit: after a crash the transaction may turn out to be kept."""


class Transaction:
    """All or nothing; nothing where the block raises. Raises CommitUnclear where that is unsure."""

    def __init__(self, db: sqlite3.Connection, kind: str = "IMMEDIATE") -> None:
        self._db = db
        self._kind = kind

    def __enter__(self) -> None:
        self._db.execute(f"BEGIN {self._kind}")

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.Error as error:
                self._roll_back()
                if getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR"):
                    raise CommitUnclear(str(error)) from error
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite itself rolls back after some errors.
            self._db.execute("ROLLBACK")
