"""The engine's own: over restarts, failures of the file, its end, and retention under load."""

import sqlite3
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.documents import ABSENT, Write
from triocast.engines.retention import Keep
from triocast.engines.sqlite import SQLiteEngine, reading, removing, store
from triocast.engines.sqlite.engine import StoreFailed
from triocast.errors import IdempotencyConflict, TriocastError, Unavailable, VersionConflict
from triocast.events import Event, Once


def event(channel="a", data=b"1", **fields):
    return Event("T", data, channel, "2026-01-31T12:00:00.123Z", **fields)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.db"


@asynccontextmanager
async def opened(path, **bounds):
    bounds = {"history_events": 100, "history_bytes": 10_000_000, "durable": False} | bounds
    engine = SQLiteEngine(path, **bounds)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
    finally:
        engine.close()


async def seqs_of(engine, *channels):
    history = await engine.history(channels, after=0, limit=100_000)
    return [publication.seq for publication in history.publications]


async def publish(path, *events, **bounds):
    async with opened(path, **bounds) as engine:
        return await engine.publish(events)


async def test_everything_is_there_again(path):
    async with opened(path, history_events=3) as engine:
        await engine.publish([event(c) for c in "aabaa"] + [event("$conn:x")])
        await engine.publish([event("c", once=Once("ann", "k", 0, b"1"))])
        await engine.trim()
        before = await engine.history(["a", "b", "c"], after=0, limit=10)
    async with opened(path, history_events=3) as engine:
        assert await engine.history(["a", "b", "c"], after=0, limit=10) == before
        assert before.floors == {"a": 1, "b": 0, "c": 0}
        (publication,) = await engine.publish([event("a")])
        assert (publication.seq, publication.prev) == (8, 5)
        with pytest.raises(IdempotencyConflict):
            await engine.publish([event("c", once=Once("ann", "k", 0, b"2"))])


async def test_what_was_kept_before_counts_in_bytes(path):
    bounds = {"namespaces": {"default": Keep(100, size=10_000)}}
    await publish(path, *[event(data=b"%04000d" % n) for n in range(2)], **bounds)
    async with opened(path, **bounds) as engine:
        assert await seqs_of(engine, "a") == [1, 2]
        await engine.publish([event(data=b"%04000d" % 3)])
        await engine.trim()
        assert await seqs_of(engine, "a") == [2, 3]


async def test_a_forgotten_channel_keeps_its_floor(path):
    async with opened(path, history_events=0) as engine:
        await engine.publish([event("n:a"), event("n:b")])
        await engine.trim()
    async with opened(path) as engine:
        history = await engine.history(["n:a", "m:a"], after=0, limit=1)
        assert history.floors == {"n:a": 2, "m:a": 0}
        assert (await engine.publish([event("n:a")]))[0].prev == 2


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("before", [None, 4])
@pytest.mark.parametrize("keep", [100, 0])
async def test_what_is_accepted_while_history_is_read_is_for_the_next_time(
    path, monkeypatch, moment, newest, before, keep
):
    """Or a reader that goes on behind ``head`` passes it."""

    async def publish_more():
        await engine.publish([event("a"), event("b")])
        await engine.trim()

    def read(*arguments):
        if moment == "before":
            trio.from_thread.run(publish_more)
        found = real(*arguments)
        if moment == "after":
            trio.from_thread.run(publish_more)
        return found

    real = reading.read
    async with opened(path, namespaces={"default": Keep(keep)}) as engine:
        await engine.publish([event("a"), event("b")])
        with monkeypatch.context() as patch:
            patch.setattr(reading, "read", read)
            history = await engine.history(
                ["a", "b"], after=0, limit=9, before=before, newest=newest
            )
        assert engine.head.seq == 4
        assert history.head.seq == 2
        assert history.complete
        if keep:
            assert [p.seq for p in history.publications] == [1, 2]
            assert history.floors == {"a": 0, "b": 0}
            assert await seqs_of(engine, "a", "b") == [1, 2, 3, 4]
        else:
            assert history.publications == ()
            assert 1 <= history.floors["a"] <= 2
            assert history.floors["b"] == 2


async def test_a_page_is_read_again_if_all_its_events_are_removed_meanwhile(path, monkeypatch):
    """From an empty page with more to come a reader could not continue."""

    def read(*arguments):
        found = real(*arguments)
        if not forgotten:
            forgotten.append(trio.from_thread.run(engine.forget, ["a"]))
        return found

    real, forgotten = reading.read, []
    async with opened(path) as engine:
        await engine.publish([event("a"), event("a"), event("b"), event("b")])
        monkeypatch.setattr(reading, "read", read)
        history = await engine.history(["a", "b"], after=0, limit=1)
    assert forgotten == [2]
    assert [p.seq for p in history.publications] == [3]
    assert not history.complete
    assert history.floors["a"] == 2


class TestFailures:
    async def test_what_cannot_be_kept_is_refused_and_leaves_nothing(self, path, monkeypatch):
        async with opened(path) as engine:
            await engine.publish([event("a")])
            with monkeypatch.context() as patch:

                def fail(*arguments):
                    raise sqlite3.OperationalError("database or disk is full")

                patch.setattr(store, "append", fail)
                with pytest.raises(StoreFailed, match="disk is full"):
                    await engine.publish([event("a"), event("new")])
                with pytest.raises(StoreFailed):
                    await engine.check_health()
                assert await seqs_of(engine, "a", "new") == [1]
            await engine.check_health()
            publications = await engine.publish([event("a"), event("new")])
            assert [(p.seq, p.prev) for p in publications] == [(2, 1), (3, 0)]

    @pytest.mark.parametrize(
        ("fields", "refusal"),
        [
            ({"key": "k", "write": Write(b"1", ABSENT)}, VersionConflict),
            ({"once": Once("ann", "k", 0, b"%d")}, IdempotencyConflict),
        ],
        ids=["document", "idempotency key"],
    )
    async def test_no_publish_is_refused_because_of_a_failed_commit(
        self, path, monkeypatch, fields, refusal
    ):
        """Two publishes of one commit conflict: the second is refused only if the first is kept."""
        errors = []

        async def publish(number):
            once = fields.get("once")
            mine = {"once": attrs.evolve(once, digest=b"%d" % number)} if once else {}
            try:
                await engine.publish([event(**fields | mine)])
            except TriocastError as error:
                errors.append(type(error))

        def fail(*arguments):
            raise sqlite3.OperationalError("disk I/O error")

        async with opened(path) as engine:
            for append, found in ((fail, [StoreFailed] * 2), (store.append, [refusal])):
                errors.clear()
                with monkeypatch.context() as patch:
                    patch.setattr(store, "append", append)
                    async with trio.open_nursery() as publishing:
                        publishing.start_soon(publish, 1)
                        publishing.start_soon(publish, 2)
                assert errors == found

    async def test_retention_that_fails_does_not_end_publishing(self, path, monkeypatch):
        async with opened(path, history_events=1) as engine:
            with monkeypatch.context() as patch:

                def fail(*arguments):
                    raise sqlite3.OperationalError("disk I/O error")

                patch.setattr(removing, "trim_channel", fail)
                for _ in range(30):
                    await engine.publish([event("a")])
            (publication,) = await engine.publish([event("a")])
            assert publication.seq == 31

    async def test_what_cannot_be_read_is_told(self, path, monkeypatch):
        def fail(*arguments):
            raise sqlite3.OperationalError("disk I/O error")

        async with opened(path) as engine:
            await engine.publish([event("a")])
            with monkeypatch.context() as patch:
                patch.setattr(reading, "read", fail)
                with pytest.raises(StoreFailed, match="I/O"):
                    await engine.history(["a"], after=0, limit=1)
            assert await seqs_of(engine, "a") == [1]


class TestEnd:
    async def test_a_publish_after_it_is_refused(self, path):
        async with opened(path) as engine:
            pass
        with pytest.raises(Unavailable, match="going away"):
            await engine.publish([event()])

    async def test_a_publish_that_has_begun_is_finished_and_answered(self, path, monkeypatch):
        real = store.find_known

        def find_known(*arguments, **options):
            trio.from_thread.run_sync(end.set)
            return real(*arguments, **options)

        monkeypatch.setattr(store, "find_known", find_known)
        end, accepted = trio.Event(), []

        async def publish(engine):
            accepted.extend(await engine.publish([event(once=Once("ann", "k", 0, b"1"))]))

        async with trio.open_nursery() as publishing, opened(path) as engine:
            publishing.start_soon(publish, engine)
            await end.wait()
        assert [publication.seq for publication in accepted] == [1]
        async with opened(path) as engine:
            assert await seqs_of(engine, "a") == [1]

    async def test_a_read_that_has_not_begun_is_refused_at_once(self, path, monkeypatch):
        real, answers = reading.read_document, []

        async def read(engine):
            try:
                answers.append(await engine.document("a", "k"))
            except Unavailable as error:
                answers.append(error.message)

        async def end_while_another_reads():
            reads.start_soon(read, engine)
            await wait_all_tasks_blocked()
            end.set()

        def read_document(*arguments):
            monkeypatch.undo()
            trio.from_thread.run(end_while_another_reads)
            return real(*arguments)

        monkeypatch.setattr(reading, "read_document", read_document)
        end = trio.Event()
        async with trio.open_nursery() as reads, opened(path) as engine:
            reads.start_soon(read, engine)
            await end.wait()
        assert answers == [None, "this server is going away"]


class TestForgetting:
    async def test_a_channel_works_after_the_caller_of_forget_was_cancelled(
        self, path, monkeypatch
    ):
        real = removing.trim_up_to

        def trim_up_to(*arguments):
            trio.from_thread.run_sync(scope.cancel)
            return real(*arguments)

        async with opened(path) as engine:
            await engine.publish([event("a")])
            monkeypatch.setattr(removing, "trim_up_to", trim_up_to)
            with trio.CancelScope() as scope:
                await engine.forget(["a"])
            (publication,) = await engine.publish([event("a")])
            assert (publication.seq, publication.prev) == (2, 1)

    async def test_a_channel_works_after_forgetting_it_failed(self, path, monkeypatch):
        def fail(*arguments):
            raise sqlite3.OperationalError("disk I/O error")

        async with opened(path) as engine:
            await engine.publish([event("a")])
            with monkeypatch.context() as patch:
                patch.setattr(removing, "forget_channel", fail)
                with pytest.raises(StoreFailed):
                    await engine.forget(["a"])
            await engine.publish([event("a"), event("b")])
            before = await engine.history(["a", "b"], after=0, limit=9)
            assert [(p.seq, p.prev) for p in before.publications] == [(2, 1), (3, 1)]
        async with opened(path) as engine:
            assert await engine.history(["a", "b"], after=0, limit=9) == before


@pytest.mark.parametrize("bound", [{"history_events": 50}, {"history_bytes": 2_000_000}])
async def test_retention_keeps_up_with_publishers(path, bound):
    """What is above the bound does not pile up while they are at work."""
    most = 0

    async def publish_many(engine):
        nonlocal most
        for _ in range(40):
            await engine.publish([event("a", b"x" * 1_000)] * 20)
            (channel,) = engine._channels.by_id.values()
            most = max(most, channel.count)

    bounds = {"history_events": 10**6} | bound
    async with opened(path, **bounds) as engine, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(publish_many, engine)
    assert 50 < most < 4_000  # of 8 000
