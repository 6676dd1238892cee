"""Long work in turns: others run in between, and a task alone is not slowed down."""

import pytest
import trio

from triocast import turns
from triocast.turns import LONGEST_SLICE_SECONDS, SLICE_SECONDS, Turns, finish, in_turns


async def test_a_loop_of_any_length_is_cut_into_steps(work):
    for count in (1_000, 20_000):
        async for _ in in_turns(range(count)):
            work.did()
        assert work.longest <= work.PER_TURN + 1


async def test_a_generator_is_gone_through_in_steps_and_what_it_returns_is_returned(work):
    def steps():
        for _ in range(5_000):
            work.did()
            yield
        return "done"

    assert await finish(steps()) == "done"
    assert work.longest <= work.PER_TURN + 1


async def test_short_work_gives_no_turn(work):
    cut = Turns()
    with trio.CancelScope() as scope:
        scope.cancel()
        for _ in range(10):
            await cut.give_if_over()
            work.did()
        reached = True
    assert reached
    assert not cut.over()


async def test_a_turn_can_be_cancelled(work):
    cut = Turns()
    work.did(1_000)
    assert cut.over()
    with trio.CancelScope() as scope:
        scope.cancel()
        await cut.give_if_over()
    assert scope.cancelled_caught


class Clock:
    """A clock that a test moves, in steps that add up without rounding."""

    STEP = 2**-14

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def until_over(self, cut: Turns) -> float:
        """Return how long a slice is that has just begun."""
        began = self.time
        while not cut.over():
            self.time += self.STEP
        return self.time - began


@pytest.fixture
def clock(monkeypatch):
    moved = Clock()
    monkeypatch.setattr(turns, "now", moved.now)
    return moved


async def test_slices_become_longer_while_nobody_else_wants_a_turn(clock):
    cut = Turns()
    lengths = []
    for _ in range(6):
        lengths.append(clock.until_over(cut))
        await cut.give()
    assert 0 < lengths[0] - SLICE_SECONDS <= clock.STEP
    assert lengths == sorted(lengths)
    assert 0 < lengths[-1] - LONGEST_SLICE_SECONDS <= clock.STEP


async def test_slices_are_short_again_once_others_have_something_to_do(clock, nursery):
    async def be_busy() -> None:
        while True:
            clock.time += SLICE_SECONDS
            await trio.lowlevel.checkpoint()

    cut = Turns()
    for _ in range(6):
        await cut.give()
    nursery.start_soon(be_busy)
    lengths = []
    for _ in range(20):  # Trio shuffles the tasks of a pass.
        await cut.give()
        lengths.append(clock.until_over(cut))
    assert 0 < min(lengths) - SLICE_SECONDS <= clock.STEP
