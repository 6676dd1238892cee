"""What one transaction of retention removes, what it reports, and which floors it leaves."""

import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.clock import timestamp
from triocast.engines.idempotency import RECORD_OVERHEAD, Record
from triocast.engines.retention import Keep
from triocast.engines.sqlite import removing, store
from triocast.engines.sqlite.rows import ROW_OVERHEAD
from triocast.engines.sqlite.store import Changes, record_of
from triocast.engines.usage import Bounds, Usage
from triocast.events import Event, Once


def event(channel="a", size=1, **fields):
    data = b"1" * size
    return Event("T", data, channel, **{"timestamp": "2026-01-31T12:00:00.123Z"} | fields)


@pytest.fixture
def small_steps(monkeypatch):
    """Make one transaction remove at most three events."""
    monkeypatch.setattr(removing, "TRIM_EVENTS", 3)


@given(
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    events=st.integers(0, 8),
    size=st.sampled_from([0, 700, 1_500, 3_000]),
)
def test_a_full_channel_keeps_its_newest_events(new_store, new_tables, sizes, events, size):
    with new_store() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(removing, "TRIM_EVENTS", 3)
        tables = new_tables(file.writer, Keep(events, size=size))
        tables.publish(*[event(size=length) for length in sizes])
        channel = tables.channels.get("a")
        while removed := removing.trim_channel(tables.db, channel):
            ((trimmed, (count, length)),) = removed.items()
            assert trimmed is channel
            assert 0 < count <= 3
            channel.count -= count
            channel.size -= length
            assert tables.seqs("a") == list(range(channel.floor + 1, channel.last + 1))
            assert tables.floors()[0] == {"a": channel.floor}
        kept = [length + ROW_OVERHEAD for length in sizes]
        while len(kept) > events or 0 < size < sum(kept):
            kept.pop(0)
        assert len(tables.seqs("a")) == channel.count == len(kept)
        assert channel.size == sum(kept)


def test_events_up_to_a_position_are_removed_a_few_at_a_time(tables, small_steps):
    tables.publish(*[event("a"), event("b", 5)] * 5)
    a = tables.channels.get("a")
    assert removing.trim_up_to(tables.db, a, 8) == {a: (3, 3 * (ROW_OVERHEAD + 1))}
    assert (a.floor, tables.seqs("a")) == (5, [7, 9])
    assert removing.trim_up_to(tables.db, a, 8) == {a: (1, ROW_OVERHEAD + 1)}
    assert (a.floor, tables.seqs("a")) == (7, [9])
    assert removing.trim_up_to(tables.db, a, 8) == {}
    assert tables.floors()[0] == {"a": 7, "b": 0}
    assert len(tables.seqs("b")) == 5


def test_the_oldest_events_are_removed_whatever_their_channel(tables, small_steps):
    tables.publish(*[event(channel) for channel in "abbab"])
    a, b = tables.channels.get("a"), tables.channels.get("b")
    each = ROW_OVERHEAD + 1
    channels = tables.channels.by_id
    assert removing.trim_oldest(tables.db, channels) == {a: (1, each), b: (2, 2 * each)}
    assert (a.floor, b.floor) == (1, 3)
    assert tables.floors()[0] == {"a": 1, "b": 3}
    assert (tables.seqs("a"), tables.seqs("b")) == ([4], [5])
    assert removing.trim_oldest(tables.db, channels) == {a: (1, each), b: (1, each)}
    assert removing.trim_oldest(tables.db, channels) == {}


def test_events_older_than_their_channel_allows_are_found(db, new_tables, small_steps, monkeypatch):
    now = [1_800_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: now[0] * 10**9)
    tables = new_tables(db, Keep(100, seconds=60), {"short": Keep(100, seconds=20)})
    for names in (["a", "short:a"], ["a", "short:a", "b"], ["a", "short:a", "b"], ["c"]):
        tables.publish(*[event(name, timestamp=timestamp()) for name in names])
        now[0] += 20
    channels = [tables.channels.get(name) for name in ("a", "short:a", "b", "c")]
    a, short, _, _ = channels
    now[0] -= 20  # 60, 40, 20 and 0 seconds after
    assert removing.find_old(db, channels) == [(short, 4)]
    now[0] += 1
    assert removing.find_old(db, channels) == [(a, 1), (short, 7)]
    now[0] += 1_000
    tables.publish(*[event("a")] * 3)
    assert removing.find_old(db, [a]) == [(a, 6)]  # The first few of many.


def test_a_forgotten_channel_raises_the_floor_of_its_namespace(tables):
    tables.publish(event("n:a"), event("n:b"), event("m:a"))
    ids = {name: tables.channels.get(name).id for name in ("n:a", "n:b", "m:a")}
    floors = (("n:a", 5), ("n:b", 4), ("m:a", 3))
    gone = [(ids[name], name[0], floor) for name, floor in floors]
    removing.forget_channels(tables.db, gone[:1])
    removing.forget_channels(tables.db, gone[1:])
    assert tables.floors() == ({}, {"n": 5, "m": 3})


def test_old_idempotency_records_are_removed_a_few_at_a_time(tables, small_steps):
    for moment, keys in ((100, "abcd"), (200, "xy")):
        onces = [Once("ann", key, 0, b"1") for key in keys]
        records = [record_of(once, Record(b"1", 1), moment) for once in onces]
        store.append(tables.db, Changes(0, records=records))
        usage = Usage(records=len(keys), record_bytes=len(keys) * (4 + RECORD_OVERHEAD))
        store.append(tables.db, Changes(0, usage=usage))
    found = []
    for _ in range(3):
        usage = store.load_usage(tables.db)
        removed = removing.trim_records(tables.db, oldest=140, usage=usage, bounds=Bounds())
        found.append(removed.records)
    assert found == [-3, -1, 0]
    assert tables.db.execute("SELECT key FROM published").fetchall() == [("x",), ("y",)]
    assert store.load_usage(tables.db) == Usage(records=2, record_bytes=2 * (4 + RECORD_OVERHEAD))


@pytest.mark.parametrize(
    "bounds", [Bounds(records=2), Bounds(record_bytes=2 * (4 + RECORD_OVERHEAD))]
)
def test_of_too_many_idempotency_records_the_oldest_go(tables, bounds):
    for moment, key in enumerate("abcd", 100):
        once = Once("ann", key, 0, b"1")
        usage = Usage(records=1, record_bytes=4 + RECORD_OVERHEAD)
        records = [record_of(once, Record(b"1", 1), moment)]
        store.append(tables.db, Changes(0, records=records, usage=usage))
    usage = store.load_usage(tables.db)
    removed = removing.trim_records(tables.db, oldest=43, usage=usage, bounds=bounds)
    assert removed.records == -2
    assert tables.db.execute("SELECT key FROM published").fetchall() == [("c",), ("d",)]


def test_what_is_removed_is_noted_as_gone(tables, small_steps):
    tables.publish(*[event("a"), event("b", 5)] * 5)
    channel = tables.channels.get("a")
    removing.trim_up_to(tables.db, channel, 9)
    removing.trim_oldest(tables.db, tables.channels.by_id)
    events, size = tables.db.execute(
        f"SELECT count(*), sum(length(data) + {ROW_OVERHEAD}) FROM events"
    ).fetchone()
    assert store.load_usage(tables.db) == Usage(events, size)


def test_a_failed_removal_changes_neither_events_nor_floors(tables):
    tables.publish(event(), event())
    channel = tables.channels.get("a")
    tables.db.execute(
        "CREATE TRIGGER fail BEFORE DELETE ON events BEGIN SELECT raise(ABORT, 'broken'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="broken"):
        removing.trim_up_to(tables.db, channel, 1)
    with pytest.raises(sqlite3.IntegrityError, match="broken"):
        removing.trim_oldest(tables.db, tables.channels.by_id)
    assert tables.seqs("a") == [1, 2]
    assert (channel.floor, tables.floors()[0]) == (0, {"a": 0})
