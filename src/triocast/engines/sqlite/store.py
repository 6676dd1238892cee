"""What is done to a store's file. Each function is one transaction, and blocks."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

import attrs

from triocast.clock import timestamp
from triocast.engines.idempotency import Place
from triocast.engines.retention import Keep, Retention
from triocast.events import Event, Once, Position, Publication

TRIM_EVENTS: Final = 500
"""How many events one transaction of retention removes at the most."""

_COLUMNS: Final = "e.seq, e.prev, e.type, e.timestamp, e.key, e.tags, e.user, e.exclude, e.data"
_SELECT: Final = f"SELECT {_COLUMNS}, e.channel FROM events e"  # noqa: S608
_MOST_SEEKS: Final = 64
"""Of more channels than this the events are looked for among those of all."""

_INSERT: Final = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@attrs.define(eq=False)
class Channel:
    """What is known of a channel that something is kept of."""

    id: int
    name: str
    floor: int
    last: int
    keep: Keep
    count: int = 0


Row = tuple[Any, ...]


def row_of(publication: Publication, channel: int) -> Row:
    """Return an event as its table has it."""
    event = publication.event
    tags = json.dumps(event.tags) if event.tags else None
    return (
        publication.seq, channel, publication.prev, event.type, event.timestamp, event.key, tags,
        event.user, event.exclude, event.data,
    )  # fmt: skip


def _publication(row: Row, channel: str, epoch: str) -> Publication:
    seq, prev, type, timestamp, key, tags, user, exclude, data = row[:9]
    event = Event(
        type=type,
        data=data,
        channel=channel,
        timestamp=timestamp,
        key=key,
        tags=tuple(json.loads(tags)) if tags else (),
        user=user,
        exclude=exclude,
    )
    return Publication(event, Position(epoch, seq), prev)


def load_channels(db: sqlite3.Connection, retention: Retention) -> list[Channel]:
    """Return all channels, with how many events each has."""
    counts = dict(db.execute("SELECT channel, count(*) FROM events GROUP BY channel").fetchall())
    lasts = dict(db.execute("SELECT channel, max(seq) FROM events GROUP BY channel").fetchall())
    return [
        Channel(id, name, floor, lasts.get(id, floor), retention.of(name), counts.get(id, 0))
        for id, name, floor in db.execute("SELECT id, name, floor FROM channels")
    ]


def load_namespace_floors(db: sqlite3.Connection) -> dict[str, int]:
    """Return the highest floor of the forgotten channels of each namespace."""
    return dict(db.execute("SELECT name, floor FROM namespaces").fetchall())


class Transaction:
    """All or nothing; nothing where the block raises."""

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
            except sqlite3.Error:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite itself rolls back after some errors.
            self._db.execute("ROLLBACK")


def append(
    db: sqlite3.Connection,
    rows: Sequence[Row],
    channels: Sequence[Channel],
    head: int,
    records: Sequence[Row] = (),
) -> None:
    """Keep events, channels that are new, idempotency records, and the head.

    Raises sqlite3.Error.
    """
    with Transaction(db):
        if channels:
            db.executemany(
                "INSERT INTO channels VALUES (?, ?, ?)",
                [(channel.id, channel.name, channel.floor) for channel in channels],
            )
        db.executemany(_INSERT, rows)
        if records:
            db.executemany("INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?, ?)", records)
        db.execute("UPDATE meta SET value = ? WHERE name = 'head'", (head,))


def record_of(once: Once, seq: int) -> Row:
    """Return an idempotency record as its table has it."""
    return (once.scope, once.key, once.index, once.digest, seq, int(time.time()))


def find_records(
    db: sqlite3.Connection, places: Iterable[Place], *, seconds: float
) -> dict[Place, tuple[bytes, int]]:
    """Return the digest and ``seq`` of what was published under these keys, if not too long ago.

    Raises sqlite3.Error.
    """
    query = (
        "SELECT digest, seq FROM published WHERE scope = ? AND key = ? AND number = ? AND at >= ?"
    )
    oldest = time.time() - seconds
    found = {}
    for place in places:
        row = db.execute(query, (*place, oldest)).fetchone()
        if row is not None:
            found[place] = row
    return found


def trim_records(db: sqlite3.Connection, *, seconds: float) -> bool:
    """Remove old idempotency records, some of them; say whether there were any.

    Raises sqlite3.Error.
    """
    with Transaction(db):
        removed = db.execute(
            "DELETE FROM published WHERE (scope, key, number) IN"
            " (SELECT scope, key, number FROM published WHERE at < ? LIMIT ?)",
            (time.time() - seconds, TRIM_EVENTS),
        ).rowcount
    return removed > 0


@attrs.frozen
class Range:
    """What of some channels is asked for; see `Engine.history`."""

    channels: Sequence[tuple[int, str]]
    after: int
    before: int
    limit: int
    newest: bool


def read(db: sqlite3.Connection, asked: Range, epoch: str) -> tuple[list[Publication], bool]:
    """Return publications in their order, and whether that is all. Raises sqlite3.Error."""
    with Transaction(db, "DEFERRED"):
        rows = _read_all(db, asked) if len(asked.channels) > _MOST_SEEKS else _read_each(db, asked)
        found = [_publication(row, name, epoch) for name, row in islice(rows, asked.limit + 1)]
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
    SELECT {_COLUMNS} FROM events e WHERE e.seq IN (
        SELECT (SELECT max(seq) FROM events WHERE channel = :channel AND key = keys.key)
        FROM keys WHERE keys.key IS NOT NULL
        UNION ALL
        SELECT max(seq) FROM events WHERE channel = :channel AND key IS NULL
    )
"""  # noqa: S608


def read_latest(
    db: sqlite3.Connection,
    channels: Iterable[tuple[int, str]],
    epoch: str,
    *,
    limit: int,
    limit_bytes: int,
) -> list[Publication] | None:
    """Return the newest event of each key of each channel; None beyond the limits.

    Raises sqlite3.Error.
    """
    found: list[Publication] = []
    with Transaction(db, "DEFERRED"):
        for id, name in channels:
            for row in db.execute(_LATEST, {"channel": id}):
                found.append(_publication(row, name, epoch))
                limit_bytes -= len(found[-1].event.data)
                if len(found) > limit or limit_bytes < 0:
                    return None
    found.sort(key=lambda publication: publication.seq)
    return found


Removed = dict[Channel, int]
"""How many events retention removed of each channel. The floors are in the channels by then.

They are raised right before the transaction ends, so that nobody can miss an event and find the
floor below it.
"""


def trim_channel(db: sqlite3.Connection, channel: Channel, keep: int) -> Removed:
    """Remove a channel's oldest events beyond ``keep``, some of them. Raises sqlite3.Error."""
    newest_gone = db.execute(
        "SELECT seq FROM events WHERE channel = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
        (channel.id, keep),
    ).fetchone()
    return {} if newest_gone is None else trim_up_to(db, channel, newest_gone[0])


def trim_up_to(db: sqlite3.Connection, channel: Channel, seq: int) -> Removed:
    """Remove a channel's oldest events up to a ``seq``, some of them. Raises sqlite3.Error."""
    with Transaction(db):
        rows = db.execute(
            "SELECT seq FROM events WHERE channel = ? AND seq <= ? ORDER BY seq LIMIT ?",
            (channel.id, seq, TRIM_EVENTS),
        ).fetchall()
        if not rows:
            return {}
        floor = rows[-1][0]
        db.execute("DELETE FROM events WHERE channel = ? AND seq <= ?", (channel.id, floor))
        db.execute("UPDATE channels SET floor = ? WHERE id = ?", (floor, channel.id))
        channel.floor = floor
    return {channel: len(rows)}


def find_old(db: sqlite3.Connection, channels: Iterable[Channel]) -> list[tuple[Channel, int]]:
    """Return channels that have events above their age, and up to which ``seq``.

    Of many such events in a channel, some. Raises sqlite3.Error.
    """
    found = []
    for channel in channels:
        before = timestamp(seconds_ago=channel.keep.seconds)
        rows = db.execute(
            "SELECT seq, timestamp FROM events WHERE channel = ? ORDER BY seq LIMIT ?",
            (channel.id, TRIM_EVENTS),
        )
        last = 0
        for seq, when in rows:
            if when >= before:
                break
            last = seq
        if last:
            found.append((channel, last))
    return found


def trim_oldest(db: sqlite3.Connection, channels: Mapping[int, Channel]) -> Removed:
    """Remove the oldest events of all, some of them. Raises sqlite3.Error."""
    with Transaction(db):
        rows = db.execute(
            "SELECT seq, channel FROM events ORDER BY seq LIMIT ?", (TRIM_EVENTS,)
        ).fetchall()
        floors = {channels[id]: seq for seq, id in rows}
        db.executemany("DELETE FROM events WHERE seq = ?", [(row[0],) for row in rows])
        db.executemany(
            "UPDATE channels SET floor = ? WHERE id = ?",
            [(floor, channel.id) for channel, floor in floors.items()],
        )
        for channel, floor in floors.items():
            channel.floor = floor
    return dict(Counter(channels[id] for _, id in rows))


def forget_channel(db: sqlite3.Connection, channel: int, namespace: str, floor: int) -> None:
    """Remove a channel nothing is kept of; its namespace keeps its floor. Raises sqlite3.Error."""
    with Transaction(db):
        db.execute("DELETE FROM channels WHERE id = ?", (channel,))
        db.execute(
            "INSERT INTO namespaces VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET floor = max(floor, excluded.floor)",
            (namespace, floor),
        )


def used_bytes(db: sqlite3.Connection) -> int:
    """Return how much of the file is in use."""
    (size,) = db.execute("PRAGMA page_size").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    return int(size * (pages - free))
