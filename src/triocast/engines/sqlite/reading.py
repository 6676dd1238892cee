"""Reading from a store. Each function blocks, answers from one moment, and raises sqlite3.Error."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import takewhile
from typing import Final

import attrs

from triocast.documents import Document
from triocast.engines.documents import Page, cut
from triocast.engines.sqlite.rows import COLUMNS, DamagedRow, Row, Transaction, publication_of
from triocast.events import Publication, is_pattern, pattern_matches

_SELECT: Final = f"SELECT {COLUMNS}, e.channel FROM events e"  # noqa: S608
_MOST_SEEKS: Final = 64
"""Of more channels than this the events are looked for among those of all."""


Damage = list[tuple[str, int, str]]
"""Rows that cannot be read: channel, ``seq``, and what is wrong."""


@attrs.frozen
class Range:
    """What of some channels is asked for; see `Engine.history`.

    ``channels`` are ids, names, and after which ``seq`` each is readable: the highest of what was
    asked for and its floor.
    """

    channels: Sequence[tuple[int, str, int]]
    after: int
    before: int
    limit: int
    newest: bool


def read(
    db: sqlite3.Connection, asked: Range, epoch: str
) -> tuple[list[Publication], bool, Damage]:
    """Return publications in their order, whether that is all, and what could not be read."""
    found: list[Publication] = []
    damage: Damage = []
    complete = True
    with Transaction(db, "DEFERRED"):
        rows = _read_all(db, asked) if len(asked.channels) > _MOST_SEEKS else _read_each(db, asked)
        for name, row in rows:
            if len(found) == asked.limit:
                complete = False
                break
            try:
                found.append(publication_of(row, name, epoch))
            except DamagedRow as error:
                damage.append((name, row[0], str(error)))
    if asked.newest:
        found.reverse()
    return found, complete, damage


def _read_each(db: sqlite3.Connection, asked: Range) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a few channels in their order: what comes next is looked up in each."""

    def rows_of(id: int, name: str, after: int) -> Iterator[tuple[str, Row]]:
        query = _SELECT + " WHERE e.channel = ? AND e.seq > ? AND e.seq < ?" + _order(asked)
        return ((name, row) for row in db.execute(query, (id, after, asked.before)))

    channels = [rows_of(*channel) for channel in asked.channels]
    return merge(*channels, key=lambda found: found[1][0], reverse=asked.newest)


def _read_all(db: sqlite3.Connection, asked: Range) -> Iterator[tuple[str, Row]]:
    """Yield the rows of many channels in their order, out of those of all."""
    channels = {id: (name, after) for id, name, after in asked.channels}
    query = _SELECT + " WHERE e.seq > ? AND e.seq < ?" + _order(asked)
    for row in db.execute(query, (asked.after, asked.before)):
        name, after = channels.get(row[-1], ("", asked.before))
        if row[0] > after:
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
) -> tuple[list[Publication] | None, Damage]:
    """Return the newest event of each key of each channel that channels and patterns cover, and
    what could not be read.

    None in place of events beyond the limits.
    """
    found: list[Publication] = []
    damage: Damage = []
    with Transaction(db, "DEFERRED"):
        for id, name in _find_channels(db, names):
            for row in db.execute(_LATEST, {"channel": id}):
                try:
                    found.append(publication_of(row, name, epoch))
                except DamagedRow as error:
                    damage.append((name, row[0], str(error)))
                    continue
                limit_bytes -= len(found[-1].event.data)
                if len(found) > limit or limit_bytes < 0:
                    return None, damage
    found.sort(key=lambda publication: publication.seq)
    return found, damage


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
    """Return one document. Raises DamagedRow."""
    row = db.execute(_DOCUMENT + " WHERE channel = ? AND key = ?", (channel, key)).fetchone()
    return None if row is None else _document_of(row)


def read_documents(
    db: sqlite3.Connection,
    channel: str,
    after: str,
    *,
    limit: int,
    limit_bytes: int,
    counted: bool,
) -> tuple[Page, int | None]:
    """Return a channel's documents behind a key, whether that is all, and how many the channel has
    if they are to be ``counted``. Raises DamagedRow.
    """
    query = _DOCUMENT + " WHERE channel = ? AND key > ? ORDER BY key"
    count = None
    with Transaction(db, "DEFERRED"):
        rows = db.execute(query, (channel, after))
        found, complete = cut(map(_document_of, rows), limit=limit, limit_bytes=limit_bytes)
        rows.close()
        if counted:
            count = len(found)
            if after or not complete:
                ask = "SELECT count(*) FROM documents WHERE channel = ?"
                (count,) = db.execute(ask, (channel,)).fetchone()
    return (found, complete), count


def _document_of(row: Row) -> Document:
    channel, key, version, data, timestamp, user = row
    texts = (channel, key, timestamp, "" if user is None else user)
    if not (
        isinstance(data, bytes)
        and isinstance(version, int)
        and all(isinstance(each, str) for each in texts)
    ):
        raise DamagedRow(f"the document {key!r} of {channel!r} is damaged: write or remove it")
    return Document(channel, key, version, data, timestamp, user)


def read_document_channels(db: sqlite3.Connection, prefix: str) -> tuple[str, ...]:
    """Return the channels that have documents and begin with this."""
    query = "SELECT DISTINCT channel FROM documents WHERE channel >= ? ORDER BY channel"
    names = (name for (name,) in db.execute(query, (prefix,)))
    return tuple(takewhile(lambda name: name.startswith(prefix), names))
