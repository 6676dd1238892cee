"""Reading from a store. Each function answers from one moment, and raises sqlite3.Error.

What can take long is a generator: it yields None now and then, where another read may go on, and
returns its answer. The others block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final, TypeVar

import attrs

from triocast.documents import Document
from triocast.engines.documents import Page, cut
from triocast.engines.order import merge
from triocast.engines.sqlite.channels import Source
from triocast.engines.sqlite.rows import (
    COLUMNS,
    Channel,
    DamagedRow,
    Row,
    Transaction,
    publication_of,
)
from triocast.events import Publication

ROWS_PER_STEP: Final = 32
"""So many rows are read or passed over before another read may go on."""

_SELECT: Final = f"SELECT {COLUMNS}, e.channel FROM events e"  # noqa: S608

_SEQ: Final[Callable[[Row], int]] = itemgetter(0)

Damage = list[tuple[str, int, str]]
"""Rows that cannot be read: channel, ``seq``, and what is wrong."""

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that yields between its steps, and returns its answer."""


@attrs.frozen
class Range:
    """What is asked for; see `Engine.history`."""

    sources: Sequence[Source]
    after: int
    before: int
    limit: int
    newest: bool

    @property
    def where(self) -> str:
        """The end of a query for events, which takes `bounds`."""
        return f"e.seq > ? AND e.seq < ? ORDER BY e.seq {'DESC' if self.newest else 'ASC'}"

    @property
    def bounds(self) -> tuple[int, int]:
        return self.after, self.before


def read(
    db: sqlite3.Connection, asked: Range, epoch: str, channels: Mapping[int, Channel]
) -> Steps[tuple[list[Publication], bool, Damage]]:
    """Return publications in their order, whether that is all, and what could not be read.

    ``channels`` are those of the store by id. They may change meanwhile; what is below their floors
    is left out.
    """
    found: list[Publication] = []
    damage: Damage = []
    complete = True
    with Transaction(db, "DEFERRED"):
        sources = [_rows_of(db, source, asked, channels) for source in asked.sources]
        rows = merge(sources, _SEQ, newest=asked.newest)
        for number, row in enumerate(rows, 1):
            if row is None or number % ROWS_PER_STEP == 0:
                yield
            channel = None if row is None else channels.get(row[-1])
            if row is None or channel is None or row[0] <= channel.floor:
                continue
            if len(found) == asked.limit:
                complete = False
                break
            try:
                found.append(publication_of(row, channel.name, epoch))
            except DamagedRow as error:
                damage.append((channel.name, row[0], str(error)))
    if asked.newest:
        found.reverse()
    return found, complete, damage


def _rows_of(
    db: sqlite3.Connection, source: Source, asked: Range, channels: Mapping[int, Channel]
) -> Iterator[Row | None]:
    """Yield a source's rows in order, and None where many were passed over."""
    if source.channel is not None:
        query = f"{_SELECT} INDEXED BY events_of_channel WHERE e.channel = ? AND {asked.where}"
        return db.execute(query, (source.channel, *asked.bounds))
    if source.namespace is not None and source.prefix is None:
        query = f"{_SELECT} INDEXED BY events_of_namespace WHERE e.namespace = ? AND {asked.where}"
        return db.execute(query, (source.namespace, *asked.bounds))
    return _chosen(db, source, asked, channels)


def _chosen(
    db: sqlite3.Connection, source: Source, asked: Range, channels: Mapping[int, Channel]
) -> Iterator[Row | None]:
    """Yield the rows of some channels, out of more."""
    query = "SELECT e.seq, e.channel FROM events e"
    if source.namespace is None:
        places = db.execute(f"{query} WHERE {asked.where}", asked.bounds)
    else:
        query += " INDEXED BY events_of_namespace WHERE e.namespace = ?"
        places = db.execute(f"{query} AND {asked.where}", (source.namespace, *asked.bounds))
    prefix = source.prefix or ""
    passed = 0
    for seq, id in places:
        channel = channels.get(id)
        if (
            channel is not None
            and channel.name.startswith(prefix)
            and (source.namespace is not None or channel.name[0] != "$")
            and seq > channel.floor
        ):
            yield from db.execute(f"{_SELECT} WHERE e.seq = ?", (seq,))
        else:
            passed += 1
            if passed % ROWS_PER_STEP == 0:
                yield None


# Goes from one key to the next by the index, past all older events of the same key.
_LATEST: Final = f"""
    WITH RECURSIVE keys (key) AS (
        SELECT min(key) FROM events WHERE channel = :channel
        UNION ALL
        SELECT (SELECT min(key) FROM events WHERE channel = :channel AND key > keys.key)
        FROM keys WHERE keys.key IS NOT NULL
        LIMIT :most
    )
    SELECT {COLUMNS} FROM events e WHERE e.seq IN (
        SELECT (SELECT max(seq) FROM events WHERE channel = :channel AND key = keys.key)
        FROM keys WHERE keys.key IS NOT NULL
        UNION ALL
        SELECT max(seq) FROM events WHERE channel = :channel AND key IS NULL
    )
"""  # noqa: S608


_KEY: Final = COLUMNS.split(", ").index("e.key")


def read_latest(
    db: sqlite3.Connection,
    groups: Sequence[Source],
    epoch: str,
    *,
    limit: int,
    limit_bytes: int,
) -> Steps[tuple[list[Publication] | None, Damage]]:
    """Return the newest event of each key of each channel of some groups, and what could not be
    read.

    None in place of events beyond the limits.
    """
    found: list[Publication] = []
    damage: Damage = []
    seen: set[int] = set()
    steps = 0
    with Transaction(db, "DEFERRED"):
        for id, name in chain.from_iterable(_find_channels(db, group) for group in groups):
            if id in seen:
                continue
            seen.add(id)
            # With one beyond the limit, which tells that there are more.
            most, keys = limit - len(found) + 1, 0
            for row in chain(db.execute(_LATEST, {"channel": id, "most": most}), (None,)):
                steps += 1
                if steps % ROWS_PER_STEP == 0:
                    yield
                if row is None:
                    break
                keys += row[_KEY] is not None
                try:
                    found.append(publication_of(row, name, epoch))
                    limit_bytes -= len(found[-1].event.data)
                except DamagedRow as error:
                    damage.append((name, row[0], str(error)))
                if len(found) > limit or keys == most or limit_bytes < 0:
                    return None, damage
    found.sort(key=lambda publication: publication.seq)
    return found, damage


def _find_channels(db: sqlite3.Connection, group: Source) -> Iterator[tuple[int, str]]:
    """Yield the ids and names of the channels of a group."""
    query = "SELECT id, name FROM channels WHERE"
    if group.channel is not None:
        yield from db.execute(f"{query} id = ?", (group.channel,))
    elif group.namespace is None:
        # All names but those that begin with $, which is the character before %.
        yield from db.execute(f"{query} name < '$'")
        yield from db.execute(f"{query} name >= '%'")
    else:
        prefix = group.prefix or ""
        query += " namespace = ? AND name >= ? ORDER BY name"
        for id, name in db.execute(query, (group.namespace, prefix)):
            if not name.startswith(prefix):
                return
            yield id, name


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


# Goes from one channel to the next by the index, past all documents of the same channel.
_DOCUMENT_CHANNELS: Final = """
    WITH RECURSIVE found (channel) AS (
        SELECT min(channel) FROM documents WHERE channel >= ?
        UNION ALL
        SELECT (SELECT min(channel) FROM documents WHERE channel > found.channel)
        FROM found WHERE found.channel IS NOT NULL
    )
    SELECT channel FROM found WHERE channel IS NOT NULL
"""


def read_document_channels(db: sqlite3.Connection, prefix: str) -> Steps[tuple[str, ...]]:
    """Return the channels that have documents and begin with this."""
    found: list[str] = []
    with Transaction(db, "DEFERRED"):
        for (name,) in db.execute(_DOCUMENT_CHANNELS, (prefix,)):
            if not name.startswith(prefix):
                break
            found.append(name)
            if len(found) % ROWS_PER_STEP == 0:
                yield
    return tuple(found)
