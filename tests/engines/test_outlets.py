"""Outlets that fill up, come and go while publishers wait; run on every engine."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.events import Event


def event() -> Event:
    return Event("T", b"1", "news", "2026-01-31T12:00:00.123Z")


class Outlet:
    """Has room for ``bound`` events; `take` makes room."""

    def __init__(self, bound: int = 1) -> None:
        self.bound = bound
        self.inside = 0
        self.most = 0
        self.seqs: list[int] = []
        self._taken = trio.Event()

    @property
    def has_room(self) -> bool:
        return self.inside < self.bound

    async def wait_for_room(self) -> None:
        while not self.has_room:
            await self._taken.wait()

    def put(self, publications) -> None:
        self.seqs += [p.seq for p in publications]
        self.inside += len(publications)
        self.most = max(self.most, self.inside)

    def fill(self) -> None:
        """As another engine would that spreads to it."""
        self.inside = self.bound

    def take(self) -> None:
        self.inside = 0
        self._taken.set()
        self._taken = trio.Event()


@pytest.fixture
def outlets(engine):
    pair = Outlet(), Outlet()
    for outlet in pair:
        engine.attach(outlet)
    return pair


async def test_room_is_asked_for_again_after_a_wait_elsewhere(engine, outlets, nursery):
    """While a publisher waits for one outlet, the other may have been filled."""
    first, second = outlets
    second.fill()
    nursery.start_soon(engine.publish, [event()])
    await wait_all_tasks_blocked()
    first.fill()
    second.take()
    await wait_all_tasks_blocked()
    assert engine.head.seq == 0
    first.take()
    await wait_all_tasks_blocked()
    assert engine.head.seq == 1


async def test_room_for_one_wakes_many_and_lets_one_through(engine, outlets):
    first, second = outlets
    await engine.publish([event()])
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(engine.publish, [event()])
        for _ in range(25):
            await wait_all_tasks_blocked()
            first.take()
            second.take()
    assert first.seqs == second.seqs == list(range(1, 22))
    assert first.most == second.most == 1


async def test_an_outlet_that_left_while_it_was_waited_for_gets_nothing(engine, outlets, nursery):
    first, second = outlets
    await engine.publish([event()])
    second.take()
    nursery.start_soon(engine.publish, [event()])
    await wait_all_tasks_blocked()
    engine.detach(first)
    first.take()
    await wait_all_tasks_blocked()
    assert (first.seqs, second.seqs) == ([1], [1, 2])


async def test_an_outlet_that_comes_while_a_publisher_waits_gets_the_event(
    engine, outlets, nursery
):
    first, second = outlets
    await engine.publish([event()])
    nursery.start_soon(engine.publish, [event()])
    await wait_all_tasks_blocked()
    late = Outlet()
    engine.attach(late)
    first.take()
    second.take()
    await wait_all_tasks_blocked()
    assert late.seqs == [2]
    assert first.seqs == second.seqs == [1, 2]
