"""Jobs handed to a worker: bounded, taken back while they wait, never lost once begun."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.engines import worker
from triocast.engines.worker import JobQueue, fail_all
from triocast.errors import InternalError, OutcomeUnknown, TriocastError, Unavailable


def queue(max_bytes=10, batch_bytes=10):
    return JobQueue(max_bytes=max_bytes, batch_bytes=batch_bytes)


async def ask(jobs, work, size, answers):
    try:
        answers.append((work, await jobs.do(work, size)))
    except (TriocastError, ValueError) as error:
        answers.append((work, error))


def finish_all(batch, result="done"):
    for job in batch:
        job.finish(result)


async def test_jobs_are_done_in_their_order_as_many_as_fit(nursery):
    jobs, answers = queue(batch_bytes=3), []
    for work in "abcd":
        nursery.start_soon(ask, jobs, work, 2, answers)
        await wait_all_tasks_blocked()
    for expected in (["a", "b"], ["c", "d"]):
        with jobs.batch() as batch:
            assert [job.work for job in batch] == expected
            for job in batch:
                job.finish(job.work.upper())
    assert jobs.is_empty
    await wait_all_tasks_blocked()
    assert sorted(answers) == [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")]


async def test_at_the_bound_all_wait_and_all_get_their_turn(nursery):
    jobs, answers = queue(max_bytes=1, batch_bytes=1), []
    for work in range(5):
        nursery.start_soon(ask, jobs, work, 1, answers)
    await wait_all_tasks_blocked()
    for _ in range(5):
        with jobs.batch() as batch:
            assert len(batch) == 1
            finish_all(batch)
        await wait_all_tasks_blocked()
    assert sorted(work for work, _ in answers) == list(range(5))


async def test_a_waiting_job_is_taken_back_with_its_caller(nursery):
    jobs = queue()
    nursery.start_soon(ask, jobs, "other", 1, [])
    with trio.CancelScope() as scope:
        await wait_all_tasks_blocked()
        scope.cancel()
        await jobs.do("mine", 1)
    assert scope.cancelled_caught
    with jobs.batch() as batch:
        assert [job.work for job in batch] == ["other"]
        finish_all(batch)


class Caller:
    """A caller whose cancellation is up to the test, and what became of its job."""

    def __init__(self, nursery, jobs):
        self.scope = trio.CancelScope()
        self.outcome = None
        nursery.start_soon(self._run, jobs)

    async def _run(self, jobs):
        with self.scope:
            try:
                self.outcome = await jobs.do("work", 1)
            except trio.Cancelled:
                self.outcome = "taken back"
                raise
            except TriocastError as error:
                self.outcome = error


# Nothing runs between two lines without an await, so what follows on a cancellation there happens
# in the very pass of the run loop in which the cancellation is delivered.


@pytest.mark.parametrize("cancelled_first", [True, False])
@pytest.mark.parametrize("finished_at_once", [True, False])
async def test_a_job_begun_in_the_pass_of_its_callers_cancellation_has_its_outcome(
    nursery, cancelled_first, finished_at_once
):
    jobs = queue()
    caller = Caller(nursery, jobs)
    await wait_all_tasks_blocked()
    if cancelled_first:
        caller.scope.cancel()
    with jobs.batch() as batch:
        if not cancelled_first:
            caller.scope.cancel()
        if not finished_at_once:
            await wait_all_tasks_blocked()
            assert caller.outcome is None
        finish_all(batch)
    await wait_all_tasks_blocked()
    assert caller.outcome == "done"
    assert jobs.is_empty


async def test_a_caller_cancelled_while_its_job_is_done_gets_the_outcome(nursery):
    jobs = queue()
    caller = Caller(nursery, jobs)
    await wait_all_tasks_blocked()
    with jobs.batch() as batch:
        await wait_all_tasks_blocked()
        caller.scope.cancel()
        await wait_all_tasks_blocked()
        finish_all(batch)
        caller.scope.cancel()
    await wait_all_tasks_blocked()
    assert caller.outcome == "done"


async def test_a_caller_cancelled_in_the_pass_of_the_close_hears_of_it(nursery):
    jobs = queue()
    caller = Caller(nursery, jobs)
    await wait_all_tasks_blocked()
    caller.scope.cancel()
    jobs.close("over")
    await wait_all_tasks_blocked()
    assert isinstance(caller.outcome, Unavailable)


async def test_a_caller_cancelled_while_it_waits_for_room_leaves_no_job(nursery):
    jobs = queue(max_bytes=1)
    first = Caller(nursery, jobs)
    await wait_all_tasks_blocked()
    second = Caller(nursery, jobs)
    await wait_all_tasks_blocked()
    second.scope.cancel()
    with jobs.batch() as batch:
        finish_all(batch)
    await wait_all_tasks_blocked()
    assert (first.outcome, second.outcome) == ("done", "taken back")
    assert jobs.is_empty


async def test_a_job_that_is_not_done_in_time_has_an_unknown_outcome(autojump_clock, nursery):
    jobs = queue()

    async def work_for_ever():
        await jobs.wait()
        with jobs.batch():
            await trio.sleep_forever()

    nursery.start_soon(work_for_ever)
    with pytest.raises(OutcomeUnknown, match=f"{worker.PATIENCE_SECONDS:g} s"):
        await jobs.do("a", 1)
    assert trio.current_time() == pytest.approx(worker.PATIENCE_SECONDS)
    nursery.cancel_scope.cancel()


async def test_an_unknown_outcome_says_what_to_do():
    assert "idempotency key" in OutcomeUnknown.because("the disk failed").message
    assert OutcomeUnknown.temporary


async def test_an_error_is_raised_in_the_caller(nursery):
    jobs, answers = queue(), []
    nursery.start_soon(ask, jobs, "a", 1, answers)
    await wait_all_tasks_blocked()
    error = ValueError("no")
    with jobs.batch() as batch:
        fail_all(batch, error)
    await wait_all_tasks_blocked()
    assert answers == [("a", error)]


async def test_a_fault_of_the_worker_leaves_no_caller_waiting(nursery):
    jobs, answers = queue(), []
    for work in "ab":
        nursery.start_soon(ask, jobs, work, 1, answers)
        await wait_all_tasks_blocked()

    def work_wrongly():
        with jobs.batch() as batch:
            batch[0].finish("done before")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work_wrongly()
    await wait_all_tasks_blocked()
    told = dict(answers)
    assert told["a"] == "done before"
    assert isinstance(told["b"], InternalError)


async def test_a_cancelled_worker_tells_that_nothing_was_done(nursery):
    jobs, answers = queue(), []
    nursery.start_soon(ask, jobs, "a", 1, answers)
    await wait_all_tasks_blocked()
    with trio.CancelScope() as scope, jobs.batch():
        scope.cancel()
        await trio.sleep_forever()
    await wait_all_tasks_blocked()
    ((_, error),) = answers
    assert isinstance(error, Unavailable)
    assert not isinstance(error, OutcomeUnknown)


async def test_the_end_refuses_who_waits_and_who_comes(nursery):
    jobs, answers = queue(max_bytes=1), []
    for work in range(3):  # One whose job waits, two that wait for room.
        nursery.start_soon(ask, jobs, work, 1, answers)
    await wait_all_tasks_blocked()
    jobs.close("over")
    await wait_all_tasks_blocked()
    assert [error.message for _, error in answers] == ["over"] * 3
    with pytest.raises(Unavailable, match="over"):
        await jobs.do("b", 1)
