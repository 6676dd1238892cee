"""What retention removes from a store. Each function is one transaction, blocks, and raises
sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Final

from triocast.clock import timestamp
from triocast.engines.sqlite.rows import ROW_OVERHEAD, Channel, Transaction

TRIM_EVENTS: Final = 500
"""How many events one transaction removes at the most."""

Removed = dict[Channel, tuple[int, int]]
"""How many events, of how many bytes, were removed of each channel.

The channels have their new floors by then. These are raised right before the transaction ends, so
that nobody can miss an event and find the floor below it.
"""

_OLDEST: Final = (
    f"SELECT seq, length(data) + {ROW_OVERHEAD} FROM events"  # noqa: S608
    " WHERE channel = ? AND seq <= ? ORDER BY seq LIMIT ?"
)


def trim_channel(db: sqlite3.Connection, channel: Channel) -> Removed:
    """Remove a channel's oldest events beyond what is to be kept of it, some of them."""
    count, size, last = channel.count, channel.size, 0
    for seq, length in db.execute(_OLDEST, (channel.id, channel.last, TRIM_EVENTS)):
        if count <= channel.keep.events and not 0 < channel.keep.size < size:
            break
        last = seq
        count -= 1
        size -= length
    return trim_up_to(db, channel, last) if last else {}


def trim_up_to(db: sqlite3.Connection, channel: Channel, seq: int) -> Removed:
    """Remove a channel's oldest events up to a ``seq``, some of them."""
    with Transaction(db):
        rows = db.execute(_OLDEST, (channel.id, seq, TRIM_EVENTS)).fetchall()
        if not rows:
            return {}
        floor = rows[-1][0]
        db.execute("DELETE FROM events WHERE channel = ? AND seq <= ?", (channel.id, floor))
        db.execute("UPDATE channels SET floor = ? WHERE id = ?", (floor, channel.id))
        channel.floor = floor
    return {channel: (len(rows), sum(length for _, length in rows))}


def find_old(db: sqlite3.Connection, channels: Iterable[Channel]) -> list[tuple[Channel, int]]:
    """Return channels that have events above their age, and up to which ``seq``.

    Of many such events in a channel, some.
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
    """Remove the oldest events of all, some of them."""
    removed: Removed = {}
    with Transaction(db):
        rows = db.execute(
            f"SELECT seq, channel, length(data) + {ROW_OVERHEAD} FROM events"  # noqa: S608
            " ORDER BY seq LIMIT ?",
            (TRIM_EVENTS,),
        ).fetchall()
        floors = {channels[id]: seq for seq, id, _ in rows}
        db.executemany("DELETE FROM events WHERE seq = ?", [(row[0],) for row in rows])
        db.executemany(
            "UPDATE channels SET floor = ? WHERE id = ?",
            [(floor, channel.id) for channel, floor in floors.items()],
        )
        for _, id, length in rows:
            count, size = removed.get(channels[id], (0, 0))
            removed[channels[id]] = (count + 1, size + length)
        for channel, floor in floors.items():
            channel.floor = floor
    return removed


def forget_channel(db: sqlite3.Connection, channel: int, namespace: str, floor: int) -> None:
    """Remove a channel nothing is kept of; its namespace keeps its floor."""
    with Transaction(db):
        db.execute("DELETE FROM channels WHERE id = ?", (channel,))
        db.execute(
            "INSERT INTO namespaces VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET floor = max(floor, excluded.floor)",
            (namespace, floor),
        )


def trim_records(db: sqlite3.Connection, *, seconds: float) -> bool:
    """Remove old idempotency records, some of them; say whether there were any."""
    with Transaction(db):
        removed = db.execute(
            "DELETE FROM published WHERE (scope, key, number) IN"
            " (SELECT scope, key, number FROM published WHERE at < ? LIMIT ?)",
            (time.time() - seconds, TRIM_EVENTS),
        ).rowcount
    return removed > 0


def used_bytes(db: sqlite3.Connection) -> int:
    """Return how much of the file is in use."""
    (size,) = db.execute("PRAGMA page_size").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    return int(size * (pages - free))
