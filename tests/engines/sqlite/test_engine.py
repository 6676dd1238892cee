"""The engine's own: over restarts, failures of the file, its end, and retention under load."""

import sqlite3
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.documents import ABSENT, Write
from triocast.engines.debounce import Debounce
from triocast.engines.retention import Keep
from triocast.engines.sqlite import SQLiteEngine, reading, removing, store
from triocast.engines.sqlite import engine as engine_module
from triocast.engines.sqlite.batch import Batch
from triocast.engines.sqlite.engine import StoreFailed
from triocast.engines.sqlite.rows import CommitUnclear, Transaction
from triocast.errors import (
    IdempotencyConflict,
    InternalError,
    OutcomeUnknown,
    TriocastError,
    Unavailable,
    VersionConflict,
)
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


def full(*arguments):
    raise sqlite3.OperationalError("database or disk is full")


DAMAGE = {
    "tags": "UPDATE events SET tags = '{' WHERE seq = 2",
    "type": "UPDATE events SET data = 'text' WHERE seq = 2",
    "text": "UPDATE events SET type = CAST(x'ff' AS TEXT) WHERE seq = 2",
    "timestamp": "UPDATE events SET timestamp = x'00' WHERE seq = 2",
}


class TestDamage:
    """One row that cannot be read costs nothing but itself, and whoever misses it is told."""

    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    async def test_an_event_that_cannot_be_read_is_told_as_missing(self, path, damage, caplog):
        async with opened(path) as engine:
            await engine.publish([event("a"), event("a"), event("b"), event("a")])
            engine._file.writer.execute(damage)
            for _ in range(2):
                history = await engine.history(["a", "b"], after=0, limit=9)
                assert [p.seq for p in history.publications] == [3, 4]
                assert history.floors == {"a": 2, "b": 0}
            page = await engine.history(["a", "b"], after=0, limit=1)
            assert ([p.seq for p in page.publications], page.complete) == ([3], False)
            assert engine.damaged == 1
            assert caplog.text.count("the event 2 of a cannot be read") == 1
            latest = await engine.latest(["a", "b"], limit=9, limit_bytes=1_000)
            assert [p.seq for p in latest] == [3, 4]
            assert [p.seq for p in await engine.publish([event("a")])] == [5]
            await engine.trim()

    async def test_a_document_that_cannot_be_read_can_be_written_anew(self, path):
        async with opened(path) as engine:
            await engine.publish([event("a", key="k", write=Write(b"1"))])
            engine._file.writer.execute("UPDATE documents SET data = 7")
            with pytest.raises(StoreFailed, match="write or remove it"):
                await engine.document("a", "k")
            with pytest.raises(StoreFailed):
                await engine.documents("a", limit=9, limit_bytes=1_000)
            await engine.publish([event("a", key="k", write=Write(b"2"))])
            assert (await engine.document("a", "k")).data == b"2"

    async def test_a_held_event_that_cannot_be_read_does_not_keep_the_store_closed(
        self, path, caplog
    ):
        async with opened(path, debounce=Debounce(60)) as engine:
            await engine.publish([event("a", key="k"), event("a", key="k"), event("b", key="k")])
            await engine.publish([event("b", key="k")])
            engine._file.writer.execute("UPDATE held SET tags = '{' WHERE channel = 'a'")
        async with opened(path) as engine:
            while engine.head.seq < 3:
                await wait_all_tasks_blocked(0.01)
            assert await seqs_of(engine, "b") == [2, 3]
        assert "held back in a is lost" in caplog.text

    async def test_an_error_of_ours_fails_the_job_that_has_it(self, path, monkeypatch, caplog):
        real = store.append

        def append(db, changes):
            if any(row[3] == "poison" for row in changes.rows):
                raise ZeroDivisionError("of ours")
            real(db, changes)

        monkeypatch.setattr(store, "append", append)
        outcomes = {}

        async def publish(type):
            try:
                (accepted,) = await engine.publish([attrs.evolve(event("a"), type=type)])
                outcomes[type] = accepted.seq
            except TriocastError as error:
                outcomes[type] = error.code

        async with opened(path) as engine:
            async with trio.open_nursery() as publishing:
                for type in ("one", "poison", "two"):
                    publishing.start_soon(publish, type)
            assert outcomes.pop("poison") == "internal"
            assert sorted(outcomes.values()) == [1, 2]
            assert await seqs_of(engine, "a") == [1, 2]
        assert "ZeroDivisionError: of ours" in caplog.text

    async def test_a_read_with_an_error_of_ours_fails_alone(self, path, monkeypatch, caplog):
        async with opened(path) as engine:
            await engine.publish([event("a")])
            with monkeypatch.context() as patch:
                patch.setattr(reading, "read", lambda *arguments: 1 // 0)
                with pytest.raises(InternalError):
                    await engine.history(["a"], after=0, limit=1)
            assert await seqs_of(engine, "a") == [1]
        assert "ZeroDivisionError" in caplog.text


class TestOutcomes:
    async def test_a_commit_whose_disk_failed_has_an_unknown_outcome(self, path, monkeypatch):
        def fail(*arguments):
            raise CommitUnclear("disk I/O error")

        async with opened(path) as engine:
            monkeypatch.setattr(store, "append", fail)
            with pytest.raises(OutcomeUnknown, match="idempotency key"):
                await engine.publish([event("a")])

    @pytest.mark.parametrize(
        ("name", "is_unclear"), [("SQLITE_IOERR_FSYNC", True), ("SQLITE_FULL", False)]
    )
    def test_only_a_disk_that_failed_in_the_commit_leaves_it_unclear(self, name, is_unclear):
        class Database:
            in_transaction = True

            def execute(self, statement):
                if statement == "COMMIT":
                    error = sqlite3.OperationalError("no")
                    error.sqlite_errorname = name
                    raise error

        def commit():
            with Transaction(Database()):
                pass

        with pytest.raises(sqlite3.OperationalError) as failed:
            commit()
        assert isinstance(failed.value, CommitUnclear) is is_unclear


class TestHealth:
    async def test_a_store_that_commits_is_healthy(self, path):
        async with opened(path) as engine:
            await engine.check_health()

    async def test_a_full_disk_is_found_before_anybody_publishes(self, path, monkeypatch):
        async with opened(path) as engine:
            monkeypatch.setattr(store, "append", full)
            with pytest.raises(StoreFailed, match="full"):
                await engine.check_health()

    async def test_a_disk_that_is_full_for_events_is_not_healthy_for_an_empty_commit(
        self, path, monkeypatch
    ):
        free = [100]
        monkeypatch.setattr(
            engine_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0])
        )
        async with opened(path) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(store, "append", full)
                with pytest.raises(StoreFailed):
                    await engine.publish([event("a")])
            for _ in range(2):
                with pytest.raises(StoreFailed, match="100 bytes are free"):
                    await engine.check_health()
            free[0] = 10**9
            await engine.check_health()
            free[0] = 100
            await engine.publish([event("a")])
            await engine.check_health()

    async def test_a_disk_that_does_not_answer_is_not_healthy(self, path, monkeypatch):
        hangs, real = threading.Event(), store.append

        def append(*arguments):
            hangs.wait()
            real(*arguments)

        monkeypatch.setattr(store, "append", append)
        monkeypatch.setattr(engine_module, "PROBE_SECONDS", 0.01)
        async with opened(path) as engine:
            try:
                with pytest.raises(StoreFailed, match="for a commit"):
                    await engine.check_health()
            finally:
                hangs.set()

    async def test_an_engine_that_does_not_run_is_not_healthy(self, path, autojump_clock):
        engine = SQLiteEngine(path, history_events=9, history_bytes=10**6)
        with pytest.raises(StoreFailed):
            await engine.check_health()
        engine.close()


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
            publishing.start_soon(publish, engine)  # noqa: ASYNC111  # it outlives the engine
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
            reads.start_soon(read, engine)  # noqa: ASYNC111  # it outlives the engine
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
                patch.setattr(removing, "forget_channels", fail)
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


class TestSteps:
    """Whatever clients publish at one time, others get their turn meanwhile."""

    COUNT = 2_000

    @pytest.fixture
    def counted(self, monkeypatch, work):
        real = Batch.accept

        def accept(batch, event):
            work.did()
            return real(batch, event)

        monkeypatch.setattr(Batch, "accept", accept)
        return work

    @pytest.mark.parametrize("requests", [1, COUNT])
    async def test_a_large_commit_is_cut(self, path, counted, requests):
        def events(first, count):
            onces = (Once("ann", f"{i}", 0, b"1") for i in range(first, first + count))
            return [attrs.evolve(event("a"), once=once) for once in onces]

        each = self.COUNT // requests
        async with opened(path) as engine:
            for _ in range(2):  # The second time all of it is known.
                async with trio.open_nursery() as publishing:
                    for first in range(0, self.COUNT, each):
                        publishing.start_soon(engine.publish, events(first, each))
                assert engine.head.seq == self.COUNT
        assert counted.done == 2 * self.COUNT
        assert counted.longest <= counted.PER_TURN + 1

    async def test_a_commit_that_is_cancelled_between_two_events_is_none(
        self, path, counted, monkeypatch
    ):
        """The engine ends; its publishers are told that nothing was done, and that is so."""
        real, refused = Batch.accept, []

        def accept(batch, each):
            counted.did(10 * counted.PER_TURN)
            if each.data == b"7":
                running.cancel_scope.cancel()
            return real(batch, each)

        async def publish(engine):
            try:
                await engine.publish([event("a", b"%d" % n) for n in range(20)])
            except Unavailable as error:
                refused.append(error)

        monkeypatch.setattr(Batch, "accept", accept)
        engine = SQLiteEngine(path, history_events=100, history_bytes=10**8, durable=False)
        async with trio.open_nursery() as publishing, trio.open_nursery() as running:
            running.start_soon(engine.run)
            publishing.start_soon(publish, engine)
        engine.close()
        assert len(refused) == 1
        assert not isinstance(refused[0], OutcomeUnknown)
        monkeypatch.undo()
        async with opened(path) as engine:
            assert engine.head.seq == 0
            assert await seqs_of(engine, "a") == []
