"""Events that are held back, on each engine: promised like all others, but without a position."""

import sqlite3

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.documents import Write
from triocast.engines.debounce import Debounce
from triocast.engines.sqlite import SQLiteEngine, file, store
from triocast.errors import IdempotencyConflict, Unavailable
from triocast.events import Event, Once, Pending, Publication

LONG = 3_600.0
"""A window that does not end while a test runs."""

SHORT = 0.02


def event(data, *, channel="a", type="T", key="k", **fields):
    return Event(type, b"%d" % data, channel, "2026-01-31T12:00:00.123Z", key=key, **fields)


def once(key, digest=b"1"):
    return Once(scope="alice", key=key, index=0, digest=digest)


class Outlet:
    has_room = True

    def __init__(self):
        self.got = []
        self.came = trio.Event()

    async def wait_for_room(self):
        raise AssertionError

    def put(self, publications):
        assert publications
        self.got += publications
        self.came.set()

    async def wait_for(self, count):
        while len(self.got) < count:
            self.came = trio.Event()
            await self.came.wait()

    @property
    def numbers(self):
        return [int(publication.event.data) for publication in self.got]


@pytest.fixture
def outlet():
    return Outlet()


@pytest.fixture
async def long(open_engine, outlet):
    async with open_engine(debounce=Debounce(LONG)) as engine:
        engine.attach(outlet)
        yield engine


async def test_the_first_has_a_position_and_the_next_is_pending(long, outlet):
    first, second = await long.publish([event(1), event(2)])
    assert isinstance(first, Publication)
    assert second == Pending(event(2))
    assert outlet.numbers == [1]
    assert long.head == first.position
    assert (await long.history(["a"], after=0, limit=9)).publications == (first,)
    assert long.merged == 0
    await long.publish([event(3)])
    assert long.merged == 1


async def test_the_last_is_accepted_when_the_window_ends(open_engine, outlet):
    async with open_engine(debounce=Debounce(SHORT)) as engine:
        engine.attach(outlet)
        other = event(9, channel="b", key=None)
        await wait_all_tasks_blocked()  # so that it has to be woken for what is held
        await engine.publish([event(1), event(2), other, event(3)])
        with trio.fail_after(5):
            await outlet.wait_for(3)
        assert outlet.numbers == [1, 9, 3]
        assert [p.prev for p in outlet.got] == [0, 0, outlet.got[0].seq]
        found = await engine.history(["a"], after=0, limit=9)
        assert found.publications == (outlet.got[0], outlet.got[2])
        assert found.head == engine.head == outlet.got[2].position


async def test_an_urgent_event_undoes_what_is_held(long, outlet):
    await long.publish([event(1, type="ON"), event(2, type="ON")])
    (stop,) = await long.publish([event(3, type="OFF", urgent=True)])
    assert isinstance(stop, Publication)
    await long.publish([event(4, type="SEEN")])
    assert outlet.numbers == [1, 3, 4]


async def test_what_is_held_is_not_overtaken(long, outlet):
    await long.publish([event(1, type="ON"), event(2, type="ON")])
    published = await long.publish([event(3, type="OFF")])
    assert outlet.numbers == [1, 2, 3]
    assert published == (outlet.got[2],)


async def test_a_publish_that_is_repeated_is_pending_again(long, outlet):
    await long.publish([event(1)])
    (first,) = await long.publish([event(2, once=once("x"))])
    (again,) = await long.publish([event(2, once=once("x"))])
    assert first == again == Pending(event(2))
    assert long.merged == 0
    with pytest.raises(IdempotencyConflict):
        await long.publish([event(3, once=once("x", b"2"))])
    await long.publish([event(4, type="OFF")])
    assert outlet.numbers == [1, 2, 4]


async def test_the_document_is_written_at_once(long):
    write = Write(b'"new"')
    await long.publish([event(1)])
    (pending,) = await long.publish([event(2, write=write, once=once("x"))])
    assert isinstance(pending, Pending)
    document = await long.document("a", "k")
    assert document.data == b'"new"'
    assert pending.event.version == document.version
    (again,) = await long.publish([event(2, write=write, once=once("x"))])
    assert again.event.version == document.version


async def test_what_is_held_can_be_forgotten(long, outlet):
    await long.publish([event(1), event(2), event(1, channel="b"), event(2, channel="b")])
    assert await long.forget(["a"]) == 2
    await long.publish([event(3, type="U"), event(3, type="U", channel="b")])
    assert outlet.numbers == [1, 1, 3, 2, 3]


async def test_it_waits_for_room_in_the_outlets(open_engine, new_outlet):
    async with open_engine(debounce=Debounce(SHORT)) as engine:
        outlet = new_outlet(1)
        engine.attach(outlet)
        await engine.publish([event(1), event(2)])
        while len(outlet.seqs) < 2:
            assert outlet.most == 1
            outlet.take()
            await trio.lowlevel.checkpoint()


class TestInAFile:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "events.db"

    @staticmethod
    def make(path, seconds=LONG, **how):
        return SQLiteEngine(
            path,
            history_events=100,
            history_bytes=10_000_000,
            debounce=Debounce(seconds),
            durable=False,
            **how,
        )

    async def served(self, path, use, seconds=LONG, **how):
        engine = self.make(path, seconds, **how)
        outlet = Outlet()
        engine.attach(outlet)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await use(engine, outlet)
            nursery.cancel_scope.cancel()
        engine.close()

    @pytest.mark.parametrize("seconds", [LONG, 0.0])
    async def test_it_comes_first_after_a_restart(self, path, seconds):
        held = event(3, tags=("x", "y"), user="alice")

        async def before(engine, outlet):
            await engine.publish([event(1), event(2), held, event(1, channel="b", key="m")])
            await engine.publish([event(2, channel="b", key="m", write=None)])
            assert outlet.numbers == [1, 1]

        async def after(engine, outlet):
            await engine.publish([event(4, type="OTHER")])
            assert outlet.numbers == [3, 2, 4]
            assert outlet.got[0].event == held
            found = await engine.history(["a"], after=0, limit=9)
            assert [p.event.data for p in found.publications] == [b"1", b"3", b"4"]
            assert [p.prev for p in found.publications] == [0, 1, 3]

        async def at_last(engine, outlet):
            await engine.publish([event(5, key="l")])
            assert outlet.numbers == [5]

        await self.served(path, before)
        await self.served(path, after, seconds)
        await self.served(path, at_last, seconds)

    async def test_it_comes_although_nobody_publishes(self, path):
        async def before(engine, outlet):
            await engine.publish([event(1), event(2)])

        async def after(engine, outlet):
            with trio.fail_after(5):
                await outlet.wait_for(1)
            assert outlet.numbers == [2]

        await self.served(path, before)
        await self.served(path, after)

    async def test_what_cannot_be_kept_is_not_held(self, path, monkeypatch):
        def fail(*_):
            raise sqlite3.OperationalError("disk I/O error")

        async def use(engine, outlet):
            await engine.publish([event(1), event(2)])
            with monkeypatch.context() as patch:
                patch.setattr(store, "append", fail)
                for refused in (event(3), event(3, type="OFF"), event(3, urgent=True)):
                    with pytest.raises(Unavailable):
                        await engine.publish([refused])
            assert engine.merged == 0
            await engine.publish([event(4, type="OFF")])
            assert outlet.numbers == [1, 2, 4]

        await self.served(path, use)

    async def test_a_release_that_cannot_be_kept_is_made_up_for(
        self, path, monkeypatch, autojump_clock
    ):
        append, calls = store.append, []

        def fail(db, changes):
            calls.append(trio.current_time())
            if len(calls) in (2, 3):
                raise sqlite3.OperationalError("disk I/O error")
            append(db, changes)

        monkeypatch.setattr(store, "append", fail)

        async def use(engine, outlet):
            await engine.publish([event(1), event(2)])
            await outlet.wait_for(2)
            assert outlet.numbers == [1, 2]
            began, failed, again, done = calls
            assert failed - began == pytest.approx(60)
            assert 0.5 < again - failed < 5
            assert 0.5 < done - again < 5

        await self.served(path, use, 60.0, run_sync=at_once)

    async def test_a_store_from_before_there_were_any_is_used(self, path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(file, "MIGRATIONS", file.MIGRATIONS[:1])
            file.open_file(path, durable=False).close()

        async def use(engine, outlet):
            await engine.publish([event(1), event(2), event(3, key="d", write=Write(b"1"))])
            assert (await engine.document("a", "d")).version == 1

        await self.served(path, use)
        db = sqlite3.connect(path)
        assert db.execute("PRAGMA user_version").fetchone() == (len(file.MIGRATIONS),)
        db.close()


async def at_once(function, *arguments, limiter):
    await trio.lowlevel.checkpoint()
    return function(*arguments)


def test_pending_events_are_told_from_others():
    assert Pending(event(1)) != attrs.evolve(event(1))
