"""What retention removes from a store. Each function is one transaction, blocks, and raises
sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from triocast.clock import timestamp
from triocast.engines.idempotency import Place, size_of
from triocast.engines.sqlite.channels import OTHERS
from triocast.engines.sqlite.rows import ROW_OVERHEAD, Channel, Transaction
from triocast.engines.sqlite.store import add_usage
from triocast.engines.usage import Bounds, Usage

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
        size = sum(length for _, length in rows)
        add_usage(db, Usage(events=-len(rows), event_bytes=-size))
        channel.raise_floor(floor)
    return {channel: (len(rows), size)}


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
            if isinstance(when, str) and when >= before:  # A damaged one goes with the old ones.
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
        # Rows of a channel that is not known are damaged: nobody can ask for them.
        floors = {channels[id]: seq for seq, id, _ in rows if id in channels}
        db.executemany("DELETE FROM events WHERE seq = ?", [(row[0],) for row in rows])
        db.executemany(
            "UPDATE channels SET floor = ? WHERE id = ?",
            [(floor, channel.id) for channel, floor in floors.items()],
        )
        for _, id, length in rows:
            if id not in channels:
                continue
            count, size = removed.get(channels[id], (0, 0))
            removed[channels[id]] = (count + 1, size + length)
        size = sum(length for _, _, length in rows)
        add_usage(db, Usage(events=-len(rows), event_bytes=-size))
        for channel, floor in floors.items():
            channel.raise_floor(floor)
    return removed


def forget_channels(db: sqlite3.Connection, gone: Sequence[tuple[int, str, int]]) -> None:
    """Remove channels nothing is kept of; their namespaces keep their floors.

    ``gone`` are ids, namespaces and floors.
    """
    with Transaction(db):
        db.executemany("DELETE FROM channels WHERE id = ?", [(id,) for id, _, _ in gone])
        db.executemany(
            "INSERT INTO namespaces VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET floor = max(floor, excluded.floor)",
            [(namespace, floor) for _, namespace, floor in gone],
        )


def merge_floors(db: sqlite3.Connection) -> None:
    """Keep one floor, the highest, for all namespaces but the server's own."""
    with Transaction(db):
        (highest,) = db.execute("SELECT max(floor) FROM namespaces").fetchone()
        db.execute("DELETE FROM namespaces WHERE name NOT LIKE '$%'")
        db.execute("INSERT INTO namespaces VALUES (?, ?)", (OTHERS, highest))


def trim_records(db: sqlite3.Connection, *, oldest: float, usage: Usage, bounds: Bounds) -> Usage:
    """Remove some of the idempotency records that are too many, or were made before ``oldest``.

    Return by how much less there is then, in negative numbers.
    """
    removed = Usage()
    places: list[Place] = []
    query = "SELECT at, scope, key, number FROM published ORDER BY at LIMIT ?"
    with Transaction(db):
        for at, *place in db.execute(query, (TRIM_EVENTS,)):
            left = usage + removed
            if (
                isinstance(at, int | float)  # A damaged one goes with the old ones.
                and at >= oldest
                and left.records <= bounds.records
                and left.record_bytes <= bounds.record_bytes
            ):
                break
            scope, key, number = place
            places.append((scope, key, number))
            removed += Usage(records=-1, record_bytes=-size_of(places[-1]))
        db.executemany("DELETE FROM published WHERE scope = ? AND key = ? AND number = ?", places)
        add_usage(db, removed)
    return removed
