"""Writing to a store, and what is read for that. Each function is one transaction, blocks, and
raises sqlite3.Error.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from triocast.documents import Document
from triocast.engines.debounce import Change
from triocast.engines.documents import Place as DocumentPlace
from triocast.engines.documents import Standing
from triocast.engines.documents import size_of as document_size
from triocast.engines.idempotency import Place, Record
from triocast.engines.retention import Retention
from triocast.engines.sqlite.rows import (
    ROW_OVERHEAD,
    Channel,
    DamagedRow,
    Row,
    Transaction,
    event_of,
    fields_of,
)
from triocast.engines.usage import Usage
from triocast.events import Event, Once

log = logging.getLogger("triocast.sqlite")

_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def load_channels(db: sqlite3.Connection, retention: Retention) -> list[Channel]:
    """Return all channels, with how many events each has."""
    counts = dict(db.execute("SELECT channel, count(*) FROM events GROUP BY channel").fetchall())
    lasts = dict(db.execute("SELECT channel, max(seq) FROM events GROUP BY channel").fetchall())
    channels = [
        Channel(
            id,
            name,
            floor,
            lasts.get(id, floor),
            retention.of(name),
            counts.get(id, 0),
            namespace=namespace,
        )
        for id, name, floor, namespace in db.execute(
            "SELECT id, name, floor, namespace FROM channels"
        )
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
    ``documents`` are None where they are removed. ``usage`` is how much more there is then.
    """

    seq: int
    rows: Sequence[Row] = ()
    channels: Sequence[Channel] = ()
    records: Sequence[Row] = ()
    revision: int | None = None
    documents: Mapping[DocumentPlace, Document | None] = attrs.field(factory=dict)
    held: Sequence[Change] = ()
    usage: Usage = attrs.field(factory=Usage)


def append(db: sqlite3.Connection, changes: Changes) -> None:
    """Keep all of it."""
    with Transaction(db):
        if changes.channels:
            # Replaces the row that is left if removing a forgotten channel failed.
            db.executemany(
                "INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?)",
                [(each.id, each.name, each.floor, each.namespace) for each in changes.channels],
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
        add_usage(db, changes.usage)
        db.execute("UPDATE meta SET value = ? WHERE name = 'head'", (changes.seq,))


_ADD_USAGE: Final = (
    "UPDATE usage SET events = events + ?, event_bytes = event_bytes + ?,"
    " documents = documents + ?, document_bytes = document_bytes + ?,"
    " records = records + ?, record_bytes = record_bytes + ?"
)


def add_usage(db: sqlite3.Connection, more: Usage) -> None:
    """Note how much more there is, in the transaction under way."""
    db.execute(_ADD_USAGE, attrs.astuple(more))


def load_usage(db: sqlite3.Connection) -> Usage:
    """Return what is kept of each kind."""
    return Usage(*db.execute("SELECT * FROM usage").fetchone())


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
    """Return what was held back, in its order; what cannot be read is logged and left out."""
    query = (
        "SELECT number, channel, type, timestamp, key, tags, user, exclude, data, version"
        " FROM held ORDER BY number"
    )
    held: list[tuple[int, Event]] = []
    for number, channel, *fields in db.execute(query):
        try:
            held.append((number, event_of(channel, tuple(fields))))
        except DamagedRow as error:
            log.error("an event that was held back in %s is lost: %s", channel, error)
    return held


def record_of(once: Once, record: Record, made_at: float) -> Row:
    """Return an idempotency record as its table has it; ``made_at`` is by the store's `Ages`."""
    at = math.ceil(made_at)  # Whole seconds, rounded so that no record expires too soon.
    return (
        once.scope, once.key, once.index, record.digest, record.seq, at, record.version,
        record.epoch, record.subscribers, record.channel,
    )  # fmt: skip


@attrs.frozen
class Known:
    """What a store has of idempotency keys and documents that events name.

    ``expired`` are the keys whose records are too old to count, but have not been removed yet.
    """

    revision: int
    usage: Usage
    records: dict[Place, Record] = attrs.field(factory=dict)
    expired: set[Place] = attrs.field(factory=set)
    documents: dict[DocumentPlace, Standing] = attrs.field(factory=dict)


def find_known(
    db: sqlite3.Connection,
    known: Known,
    places: Iterable[Place],
    documents: Iterable[DocumentPlace],
    *,
    oldest: float,
) -> None:
    """Fill in what was published under keys, if not before ``oldest``, and the documents."""
    query = (
        "SELECT at, digest, seq, version, epoch, subscribers, channel FROM published"
        " WHERE scope = ? AND key = ? AND number = ?"
    )
    for place in places:
        row = db.execute(query, place).fetchone()
        if row is not None and isinstance(row[0], int | float) and row[0] >= oldest:
            known.records[place] = Record(*row[1:])
        elif row is not None:
            known.expired.add(place)
    query = "SELECT version, length(data) FROM documents WHERE channel = ? AND key = ?"
    for at in documents:
        row = db.execute(query, at).fetchone()
        if row is not None:
            version, size = row
            known.documents[at] = Standing(version, document_size(at, size))


def load_revision(db: sqlite3.Connection) -> int:
    """Return the last version that a document was given."""
    (revision,) = db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
    assert isinstance(revision, int)
    return revision
