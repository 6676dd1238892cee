"""The crowd goes through a few at a time, in its order, and others run in between."""

import trio
from trio.testing import wait_all_tasks_blocked

from triocast.server.turnstile import Turnstile


async def passes_of(crowd: int, per_pass: int) -> list[int]:
    """The passes of the run loop in which each of a crowd got through, in the order of arrival."""
    turnstile = Turnstile(per_pass)
    passes = 0
    through: list[tuple[int, int]] = []
    all_through = trio.Event()

    async def count_passes() -> None:
        nonlocal passes
        while len(through) < crowd:
            passes += 1
            await trio.lowlevel.checkpoint()

    async def come(number: int) -> None:
        await turnstile.wait_for_turn()
        through.append((number, passes))
        if len(through) == crowd:
            all_through.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turnstile.run)
        await wait_all_tasks_blocked()
        arrived = trio.Event()

        async def arrive(number: int) -> None:
            await arrived.wait()
            await come(number)

        for number in range(crowd):
            nursery.start_soon(arrive, number)
        await wait_all_tasks_blocked()
        nursery.start_soon(count_passes)
        arrived.set()
        await all_through.wait()
        nursery.cancel_scope.cancel()
    assert sorted(number for number, _ in through) == list(range(crowd))
    return [when for _, when in through]


async def test_a_crowd_is_spread_over_passes():
    passes = await passes_of(20, 4)
    most = max(passes.count(each) for each in set(passes))
    assert most <= 4
    assert passes[-1] - passes[0] >= 4


async def test_one_alone_goes_right_through():
    turnstile = Turnstile(1)
    with trio.fail_after(0):  # nobody runs the turnstile: it must not wait
        await turnstile.wait_for_turn()


async def test_the_turnstile_opens_again():
    turnstile = Turnstile(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turnstile.run)
        for _ in range(10):
            await turnstile.wait_for_turn()
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_who_came_first_goes_first():
    turnstile = Turnstile(2)
    through: list[int] = []

    async def come(number: int) -> None:
        await turnstile.wait_for_turn()
        through.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(come, number)
            await wait_all_tasks_blocked()
        nursery.start_soon(turnstile.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    # Trio takes the tasks of one pass in any order.
    assert [sorted(through[i : i + 2]) for i in range(0, 9, 2)] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        [8],
    ]


async def test_who_gives_up_while_waiting_takes_nobodys_turn():
    turnstile = Turnstile(1)
    through: list[str] = []

    async def come(name: str) -> None:
        await turnstile.wait_for_turn()
        through.append(name)

    await turnstile.wait_for_turn()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as impatient:
            impatient.start_soon(come, "impatient")
            await wait_all_tasks_blocked()
            nursery.start_soon(come, "patient")
            await wait_all_tasks_blocked()
            impatient.cancel_scope.cancel()
        nursery.start_soon(turnstile.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert through == ["patient"]
