"""Outlets that fill up, come and go while publishers wait; run on every engine."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.events import Event


def event() -> Event:
    return Event("T", b"1", "news", "2026-01-31T12:00:00.123Z")


@pytest.fixture
def outlets(engine, new_outlet):
    pair = new_outlet(), new_outlet()
    for outlet in pair:
        engine.attach(outlet)
    return pair


async def test_room_is_asked_for_again_after_a_wait_elsewhere(engine, outlets):
    """While a publisher waits for one outlet, the other may have been filled."""
    first, second = outlets
    second.fill()
    async with trio.open_nursery() as publishing:
        publishing.start_soon(engine.publish, [event()])
        await wait_all_tasks_blocked()
        first.fill()
        second.take()
        await wait_all_tasks_blocked()
        assert engine.head.seq == 0
        first.take()
    assert engine.head.seq == 1


async def test_room_for_one_lets_nothing_through_twice(engine, outlets):
    first, second = outlets
    await engine.publish([event()])
    async with trio.open_nursery() as publishing:
        for _ in range(20):
            publishing.start_soon(engine.publish, [event()])
        await wait_all_tasks_blocked()
        while len(first.seqs) < 21:
            first.take()
            second.take()
            await trio.lowlevel.checkpoint()
    assert first.seqs == second.seqs == list(range(1, 22))


async def test_an_outlet_that_left_while_it_was_waited_for_gets_nothing(engine, outlets):
    first, second = outlets
    await engine.publish([event()])
    second.take()
    async with trio.open_nursery() as publishing:
        publishing.start_soon(engine.publish, [event()])
        await wait_all_tasks_blocked()
        engine.detach(first)
        first.take()
    assert (first.seqs, second.seqs) == ([1], [1, 2])


async def test_an_outlet_that_comes_while_a_publisher_waits_gets_the_event(
    engine, outlets, new_outlet
):
    first, second = outlets
    await engine.publish([event()])
    late = new_outlet()
    async with trio.open_nursery() as publishing:
        publishing.start_soon(engine.publish, [event()])
        await wait_all_tasks_blocked()
        engine.attach(late)
        first.take()
        second.take()
    assert late.seqs == [2]
    assert first.seqs == second.seqs == [1, 2]


async def test_an_engine_has_room_where_all_its_outlets_have(engine, new_outlet):
    assert engine.has_room
    first, second = new_outlet(), new_outlet()
    engine.attach(first)
    engine.attach(second)
    assert engine.has_room
    second.fill()
    assert not engine.has_room
    second.take()
    assert engine.has_room


class Broken:
    has_room = True

    async def wait_for_room(self):
        raise NotImplementedError

    def put(self, publications):
        raise RuntimeError("an error of ours")


async def test_an_outlet_that_fails_ends_the_engine_but_nothing_is_published_twice(
    open_engine, new_outlet
):
    """Whoever published in the same step is told that it is done, and others hear of it."""
    outlet, answers = new_outlet(bound=10), []

    async def publish():
        answers.extend(await engine.publish([event()]))

    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with open_engine() as engine:
            engine.attach(Broken())
            engine.attach(outlet)
            async with trio.open_nursery() as publishing:
                for _ in range(3):
                    publishing.start_soon(publish)
            with trio.fail_after(5):
                await trio.sleep_forever()
    assert outlet.seqs == [1, 2, 3]
    assert sorted(accepted.seq for accepted in answers) == [1, 2, 3]
    assert engine.head.seq == 3
