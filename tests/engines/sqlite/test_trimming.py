"""Retention of a store: expired events are removed in small steps, and writers go in between."""

import sqlite3
import time
from itertools import pairwise

import pytest
import trio

from triocast.clock import timestamp
from triocast.engines.idempotency import Record
from triocast.engines.retention import Keep
from triocast.engines.sqlite import channels as channels_module
from triocast.engines.sqlite import removing, store, trimming
from triocast.engines.sqlite.channels import Channels
from triocast.engines.sqlite.rows import ROW_OVERHEAD
from triocast.engines.sqlite.store import Changes, record_of
from triocast.engines.sqlite.trimming import Trimming
from triocast.engines.usage import Bounds, Usage
from triocast.engines.worker import Thread
from triocast.events import Event, Once


def event(channel="a", data=b"1", **fields):
    return Event("T", data, channel, **{"timestamp": "2026-01-31T12:00:00.123Z"} | fields)


def trimming_of(tables, *, history_bytes=10**9, oldest_record=0.0, lock=None, bounds=None):
    usage = [store.load_usage(tables.db)]

    def note_removed(less):
        usage[0] += less

    return Trimming(
        tables.db,
        retention=tables.retention,
        history_bytes=history_bytes,
        oldest_record=lambda: oldest_record,
        bounds=bounds or Bounds(),
        usage=lambda: usage[0],
        note_removed=note_removed,
        lock=lock or trio.Lock(),
        thread=Thread(),
        channels=tables.channels.by_id,
        forget=tables.channels.forget,
    )


@pytest.fixture
def small_steps(monkeypatch):
    """Make one transaction remove at most ten events."""
    monkeypatch.setattr(removing, "TRIM_EVENTS", 10)


@pytest.mark.parametrize(
    ("keep", "published", "left"),
    [
        (Keep(10), 26, 26),
        (Keep(10), 27, 10),
        (Keep(400), 440, 440),
        (Keep(400), 441, 400),
        (Keep(0), 16, 16),
        (Keep(0), 17, 0),
        (Keep(100, size=5 * (ROW_OVERHEAD + 1)), 5, 5),
        (Keep(100, size=5 * (ROW_OVERHEAD + 1)), 6, 5),
    ],
)
async def test_a_channel_may_exceed_its_number_a_little_but_never_its_bytes(
    db, new_tables, keep, published, left
):
    tables = new_tables(db, keep)
    retention = trimming_of(tables)
    tables.publish(*[event()] * published)
    retention.note(tables.channels.get("a"))
    await retention.keep_up(published)
    assert len(tables.seqs("a")) == left
    assert tables.seqs("a") == list(range(published - left + 1, published + 1))
    await retention.trim()
    assert len(tables.seqs("a")) == min(left, published, keep.events)


async def test_twice_as_many_events_are_removed_as_were_published(db, new_tables, small_steps):
    tables = new_tables(db, Keep(0))
    retention = trimming_of(tables)
    tables.publish(*[event()] * 100)
    retention.note(tables.channels.get("a"))
    for published, left in ((0, 100), (5, 90), (6, 70), (100, 0), (1, 0)):
        await retention.keep_up(published)
        assert len(tables.seqs("a")) == left


async def test_the_oldest_of_all_go_where_events_have_too_many_bytes(tables, small_steps):
    tables.publish(*[event("a"), event("b")] * 25)
    retention = trimming_of(tables, history_bytes=12 * (ROW_OVERHEAD + 1))
    await retention.keep_up(5)
    assert (tables.seqs("a")[0], tables.seqs("b")[0]) == (11, 12)
    await retention.keep_up(100)
    left = len(tables.seqs("a")) + len(tables.seqs("b"))
    assert left == 10
    await retention.keep_up(100)
    assert len(tables.seqs("a")) + len(tables.seqs("b")) == left


async def test_documents_and_records_remove_no_event(tables, small_steps):
    tables.publish(*[event()] * 5)
    usage = Usage(documents=9, document_bytes=10**6, records=9, record_bytes=10**6)
    store.append(tables.db, Changes(5, usage=usage))
    retention = trimming_of(tables, history_bytes=5 * (ROW_OVERHEAD + 1))
    await retention.keep_up(5)
    await retention.trim()
    assert len(tables.seqs("a")) == 5


async def test_trimming_ends_if_the_file_cannot_become_small_enough(tables):
    tables.publish(*[event("a"), event("b")] * 3)
    await trimming_of(tables, history_bytes=0).trim()
    assert tables.seqs("a") == tables.seqs("b") == []
    assert list(tables.channels.by_id) == []


async def test_old_events_are_removed_from_every_channel(db, new_tables, small_steps, monkeypatch):
    now = [1_800_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: now[0] * 10**9)
    monkeypatch.setattr(trimming, "_CHANNELS_PER_TURN", 2)
    tables = new_tables(db, namespaces={"n": Keep(10**6, seconds=60)})
    names = [f"n:{number}" for number in range(5)]
    for _ in range(2):
        tables.publish(*[event(c, timestamp=timestamp()) for c in [*names, "ever"] * 25])
        now[0] += 61
    now[0] -= 10
    retention = trimming_of(tables)
    await retention.keep_up(100)
    assert len(tables.seqs("n:0")) == 50
    await retention.trim()
    assert {len(tables.seqs(name)) for name in names} == {25}
    assert len(tables.seqs("ever")) == 50


async def test_old_idempotency_records_are_removed(tables, small_steps):
    for moment, keys in ((100, range(25)), (200, "xy")):
        onces = [Once("ann", f"{key}", 0, b"1") for key in keys]
        records = [record_of(once, Record(b"1", 1), moment) for once in onces]
        store.append(tables.db, Changes(0, records=records))
    await trimming_of(tables, oldest_record=140.0).trim()
    assert tables.db.execute("SELECT key FROM published").fetchall() == [("x",), ("y",)]


async def test_too_many_idempotency_records_go_while_others_are_published(tables, small_steps):
    records = [record_of(Once("ann", f"{key}", 0, b"1"), Record(b"1", 1), 100) for key in range(25)]
    store.append(tables.db, Changes(0, records=records, usage=Usage(records=25)))
    retention = trimming_of(tables, bounds=Bounds(records=5))
    for left in (15, 5, 5):
        await retention.keep_up(1)
        assert tables.db.execute("SELECT count(*) FROM published").fetchone() == (left,)


@pytest.mark.parametrize("most", [1_000, 7])
async def test_channels_are_forgotten_together(new_store, new_tables, monkeypatch, most):
    """A transaction may wait for the disk, and publishers wait for it."""
    monkeypatch.setattr(channels_module, "MAX_NAMESPACES", most)
    monkeypatch.setattr(removing, "TRIM_EVENTS", 31)
    with new_store() as file:
        tables = new_tables(file.writer)
        tables.publish(*[event(f"n{i}:x") for i in range(30)], event("$all"), event("stays"))
        commits = []
        file.writer.set_trace_callback(lambda text: text == "COMMIT" and commits.append(text))
        await trimming_of(tables, history_bytes=ROW_OVERHEAD + 1).trim()
        assert set(tables.floors()[0]) == {"stays"}
        assert len(commits) <= 4 + 2 * (30 // most)
        again = Channels(
            store.load_channels(file.writer, tables.retention),
            store.load_namespace_floors(file.writer),
            tables.retention,
        )
        names = ["$all", "$user:u", "stays", "other:x", "*", "n3:*"]
        names += [f"n{i}:x" for i in range(30)]
        assert [again.floor(n) for n in names] == [tables.channels.floor(n) for n in names]


async def test_a_channel_can_be_emptied_up_to_an_event(tables, small_steps):
    tables.publish(*[event("a"), event("b")] * 25)
    retention = trimming_of(tables)
    assert await retention.remove(tables.channels.get("a"), 45) == 23
    assert tables.seqs("a") == [47, 49]
    assert tables.channels.floor("a") == 45
    assert await retention.remove(tables.channels.get("a"), 49) == 2
    assert len(tables.seqs("b")) == 25


async def test_the_namespace_keeps_the_floor_of_an_empty_channel(tables):
    tables.publish(event("n:a"), event("n:b"), event("n:a"))
    channel = tables.channels.get("n:a")
    await trimming_of(tables).remove(channel, channel.last)
    assert tables.channels.get("n:a") is None
    assert tables.channels.floor("n:a") == 3
    assert tables.floors() == ({"n:b": 0}, {"n": 3})


async def test_a_writer_waits_for_at_most_one_step(db, new_tables, small_steps):
    tables = new_tables(db, Keep(0))
    tables.publish(*[event()] * 100)
    lock, left = trio.Lock(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trimming_of(tables, lock=lock).trim)
        while tables.channels.get("a") is not None:
            async with lock:
                left.append(len(tables.seqs("a")))
    assert left[-1] <= 10
    assert all(before - after <= 10 for before, after in pairwise(left))


async def test_counts_stay_right_if_a_channel_cannot_be_forgotten(tables, monkeypatch):
    """If they were too high, too many events of the other channels would be removed."""

    def fail(*arguments):
        raise sqlite3.OperationalError("disk I/O error")

    tables.publish(event("a"), *[event("b")] * 600)
    with monkeypatch.context() as patch:
        patch.setattr(removing, "forget_channels", fail)
        with pytest.raises(sqlite3.OperationalError):
            await trimming_of(tables, history_bytes=0).trim()
    other = tables.channels.get("b")
    assert other.count == len(tables.seqs("b")) == 101
    assert other.size == 101 * (ROW_OVERHEAD + 1)


async def test_floors_of_very_many_namespaces_become_one_that_tells_of_every_loss(
    tables, monkeypatch
):
    monkeypatch.setattr(channels_module, "MAX_NAMESPACES", 3)
    names = ["n0:a", "n1:a", "$user:u", "n2:a", "n3:a"]
    tables.publish(*[event(name) for name in names])
    retention = trimming_of(tables)
    for name in names:
        channel = tables.channels.get(name)
        await retention.remove(channel, channel.last)
    expected = {"": 4, "$user": 3, "n3": 5}
    assert tables.floors() == ({}, expected)
    assert {name: tables.channels.floor(f"{name}:a") for name in ("n0", "other", "n3")} == {
        "n0": 4,
        "other": 4,
        "n3": 5,
    }
    assert tables.channels.floor("$user:x") == 3
    assert tables.channels.floor("*") == 5
    reloaded = Channels((), store.load_namespace_floors(tables.db), tables.retention)
    assert reloaded.floor("n0:a") == 4
