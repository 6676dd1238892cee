"""Long poll: answered at once or as soon as there is something, with the streams' promises."""

import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.auth import Grant
from triocast.errors import ShuttingDown, TooManyConnections
from triocast.events import Position
from triocast.subscriptions import make_filter
from triocast.transports import poll as poll_module
from triocast.transports.poll import Poll
from triocast.wire.start import After, Latest

ANN = Grant(user="ann", subscribe=("*",))


@pytest.fixture
async def ask(parts):
    async def ask(seq=None, *, channels=("x",), wait=60.0, epoch="e", grant=ANN, **options):
        if seq is not None:
            options["start"] = After(Position(epoch, seq))
        poll = Poll(parts.connections, id="p", grant=grant, channels=channels, **options)
        answer = json.loads((await poll.ask(wait)).as_json())
        assert parts.hub.subscribers() == ()
        assert (await parts.connections.counts())["poll_count"] == 0
        return [event["type"] for event in answer["events"]], answer["cursor"]

    return ask


async def test_without_a_cursor_it_is_told_where_it_stands(parts, ask, autojump_clock):
    await parts.publish("x")
    began = trio.current_time()
    assert await ask() == ([], "0.e.1")
    assert trio.current_time() == began


async def test_what_was_missed_comes_at_once(parts, ask):
    for kind, channel in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "$user:ann"), ("e", "$all")):
        await parts.publish(channel, kind)
    assert await ask(1) == (["c", "d", "e"], "0.e.5")


async def test_it_waits_for_what_is_new(parts, ask, nursery, autojump_clock):
    await parts.publish("x")
    began = trio.current_time()

    async def publish_later():
        await trio.sleep(20)
        await parts.publish("y", "other")
        await trio.sleep(20)
        await parts.publish("x", "new")

    nursery.start_soon(publish_later)
    assert await ask(1) == (["new"], "0.e.3")
    assert trio.current_time() - began == pytest.approx(40)


async def test_after_the_wait_the_cursor_has_moved_past_what_is_for_others(
    parts, ask, nursery, autojump_clock
):
    nursery.start_soon(parts.publish, "y")
    assert await ask(0, wait=5) == ([], "0.e.1")


async def test_a_gap_is_an_event(parts, ask):
    for _ in range(11):
        await parts.publish("x")
    assert await ask(0) == (["gap"], "0.e.11")
    assert await ask(3, epoch="old") == (["gap"], "0.e.11")


async def test_a_long_backlog_comes_in_parts(parts, ask, monkeypatch):
    monkeypatch.setattr(poll_module, "MOST_EVENTS", 2)
    monkeypatch.setattr("triocast.resume.PAGE_EVENTS", 2)
    for kind in "abc":
        await parts.publish("x", kind)
    assert await ask(0) == (["a", "b"], "0.e.2")
    assert await ask(2) == (["c"], "0.e.3")


async def test_the_state_for_a_newcomer(parts, ask):
    for kind, key in (("a", "k"), ("b", "k"), ("c", "l")):
        await parts.publish("x", kind, key=key)
    assert await ask(start=Latest()) == (["b", "c"], "0.e.3")


async def test_filters_hold_for_missed_and_live_events(parts, ask, nursery, autojump_clock):
    for kind in "ab":
        await parts.publish("x", kind)
    only_a = make_filter(["a"], [])
    assert await ask(0, filter=only_a) == (["a"], "0.e.2")

    async def publish_later():
        for kind in "ba":
            await trio.sleep(1)
            await parts.publish("x", kind)

    nursery.start_soon(publish_later)
    assert await ask(2, filter=only_a) == (["a"], "0.e.4")


async def test_a_drain_answers_everybody(parts, ask, nursery, autojump_clock):
    answers = []

    async def wait_for_it():
        answers.append(await ask(0))

    nursery.start_soon(wait_for_it)
    await wait_all_tasks_blocked()
    assert (await parts.connections.counts())["poll_count"] == 1
    await parts.connections.drain(1)
    await wait_all_tasks_blocked()
    assert answers == [([], "0.e.0")]
    with pytest.raises(ShuttingDown):
        await ask(0)


async def test_polls_count_as_connections(parts, ask, nursery):
    parts.connections.most = 1
    waiting = Poll(parts.connections, id="q", grant=ANN, channels=(), start=After(Position("e", 0)))
    nursery.start_soon(waiting.ask, 60)
    await wait_all_tasks_blocked()
    with pytest.raises(TooManyConnections):
        await ask(0)
    nursery.cancel_scope.cancel()


async def test_what_is_too_much_for_one_answer_is_for_the_next(parts, ask, nursery, monkeypatch):
    """Also what comes while the backlog is still being read."""
    monkeypatch.setattr(poll_module, "MOST_BYTES", 1)
    read = parts.engine.history

    async def read_late(*names, **bounds):
        history = await read(*names, **bounds)
        if bounds["after"] == 0:
            for kind in "abc":
                await parts.publish("x", kind)
                await wait_all_tasks_blocked()
        return history

    monkeypatch.setattr(parts.engine, "history", read_late)
    assert await ask(0) == (["a"], "0.e.1")
    assert await ask(1) == (["b", "c"], "0.e.3")
