"""Reads of a store: each answered when it is done, in slices, and only what is done can be late."""

import sqlite3
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast import turns
from triocast.engines.sqlite import reader as reader_module
from triocast.engines.sqlite.reader import SLICE_SECONDS, Reader
from triocast.engines.worker import PATIENCE_SECONDS, Thread
from triocast.errors import InternalError, Unavailable

DBS = ("one", "two", "three")
"""Stand for connections."""


class Reads:
    """A reader whose turns a test does, and what became of its reads."""

    def __init__(self, nursery, connections=DBS):
        self.answers = []
        self.scopes = {}
        self.explained = []
        self.gate = trio.Event()
        self.gate.set()
        self.turns = 0
        self._waiters = []
        self.reader = Reader(connections, Thread(self._run_sync), explain=self._explain)
        self._nursery = nursery
        self._clock = 0.0

    async def _run_sync(self, function, *arguments, limiter):
        for _ in range(5):  # An answer takes its way.
            await trio.lowlevel.checkpoint()
        await self.gate.wait()
        self.turns += 1
        try:
            return function(*arguments)
        finally:
            for reached, event in self._waiters:
                if reached():
                    event.set()

    async def until(self, reached):
        """Return after the first turn at whose end this is so."""
        event = trio.Event()
        self._waiters.append((reached, event))
        await event.wait()

    def _explain(self, error):
        self.explained.append(error)
        return InternalError()

    def now(self):
        return self._clock

    def take(self, slices):
        """Let time pass."""
        self._clock += slices * SLICE_SECONDS * 1.01

    def run(self):
        self._nursery.start_soon(self.reader.run)

    def ask(self, name, work):
        scope = self.scopes[name] = trio.CancelScope()

        async def ask():
            with scope:
                try:
                    answer = await self.reader.do(work)
                except Unavailable as error:
                    answer = error.message
                except InternalError as error:
                    answer = error.code
                self.answers.append((name, answer))

        self._nursery.start_soon(ask)

    def long(self, name, slices, log=None):
        """Ask for a read of some slices."""

        def work(db):
            for number in range(slices):
                if log is not None:
                    log.append((name, number))
                self.take(1)
                yield
            return db

        self.ask(name, work)


@pytest.fixture
def reads(nursery, monkeypatch):
    reads = Reads(nursery)
    monkeypatch.setattr(turns, "now", reads.now)
    return reads


async def test_each_read_is_answered_when_it_is_done(reads):
    reads.run()
    seen = []

    def look(name):
        def work(db):
            seen.append((name, list(reads.answers)))
            reads.take(10)  # More than a turn: what is asked next is for the next one.
            return name.upper()

        return work

    for name in "abc":
        reads.ask(name, look(name))
    await wait_all_tasks_blocked()
    assert sorted(reads.answers) == [("a", "A"), ("b", "B"), ("c", "C")]
    assert [len(answered) for _, answered in seen] == [0, 1, 2]


async def test_an_answer_does_not_wait_for_the_next_read(nursery):
    """Though both are done in one go."""
    stuck, answered = threading.Event(), trio.Event()
    reader = Reader(DBS, Thread(), explain=lambda error: InternalError())

    async def ask_first():
        assert await reader.do(lambda db: 1) == 1
        answered.set()

    async def ask_second():
        assert await reader.do(lambda db: stuck.wait())

    nursery.start_soon(ask_first)
    await wait_all_tasks_blocked()
    nursery.start_soon(ask_second)
    await wait_all_tasks_blocked()
    nursery.start_soon(reader.run)
    await answered.wait()
    stuck.set()


async def test_a_long_read_lets_short_ones_go_before(reads):
    reads.long("long", 50)
    await wait_all_tasks_blocked()
    reads.run()
    await trio.lowlevel.checkpoint()
    for number in range(5):
        reads.ask(number, lambda db: "short")
    await wait_all_tasks_blocked()
    assert [name for name, _ in reads.answers][-1] == "long"
    assert sorted(name for name, _ in reads.answers[:-1]) == list(range(5))


async def test_short_reads_do_not_keep_a_long_one_from_its_end(reads):
    """However many come, one for each slice of it."""
    log = []
    reads.long("long", 10, log)
    await wait_all_tasks_blocked()

    def another(number):
        def work(db):
            if len(log) < 10:
                reads.ask(number + 1, another(number + 1))
            reads.take(1)
            return number

        return work

    reads.ask(0, another(0))
    reads.run()
    await wait_all_tasks_blocked()
    assert "long" in dict(reads.answers)


async def test_long_reads_take_turns(reads):
    log = []
    for name in "ab":
        reads.long(name, 6, log)
        await wait_all_tasks_blocked()
    reads.run()
    await wait_all_tasks_blocked()
    assert {name for name, _ in reads.answers} == set("ab")
    assert len(log) == 2 * 6
    for one, other in ("ab", "ba"):
        assert log.index((one, 1)) < log.index((other, 5))


async def test_a_short_read_never_waits_for_long_ones(reads):
    """However many there are, and however long they take."""
    log = []
    for number in range(20):
        reads.long(number, 10, log)
    await wait_all_tasks_blocked()
    reads.run()
    await reads.until(lambda: len(log) >= 50)
    long_before = len(reads.answers)
    reads.ask("short", lambda db: reads.turns)
    asked = reads.turns
    await wait_all_tasks_blocked()
    (done,) = [answer for name, answer in reads.answers if name == "short"]
    assert done <= asked + 2
    assert long_before < 10
    # Those that took a slice and were begun anew have done what they were asked all the same.
    assert len(reads.answers) == 21
    assert len(log) <= 20 * 11
    assert len(reads.reader._free) == len(DBS)


async def test_one_that_is_cancelled_is_left_out_or_ended(reads):
    ended = []

    def endless(db):
        try:
            while True:
                reads.take(1)
                yield
        finally:
            ended.append(db)

    reads.ask("endless", endless)
    await wait_all_tasks_blocked()
    reads.gate = trio.Event()
    reads.run()
    reads.ask("waiting", lambda db: pytest.fail("nobody waits for it"))
    await wait_all_tasks_blocked()
    reads.scopes["waiting"].cancel()
    await wait_all_tasks_blocked()
    reads.gate.set()
    await reads.until(lambda: reads.turns > 2)
    reads.scopes["endless"].cancel()
    await wait_all_tasks_blocked()
    assert len(ended) == 1
    assert reads.answers == []
    reads.ask("next", lambda db: "done")
    await wait_all_tasks_blocked()
    assert reads.answers == [("next", "done")]
    assert len(reads.reader._free) == len(DBS)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("x"), ValueError("y")])
async def test_an_error_ends_its_read_alone(reads, error):
    def fail(db):
        raise error

    def fail_later(db):
        yield
        raise error

    reads.run()
    for name, work in (("at once", fail), ("later", fail_later), ("other", lambda db: 1)):
        reads.ask(name, work)
    await wait_all_tasks_blocked()
    assert dict(reads.answers) == {"at once": "internal", "later": "internal", "other": 1}
    assert reads.explained == [error] * 2
    assert len(reads.reader._free) == len(DBS)


async def test_what_waits_is_never_too_late_and_what_is_done_may_be(reads, autojump_clock):
    reads.ask("queued", lambda db: "done")  # Long before anybody reads.
    await trio.sleep(10 * PATIENCE_SECONDS)
    reads.run()
    await wait_all_tasks_blocked()
    assert reads.answers == [("queued", "done")]

    stuck = trio.Event()
    real = reads._run_sync

    async def hang(function, *arguments, limiter):
        def do():
            reads.reader._current = reads.reader._next[0]

        do()
        await stuck.wait()
        return await real(function, *arguments, limiter=limiter)

    reads.reader._thread = Thread(hang)
    for name in ("doing", "waiting"):
        reads.ask(name, lambda db: "done")
        await wait_all_tasks_blocked()
    await trio.sleep(3 * PATIENCE_SECONDS)
    assert [name for name, _ in reads.answers] == ["queued", "doing"]
    assert "did not answer for 10 s" in reads.answers[-1][1]
    stuck.set()
    await wait_all_tasks_blocked()
    assert reads.answers[-1] == ("waiting", "done")


async def test_the_end_refuses_who_waits_and_who_comes(reads):
    ended = []

    def endless(db):
        try:
            while True:
                reads.take(10)
                yield
        finally:
            ended.append(db)

    async with trio.open_nursery() as running:
        reads.ask("begun", endless)
        running.start_soon(reads.reader.run)
        await reads.until(lambda: reads.turns > 0)
        running.cancel_scope.cancel()
    reads.ask("waiting", lambda db: 1)
    await wait_all_tasks_blocked()
    reads.reader.close("over")
    reads.ask("late", lambda db: 1)
    await wait_all_tasks_blocked()
    assert sorted(reads.answers) == [("begun", "over"), ("late", "over"), ("waiting", "over")]
    assert len(ended) == 1


def test_a_turn_is_some_slices():
    assert reader_module.TURN_SECONDS >= 2 * SLICE_SECONDS
