"""Jobs that wait for a thread: bounded, taken back, and answered or refused."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.engines import worker
from triocast.engines.worker import Desk, finish, in_thread
from triocast.errors import Unavailable


def desk(most_bytes=10, batch_bytes=10):
    return Desk(most_bytes=most_bytes, batch_bytes=batch_bytes)


async def ask(desk, job, size, answers):
    answers.append((job, await desk.do(job, size)))


async def test_jobs_are_done_in_their_order_as_many_as_fit(nursery):
    jobs, answers = desk(batch_bytes=3), []
    for job in "abcd":
        nursery.start_soon(ask, jobs, job, 2, answers)
        await wait_all_tasks_blocked()
    orders = jobs.take()
    assert [order.job for order in orders] == ["a", "b"]
    finish(orders, ["A", "B"])
    await wait_all_tasks_blocked()
    assert sorted(answers) == [("a", "A"), ("b", "B")]
    orders = jobs.take()
    assert [order.job for order in orders] == ["c", "d"]
    assert jobs.is_empty
    finish(orders, ["C", "D"])


async def test_at_the_bound_all_wait_and_all_get_their_turn(nursery):
    jobs, answers = desk(most_bytes=1, batch_bytes=1), []
    for job in range(5):
        nursery.start_soon(ask, jobs, job, 1, answers)
    await wait_all_tasks_blocked()
    for _ in range(5):
        orders = jobs.take()
        assert len(orders) == 1
        finish(orders, ["done"])
        await wait_all_tasks_blocked()
    assert sorted(job for job, _ in answers) == list(range(5))


async def test_what_nobody_has_begun_can_be_taken_back(nursery):
    jobs = desk()
    nursery.start_soon(ask, jobs, "other", 1, [])
    with trio.CancelScope() as scope:
        await wait_all_tasks_blocked()
        scope.cancel()
        await jobs.do("mine", 1)
    orders = jobs.take()
    assert [order.job for order in orders] == ["other"]
    assert jobs.is_empty
    finish(orders, ["done"])


async def test_what_has_begun_is_waited_for(nursery):
    jobs, answers = desk(), []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as caller:
            caller.start_soon(ask, jobs, "a", 1, answers)
            await wait_all_tasks_blocked()
            orders = jobs.take()
            await wait_all_tasks_blocked()
            nursery.start_soon(finish_later, orders)
            scope.cancel()
    assert answers == [("a", "A")]


async def test_a_job_that_begins_just_after_the_cancel_is_waited_for(nursery):
    jobs, answers = desk(), []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as caller:
            caller.start_soon(ask, jobs, "a", 1, answers)
            await wait_all_tasks_blocked()
            scope.cancel()
            nursery.start_soon(finish_later, jobs.take())
    assert answers == [("a", "A")]
    assert jobs.is_empty


async def finish_later(orders):
    await wait_all_tasks_blocked()
    finish(orders, ["A"])


async def test_but_not_for_ever(autojump_clock, nursery):
    jobs = desk()
    nursery.start_soon(take_and_forget, jobs)
    with pytest.raises(Unavailable, match=f"{worker.PATIENCE_SECONDS:g} s"):
        await jobs.do("a", 1)


async def take_and_forget(jobs):
    await jobs.wait()
    jobs.take()


async def test_an_error_is_its_callers(nursery):
    jobs, errors = desk(), []

    async def ask_in_vain():
        try:
            await jobs.do("a", 1)
        except ValueError as error:
            errors.append(error)

    nursery.start_soon(ask_in_vain)
    await wait_all_tasks_blocked()
    finish(jobs.take(), error=ValueError("no"))
    await wait_all_tasks_blocked()
    assert len(errors) == 1


async def test_the_end_refuses_who_waits_and_who_comes(nursery):
    jobs, refused = desk(most_bytes=1), []

    async def ask_in_vain():
        try:
            await jobs.do("a", 1)
        except Unavailable as error:
            refused.append(error.message)

    for _ in range(3):  # one whose job waits, two who wait for room
        nursery.start_soon(ask_in_vain)
    await wait_all_tasks_blocked()
    jobs.close("over")
    await wait_all_tasks_blocked()
    assert refused == ["over"] * 3
    with pytest.raises(Unavailable, match="over"):
        await jobs.do("b", 1)


async def test_a_cancelled_worker_takes_no_more_jobs(nursery):
    jobs = desk()
    nursery.start_soon(ask, jobs, "a", 1, [])
    await wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await jobs.wait()
    assert scope.cancelled_caught
    finish(jobs.take(), ["A"])


async def test_a_call_in_a_thread_is_made_even_if_the_caller_is_cancelled():
    limiter, calls = trio.CapacityLimiter(1), []
    with trio.CancelScope() as scope:
        scope.cancel()
        await in_thread(limiter, calls.append, 1)
        await in_thread(limiter, calls.append, 2)
    assert calls == [1, 2]
    assert not scope.cancelled_caught
