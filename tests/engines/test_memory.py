"""The memory engine's own bounds."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast.engines.memory import EVENT_OVERHEAD, MemoryEngine
from triocast.events import Event


def event(channel, size=0):
    return Event("T", b"x" * size, channel, "2026-01-31T12:00:00.123Z")


def engine_of(*, events=1_000, bytes=10_000_000):
    return MemoryEngine(epoch="e", history_events=events, history_bytes=bytes)


def room_for(count, size=0):
    return count * (EVENT_OVERHEAD + size)


async def seqs_of(engine, *channels):
    history = await engine.history(channels, after=0, limit=1_000)
    return [publication.seq for publication in history.publications]


async def test_each_channel_keeps_its_last_events():
    engine = engine_of(events=2)
    await engine.publish([event(c) for c in "abaaab"])
    assert await seqs_of(engine, "a") == [4, 5]
    assert await seqs_of(engine, "b") == [2, 6]


async def test_at_the_bound_in_bytes_the_oldest_of_all_goes_first():
    engine = engine_of(bytes=room_for(3, 10))
    await engine.publish([event(c, 10) for c in ("a", "b", "a", "ns:c", "b")])
    assert await seqs_of(engine, "a", "b", "ns:c") == [3, 4, 5]
    await engine.publish([event("ns:c", 10 + EVENT_OVERHEAD)])
    assert await seqs_of(engine, "a", "b", "ns:c") == [5, 6]


async def test_an_event_above_the_bound_is_spread_but_not_kept():
    engine = engine_of(bytes=room_for(1, 10))
    await engine.publish([event("a")])
    (publication,) = await engine.publish([event("a", 11)])
    assert publication.seq == 2
    assert await seqs_of(engine, "a") == []
    assert (await engine.history(["a"], after=1, limit=1)).floors == {"a": 2}
    assert engine.kept_bytes == 0


async def test_a_forgotten_channel_leaves_its_floor_to_its_namespace():
    engine = engine_of(bytes=room_for(2))
    await engine.publish([event(c) for c in ("ns:a", "ns:a", "b", "b")])
    history = await engine.history(["ns:a", "ns:never", "b", "never", "other:x"], after=0, limit=9)
    assert history.floors == {"ns:a": 2, "ns:never": 2, "b": 0, "never": 0, "other:x": 0}
    (again,) = await engine.publish([event("ns:a")])
    assert again.prev == 2
    history = await engine.history(["ns:a"], after=0, limit=9)
    assert (history.floors, [p.seq for p in history.publications]) == ({"ns:a": 2}, [5])


@pytest.mark.parametrize("events", [0, 1, 2])
async def test_what_is_known_of_channels_is_bounded_like_their_events(events):
    engine = engine_of(events=events, bytes=room_for(50))
    for number in range(5_000):
        await engine.publish([event(f"ns:{number}"), event(f"$conn:{number}")])
    assert engine.kept_bytes <= room_for(50)
    assert len(engine._rings) <= 50
    assert len(engine._namespace_floors) <= 1


async def test_the_order_of_going_does_not_grow_with_what_was_published():
    engine = engine_of(events=1)
    await engine.publish([event("quiet")])
    for _ in range(100):
        await engine.publish([event("a")] * 100)
    assert len(engine._order) < 3_000
    assert await seqs_of(engine, "quiet", "a") == [1, 10_001]


events = st.tuples(st.sampled_from(["a", "b", "ns:a", "ns:b", "$conn:1"]), st.integers(0, 2_000))


@given(st.lists(events, max_size=60), st.integers(0, 6), st.integers(0, 8_000))
def test_any_history_agrees_with_a_list(published, history_events, history_bytes):
    async def scenario():
        engine = engine_of(events=history_events, bytes=history_bytes)
        model: list[tuple[int, str, int]] = []
        for seq, (channel, size) in enumerate(published, 1):
            await engine.publish([event(channel, size)])
            if not channel.startswith("$conn:"):
                model.append((seq, channel, size + EVENT_OVERHEAD))
            own = [kept for kept in model if kept[1] == channel]
            if len(own) > history_events:
                model.remove(own[0])
            while sum(size for _, _, size in model) > history_bytes:
                model.pop(0)
            assert engine.kept_bytes == sum(size for _, _, size in model) <= history_bytes
            assert await seqs_of(engine, "a", "b", "ns:a", "ns:b") == [seq for seq, _, _ in model]

    trio.run(scenario)


@given(st.lists(events, max_size=200))
def test_sweeping_forgets_nothing_that_is_kept(published):
    async def scenario():
        engine = engine_of(events=3, bytes=room_for(6, 1_000))
        engine_of_model: dict[str, list[int]] = {}
        for seq, (channel, size) in enumerate(published, 1):
            await engine.publish([event(channel, size)])
            engine_of_model.setdefault(channel, []).append(seq)
        for channel, seqs in engine_of_model.items():
            history = await engine.history([channel], after=0, limit=99)
            kept = [p.seq for p in history.publications]
            assert kept == seqs[len(seqs) - len(kept) :]

    trio.run(scenario)


async def test_room_for_one_wakes_many_and_lets_one_through(new_outlet):
    engine, outlet = engine_of(), new_outlet()
    engine.attach(outlet)
    await engine.publish([event("a")])
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(engine.publish, [event("a")])
        for _ in range(25):
            await wait_all_tasks_blocked()
            outlet.take()
    assert outlet.seqs == list(range(1, 22))
    assert outlet.most == 1
