"""The memory engine's own bounds."""

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast.engines import order, rings
from triocast.engines.idempotency import Records
from triocast.engines.memory import MemoryEngine
from triocast.engines.rings import EVENT_OVERHEAD, Rings
from triocast.events import Event, Once, pattern_matches


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
    assert len(engine._rings._namespace_floors) <= 1


async def test_the_order_of_going_does_not_grow_with_what_was_published():
    engine = engine_of(events=1)
    await engine.publish([event("quiet")])
    for _ in range(100):
        await engine.publish([event("a")] * 100)
    orders = [engine._rings._order, engine._rings._namespaces["default"].order]
    assert all(order.count < 3_000 for order in orders)
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


class TestSteps:
    """Whatever clients ask for, others get their turn meanwhile."""

    COUNT = 5_000

    @pytest.fixture
    def count(self, monkeypatch, work):
        """Count calls of a method of the rings as work."""

        def count(name, owner=Rings):
            real = getattr(owner, name)

            def counting(*arguments, **options):
                work.did()
                return real(*arguments, **options)

            monkeypatch.setattr(owner, name, counting)

        return count

    async def test_forgetting_much_is_cut(self, work, count):
        engine = engine_of(events=self.COUNT)
        await engine.publish([event("a"), event("b")] * self.COUNT)
        count("drop_oldest")
        assert await engine.forget(["a", "b", "nobody"]) == 2 * self.COUNT
        assert await seqs_of(engine, "a", "b") == []
        assert work.done == 2 * self.COUNT
        assert work.longest <= work.PER_TURN + 1

    @pytest.mark.parametrize("channels", [1, COUNT])
    async def test_dropping_what_is_too_old_is_cut(self, work, count, channels):
        engine = MemoryEngine(
            epoch="e", history_events=self.COUNT, history_bytes=10**9, history_seconds=1
        )
        await engine.publish([event(f"n:{i % channels}") for i in range(self.COUNT)])
        count("drop_oldest")
        await engine.trim()
        assert work.done == self.COUNT
        assert work.longest <= work.PER_TURN + 1
        assert engine.kept_bytes == 0

    async def test_passing_over_many_events_is_cut(self, work, count):
        engine = engine_of()
        await engine.publish([event(f"$user:{i}") for i in range(20 * self.COUNT)] + [event("a")])
        real = order.Order.forward

        def counted(self, after):
            for publication in real(self, after):
                work.did()
                yield publication

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(order.Order, "forward", counted)
            assert await seqs_of(engine, "*") == [engine.head.seq]
        assert work.done > 5_000
        assert work.longest <= work.PER_TURN + 2 * rings.SKIPS_PER_PAUSE

    async def test_forgetting_old_idempotency_records_is_cut(self, work, count, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("triocast.engines.idempotency.time.monotonic", lambda: now[0])
        engine = engine_of()
        onces = [Once("ann", f"{i}", 0, b"1") for i in range(self.COUNT)]
        await engine.publish([attrs.evolve(event("a"), once=once) for once in onces])
        now[0] = 10**6
        count("_remove", Records)
        await engine.publish([attrs.evolve(event("a"), once=onces[0])])
        assert engine.head.seq == self.COUNT + 1
        assert work.done < 100
        await engine.trim()
        assert work.done == self.COUNT
        assert engine.usage.records == 1
        assert work.longest <= work.PER_TURN + 100

    @pytest.mark.parametrize("newest", [False, True])
    @pytest.mark.parametrize("names", [["n:*"], ["*"], ["n:a", "n:b"], ["n:a"]])
    async def test_what_is_read_in_turns_is_of_one_moment(self, work, monkeypatch, names, newest):
        """Others publish and remove between the turns; floors tell of what is missing."""
        engine = engine_of(events=40)
        real = engine._rings.read

        def slowly(*arguments, **options):
            for item in real(*arguments, **options):
                work.did(work.PER_TURN)
                yield item

        monkeypatch.setattr(engine._rings, "read", slowly)
        published = list(await engine.publish([event(c) for c in ("n:a", "n:b", "$all")] * 40))
        meanwhile = []

        async def publish():
            while not done.is_set():
                await trio.lowlevel.checkpoint()
                published.extend(await engine.publish([event("n:a"), event("n:b")] * 3))
                meanwhile.append(engine.head.seq)
                if len(meanwhile) == 3:
                    await engine.forget(["n:b"])

        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            history = await engine.history(names, after=0, limit=1_000, newest=newest)
            done.set()
        assert history.head.seq < meanwhile[-1], "nothing happened meanwhile"
        found = [publication.seq for publication in history.publications]
        assert found == sorted(found)
        due = {
            p.seq
            for p in published
            for name, floor in history.floors.items()
            if pattern_matches(name, p.event.channel) and floor < p.seq <= history.head.seq
        }
        assert due <= set(found)
        assert all(seq <= history.head.seq for seq in found)
