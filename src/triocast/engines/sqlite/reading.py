"""Reading from a store. Each function blocks, answers from one moment, and raises sqlite3.Error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice, takewhile
from typing import Final

import attrs

from triocast.documents import Document
from triocast.engines.documents import Page, cut
from triocast.engines.sqlite.rows import COLUMNS, Row, Transaction, publication_of
from triocast.events import Publication, is_pattern, pattern_matches

_SELECT: Final = f"SELECT {COLUMNS}, e.channel FROM events e"  # noqa: S608
_MOST_SEEKS: Final = 64
"""Of more channels than this the events are looked for among those of all."""


@attrs.frozen
class Range:
    """What of some channels is asked for; see `Engine.history`."""

    channels: Sequence[tuple[int, str]]
    after: int
    before: int
    limit: int
    newest: bool


def read(db: sqlite3.Connection, asked: Range, epoch: str) -> tuple[list[Publication], bool]:
    """Return publications in their order, and whether that is all."""
    with Transaction(db, "DEFERRED"):
        rows = _read_all(db, asked) if len(asked.channels) > _MOST_SEEKS else _read_each(db, asked)
        found = [publication_of(row, name, epoch) for name, row in islice(rows, asked.limit + 1)]
    complete = len(found) <= asked.limit
    del found[asked.limit :]
    if asked.newest:
        found.reverse()
    return found, complete


def _read_each(db: sqlite3.Connection, asked: Range) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a few channels in their order: what comes next is looked up in each."""

    def rows_of(id: int, name: str) -> Iterator[tuple[str, Row]]:
        query = _SELECT + " WHERE e.channel = ? AND e.seq > ? AND e.seq < ?" + _order(asked)
        return ((name, row) for row in db.execute(query, (id, asked.after, asked.before)))

    channels = [rows_of(id, name) for id, name in asked.channels]
    return merge(*channels, key=lambda found: found[1][0], reverse=asked.newest)


def _read_all(db: sqlite3.Connection, asked: Range) -> Iterator[tuple[str, Row]]:
    """Yield the rows of many channels in their order, out of those of all."""
    names = dict(asked.channels)
    query = _SELECT + " WHERE e.seq > ? AND e.seq < ?" + _order(asked)
    for row in db.execute(query, (asked.after, asked.before)):
        name = names.get(row[-1])
        if name is not None:
            yield name, row


def _order(asked: Range) -> str:
    return f" ORDER BY e.seq {'DESC' if asked.newest else 'ASC'}"


# Goes from one key to the next by the index, past all older events of the same key.
_LATEST: Final = f"""
    WITH RECURSIVE keys (key) AS (
        SELECT min(key) FROM events WHERE channel = :channel
        UNION ALL
        SELECT (SELECT min(key) FROM events WHERE channel = :channel AND key > keys.key)
        FROM keys WHERE keys.key IS NOT NULL
    )
    SELECT {COLUMNS} FROM events e WHERE e.seq IN (
        SELECT (SELECT max(seq) FROM events WHERE channel = :channel AND key = keys.key)
        FROM keys WHERE keys.key IS NOT NULL
        UNION ALL
        SELECT max(seq) FROM events WHERE channel = :channel AND key IS NULL
    )
"""  # noqa: S608


def read_latest(
    db: sqlite3.Connection, names: Sequence[str], epoch: str, *, limit: int, limit_bytes: int
) -> list[Publication] | None:
    """Return the newest event of each key of each channel that channels and patterns cover.

    None beyond the limits.
    """
    found: list[Publication] = []
    with Transaction(db, "DEFERRED"):
        for id, name in _find_channels(db, names):
            for row in db.execute(_LATEST, {"channel": id}):
                found.append(publication_of(row, name, epoch))
                limit_bytes -= len(found[-1].event.data)
                if len(found) > limit or limit_bytes < 0:
                    return None
    found.sort(key=lambda publication: publication.seq)
    return found


def _find_channels(db: sqlite3.Connection, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    query = "SELECT id, name FROM channels"
    if any(is_pattern(name) for name in names):
        for id, channel in db.execute(query):
            if any(pattern_matches(name, channel) for name in names):
                yield id, channel
    else:
        for name in dict.fromkeys(names):
            yield from db.execute(f"{query} WHERE name = ?", (name,))


_DOCUMENT: Final = "SELECT channel, key, version, data, timestamp, user FROM documents"


def read_document(db: sqlite3.Connection, channel: str, key: str) -> Document | None:
    """Return one document."""
    row = db.execute(_DOCUMENT + " WHERE channel = ? AND key = ?", (channel, key)).fetchone()
    return None if row is None else Document(*row)


def read_documents(
    db: sqlite3.Connection, channel: str, after: str, *, limit: int, limit_bytes: int
) -> Page:
    """Return a channel's documents behind a key, and whether that is all."""
    rows = db.execute(_DOCUMENT + " WHERE channel = ? AND key > ? ORDER BY key", (channel, after))
    return cut((Document(*row) for row in rows), limit=limit, limit_bytes=limit_bytes)


def read_document_channels(db: sqlite3.Connection, prefix: str) -> tuple[str, ...]:
    """Return the channels that have documents and begin with this."""
    query = "SELECT DISTINCT channel FROM documents WHERE channel >= ? ORDER BY channel"
    names = (name for (name,) in db.execute(query, (prefix,)))
    return tuple(takewhile(lambda name: name.startswith(prefix), names))
