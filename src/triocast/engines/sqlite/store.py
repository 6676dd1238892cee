"""Writing to a store, and what is read for that. Each function is one transaction, blocks, and
raises sqlite3.Error.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from triocast.documents import Document
from triocast.engines.debounce import Change
from triocast.engines.documents import Place as DocumentPlace
from triocast.engines.idempotency import Place, Record
from triocast.engines.retention import Retention
from triocast.engines.sqlite.rows import (
    ROW_OVERHEAD,
    Channel,
    Row,
    Transaction,
    event_of,
    fields_of,
)
from triocast.events import Event, Once

_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def load_channels(db: sqlite3.Connection, retention: Retention) -> list[Channel]:
    """Return all channels, with how many events each has."""
    counts = dict(db.execute("SELECT channel, count(*) FROM events GROUP BY channel").fetchall())
    lasts = dict(db.execute("SELECT channel, max(seq) FROM events GROUP BY channel").fetchall())
    channels = [
        Channel(id, name, floor, lasts.get(id, floor), retention.of(name), counts.get(id, 0))
        for id, name, floor in db.execute("SELECT id, name, floor FROM channels")
    ]
    for channel in channels:
        if channel.keep.size:
            query = "SELECT coalesce(sum(length(data)), 0) FROM events WHERE channel = ?"
            (size,) = db.execute(query, (channel.id,)).fetchone()
            channel.size = size + ROW_OVERHEAD * channel.count
    return channels


def load_namespace_floors(db: sqlite3.Connection) -> dict[str, int]:
    """Return the highest floor of the forgotten channels of each namespace."""
    return dict(db.execute("SELECT name, floor FROM namespaces").fetchall())


@attrs.frozen
class Changes:
    """What one transaction keeps.

    ``seq`` and ``revision`` are the last ones given. ``channels`` are those that are new;
    ``documents`` are None where they are removed.
    """

    seq: int
    rows: Sequence[Row] = ()
    channels: Sequence[Channel] = ()
    records: Sequence[Row] = ()
    revision: int | None = None
    documents: Mapping[DocumentPlace, Document | None] = attrs.field(factory=dict)
    held: Sequence[Change] = ()


def append(db: sqlite3.Connection, changes: Changes) -> None:
    """Keep all of it."""
    with Transaction(db):
        if changes.channels:
            # Replaces the row that is left if removing a forgotten channel failed.
            db.executemany(
                "INSERT OR REPLACE INTO channels VALUES (?, ?, ?)",
                [(channel.id, channel.name, channel.floor) for channel in changes.channels],
            )
        db.executemany(_INSERT, changes.rows)
        if changes.records:
            query = "INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            db.executemany(query, changes.records)
        if changes.documents:
            _write_documents(db, changes.documents)
            query = "UPDATE meta SET value = ? WHERE name = 'revision'"
            db.execute(query, (changes.revision,))
        if changes.held:
            _write_held(db, changes.held)
        db.execute("UPDATE meta SET value = ? WHERE name = 'head'", (changes.seq,))


def _write_documents(
    db: sqlite3.Connection, documents: Mapping[DocumentPlace, Document | None]
) -> None:
    for place, document in documents.items():
        if document is None:
            db.execute("DELETE FROM documents WHERE channel = ? AND key = ?", place)
        else:
            db.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)",
                (*place, document.version, document.timestamp, document.user, document.data),
            )


def _write_held(db: sqlite3.Connection, held: Sequence[Change]) -> None:
    # First all that go: a number is given once.
    db.executemany(
        "DELETE FROM held WHERE number = ?",
        [(change.removed,) for change in held if change.removed is not None],
    )
    db.executemany(
        "INSERT INTO held (number, channel, type, timestamp, key, tags, user, exclude, data,"
        " version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (change.added, change.event.channel, *fields_of(change.event))
            for change in held
            if change.event is not None
        ],
    )


def load_held(db: sqlite3.Connection) -> list[tuple[int, Event]]:
    """Return what was held back, in its order."""
    query = (
        "SELECT number, channel, type, timestamp, key, tags, user, exclude, data, version"
        " FROM held ORDER BY number"
    )
    return [(row[0], event_of(row[1], row[2:])) for row in db.execute(query)]


def record_of(once: Once, record: Record) -> Row:
    """Return an idempotency record as its table has it."""
    at = math.ceil(time.time())  # Whole seconds, rounded so that no record expires too soon.
    return (
        once.scope, once.key, once.index, record.digest, record.seq, at, record.version,
        record.epoch, record.subscribers, record.channel,
    )  # fmt: skip


@attrs.frozen
class Known:
    """What a store has of idempotency keys and documents that events name.

    ``versions`` are of documents that are there. ``document_count`` is without the server's own.
    """

    revision: int
    document_count: int
    records: dict[Place, Record] = attrs.field(factory=dict)
    versions: dict[DocumentPlace, int] = attrs.field(factory=dict)


def find_known(
    db: sqlite3.Connection,
    known: Known,
    places: Iterable[Place],
    documents: Iterable[DocumentPlace],
    *,
    seconds: float,
) -> None:
    """Fill in what was published under keys, if not too long ago, and documents' versions."""
    query = (
        "SELECT digest, seq, version, epoch, subscribers, channel FROM published"
        " WHERE scope = ? AND key = ? AND number = ? AND at >= ?"
    )
    oldest = time.time() - seconds
    for place in places:
        row = db.execute(query, (*place, oldest)).fetchone()
        if row is not None:
            known.records[place] = Record(*row)
    query = "SELECT version FROM documents WHERE channel = ? AND key = ?"
    for at in documents:
        row = db.execute(query, at).fetchone()
        if row is not None:
            known.versions[at] = row[0]


def count_documents(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the last version that was given, and how many documents there are.

    Those in the server's own channels are not counted.
    """
    (revision,) = db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
    query = "SELECT count(*) FROM documents WHERE channel NOT LIKE '$%'"
    return revision, db.execute(query).fetchone()[0]
