"""What every engine promises; run on each of them."""

import time
from itertools import pairwise

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast.clock import timestamp
from triocast.engines.retention import Keep
from triocast.errors import IdempotencyConflict
from triocast.events import Event, Once, Position, Publication, pattern_matches


def event(channel="news", data=b"1", **fields):
    return Event("T", data, channel, "2026-01-31T12:00:00.123Z", **fields)


class Outlet:
    """An inbox that can be shut."""

    def __init__(self):
        self.got: list[Publication] = []
        self.came = trio.Event()
        self.room = trio.Event()
        self.room.set()

    @property
    def has_room(self):
        return self.room.is_set()

    async def wait_for_room(self):
        await self.room.wait()

    def put(self, publications):
        assert publications
        self.got += publications
        self.came.set()

    async def wait_for(self, count):
        """Return when so many have come; an engine may take its time."""
        while len(self.got) < count:
            self.came = trio.Event()
            await self.came.wait()

    @property
    def seqs(self):
        return [publication.seq for publication in self.got]


async def seqs_of(engine, *channels, after=0, limit=1_000):
    history = await engine.history(channels, after=after, limit=limit)
    return [publication.seq for publication in history.publications]


class TestPublish:
    async def test_the_head_is_zero_before_the_first(self, engine):
        assert engine.head.seq == 0
        assert (await engine.history(["news"], after=0, limit=1)).head == engine.head

    async def test_seq_is_one_order_over_all_channels(self, engine):
        first = await engine.publish([event("a"), event("b"), event("$all")])
        second = await engine.publish([event("$conn:x"), event("a")])
        epoch = engine.head.epoch
        assert [p.position for p in first + second] == [Position(epoch, n) for n in range(1, 6)]
        assert engine.head == Position(epoch, 5)

    async def test_it_returns_the_events_as_they_were(self, engine):
        events = [
            event("a", b'{"x": 1}', key="k", tags=("t", "u"), user="alice", exclude="c"),
            event("$user:J\u00fcrgen \u2028"),
        ]
        publications = await engine.publish(events)
        assert [p.event for p in publications] == events
        assert (await engine.history(["a"], after=0, limit=9)).publications == publications[:1]

    async def test_prev_is_the_one_before_in_the_channel(self, engine):
        publications = await engine.publish([event(c) for c in "abaab"])
        (more,) = await engine.publish([event("b")])
        assert [p.prev for p in publications] == [0, 0, 1, 3, 2]
        assert more.prev == 5

    async def test_publishing_nothing_is_nothing(self, engine):
        outlet = Outlet()
        engine.attach(outlet)
        assert await engine.publish([]) == ()
        assert engine.head.seq == 0

    async def test_publishers_at_the_same_time_do_not_mix_their_events(self, engine, nursery):
        outlet = Outlet()
        engine.attach(outlet)
        replies = []

        async def publish(name):
            for _ in range(10):
                replies.append(await engine.publish([event(name)] * 3))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as publishers:
            for name in "abc":
                publishers.start_soon(publish, name)
        for reply in replies:
            first = reply[0].seq
            assert [p.seq for p in reply] == [first, first + 1, first + 2]
        await wait_all_tasks_blocked()
        assert outlet.seqs == list(range(1, 91))

    async def test_a_healthy_engine_says_so(self, engine):
        await engine.check_health()


class TestOutlets:
    async def test_all_get_the_same_in_the_same_order(self, engine):
        one, two = Outlet(), Outlet()
        engine.attach(one)
        published = await engine.publish([event("a"), event("$conn:x")])
        engine.attach(two)
        published += await engine.publish([event("b"), event("a")])
        await wait_all_tasks_blocked()
        assert one.got == list(published)
        assert two.got == list(published[2:])
        engine.detach(two)
        published += await engine.publish([event("a")])
        await wait_all_tasks_blocked()
        assert (one.got, two.got) == (list(published), list(published[2:4]))

    async def test_it_waits_for_room_in_every_outlet(self, engine, nursery):
        one, full = Outlet(), Outlet()
        full.room = trio.Event()
        for outlet in (one, full):
            engine.attach(outlet)
        nursery.start_soon(engine.publish, [event()])
        await wait_all_tasks_blocked()
        assert engine.head.seq == 0
        assert one.got == full.got == []
        full.room.set()
        await full.wait_for(1)
        assert one.seqs == full.seqs == [1]

    async def test_room_is_looked_at_again_after_each_wait(self, engine, nursery):
        """While a publisher waits for one outlet, another may have been filled."""
        one, other = Outlet(), Outlet()
        one.room, other.room = trio.Event(), trio.Event()
        for outlet in (one, other):
            engine.attach(outlet)
        nursery.start_soon(engine.publish, [event()])
        await wait_all_tasks_blocked()
        one.room.set()
        await wait_all_tasks_blocked()
        one.room = trio.Event()
        other.room.set()
        await wait_all_tasks_blocked()
        assert (engine.head.seq, one.got, other.got) == (0, [], [])
        one.room.set()
        await other.wait_for(1)
        assert one.seqs == other.seqs == [1]

    async def test_a_publish_that_is_cancelled_while_it_waits_publishes_nothing(
        self, engine, autojump_clock
    ):
        one, full = Outlet(), Outlet()
        full.room = trio.Event()
        for outlet in (one, full):
            engine.attach(outlet)
        with trio.move_on_after(1) as patience:
            await engine.publish([event(), event()])
        assert patience.cancelled_caught
        full.room.set()
        await wait_all_tasks_blocked()
        assert (engine.head.seq, one.got, full.got) == (0, [], [])
        assert await seqs_of(engine, "news") == []

    async def test_a_publish_that_is_cancelled_before_publishes_nothing(self, engine):
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.publish([event()])
        assert scope.cancelled_caught
        assert engine.head.seq == 0


class TestHistory:
    @pytest.fixture
    async def engine(self, engine):
        await engine.publish([event(channel) for channel in "abcab"])
        return engine

    @pytest.mark.parametrize(
        ("channels", "after", "seqs"),
        [
            (["a"], 0, [1, 4]),
            (["b", "a"], 0, [1, 2, 4, 5]),
            (["a", "b", "a"], 1, [2, 4, 5]),
            (["a"], 4, []),
            (["a"], 99, []),
            (["nobody"], 0, []),
            ([], 0, []),
        ],
    )
    async def test_it_is_in_order_and_after(self, engine, channels, after, seqs):
        history = await engine.history(channels, after=after, limit=10)
        assert [p.seq for p in history.publications] == seqs
        assert history.complete
        assert history.floors == dict.fromkeys(channels, 0)
        assert history.head == engine.head

    @pytest.mark.parametrize(("limit", "complete"), [(4, True), (3, False), (0, False)])
    async def test_a_limit_cuts_off_the_newest_and_says_so(self, engine, limit, complete):
        history = await engine.history(["a", "b"], after=0, limit=limit)
        assert [p.seq for p in history.publications] == [1, 2, 4, 5][:limit]
        assert history.complete is complete

    async def test_what_is_for_one_connection_is_not_kept(self, engine):
        outlet = Outlet()
        engine.attach(outlet)
        await engine.publish([event("$conn:x"), event("a"), event("$conn:x")])
        assert outlet.seqs == [6, 7, 8]
        assert await seqs_of(engine, "$conn:x", "a", after=5) == [7]

    async def test_what_is_for_a_user_or_all_is_kept(self, engine):
        await engine.publish([event("$user:u"), event("$all")])
        assert await seqs_of(engine, "$user:u", "$all") == [6, 7]


class TestPages:
    @pytest.fixture
    async def engine(self, engine):
        await engine.publish([event(channel) for channel in "abcab"])
        return engine

    @pytest.mark.parametrize(
        ("names", "after", "before", "limit", "newest", "seqs", "complete"),
        [
            (["a", "b"], 0, 5, 10, False, [1, 2, 4], True),
            (["a", "b"], 0, 5, 2, False, [1, 2], False),
            (["a", "b"], 0, 5, 2, True, [2, 4], False),
            (["a", "b"], 1, None, 2, True, [4, 5], False),
            (["a"], 1, 4, 9, True, [], True),
            (["a", "c"], 0, None, 3, True, [1, 3, 4], True),
            (["a"], 0, None, 0, True, [], False),
        ],
    )
    async def test_they_go_both_ways(
        self, engine, names, after, before, limit, newest, seqs, complete
    ):
        history = await engine.history(
            names, after=after, before=before, limit=limit, newest=newest
        )
        assert [p.seq for p in history.publications] == seqs
        assert history.complete is complete

    @pytest.mark.parametrize("keep", [1_000, 0], ids=["kept", "removed"])
    async def test_each_is_of_one_moment_whoever_publishes_meanwhile(self, open_engine, keep):
        """What is up to ``head`` is in it or below a floor, and nothing is beyond."""

        async def publish():
            for _ in range(100):
                await engine.publish([event("a")] * 2)
                await engine.trim()
            done.set()

        done = trio.Event()
        async with open_engine(history_events=keep) as engine, trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            while not done.is_set():
                for names in (["a"], ["*"]):
                    history = await engine.history(names, after=0, limit=1_000)
                    floor = history.floors[names[0]]
                    seqs = [p.seq for p in history.publications]
                    assert floor <= history.head.seq
                    assert seqs == list(range(floor + 1, history.head.seq + 1))


class TestPatterns:
    @pytest.fixture
    async def engine(self, engine):
        channels = ("news:a", "news:b", "other:a", "plain", "$all", "$user:u", "news:ab")
        await engine.publish([event(channel) for channel in channels])
        return engine

    @pytest.mark.parametrize(
        ("names", "seqs"),
        [
            (["news:*"], [1, 2, 7]),
            (["news:a*"], [1, 7]),
            (["*"], [1, 2, 3, 4, 7]),
            (["pl*"], [4]),
            (["news:*", "news:a", "$all"], [1, 2, 5, 7]),
            (["nobody:*"], []),
        ],
    )
    async def test_they_cover_the_channels_that_they_match(self, engine, names, seqs):
        history = await engine.history(names, after=0, limit=10)
        assert [p.seq for p in history.publications] == seqs
        assert set(history.floors) == set(names)
        later = await engine.history(names, after=2, limit=10)
        assert [p.seq for p in later.publications] == [seq for seq in seqs if seq > 2]

    async def test_the_floor_is_the_highest_of_all_that_are_covered(self, open_engine):
        async with open_engine(history_events=2) as engine:
            for channel in ("n:a", "n:a", "n:b", "n:a", "m:a", "$all"):
                await engine.publish([event(channel)] * 2)
            await engine.trim()
            history = await engine.history(["n:*", "n:b*", "*", "m:*"], after=0, limit=99)
            assert history.floors == {"n:*": 4, "n:b*": 0, "*": 4, "m:*": 0}
            assert [p.seq for p in history.publications] == [5, 6, 7, 8, 9, 10]

    @pytest.mark.parametrize("user", ["*", "bob*", "a:*", "b%", "b_b", "b?b", "[b]ob", "b'ob"])
    async def test_a_users_channel_is_literal(self, open_engine, user):
        others = ("$user:bob", "$user:bobby", "$user:a:b", "$user:b", "bob", "a:b")
        own = f"$user:{user}"
        async with open_engine(history_events=1) as engine:
            for name in (*others, own, *others):
                await engine.publish([event(name)] * 2)
            await engine.trim()
            found = await engine.history([own, "$user:nobody*"], after=0, limit=99)
            assert [p.event.channel for p in found.publications] == [own]
            assert found.floors[own] == found.publications[0].prev
            latest = await engine.latest([own], limit=99, limit_bytes=1_000)
            assert [p.event.channel for p in latest] == [own]
            assert await engine.forget([own]) == 1
            assert await seqs_of(engine, own) == []
            assert len(await seqs_of(engine, *others)) == len(others)

    @pytest.mark.parametrize("name", ["n:a", "default:a"])
    async def test_a_whole_namespace_is_what_its_channels_are(self, engine, name):
        await engine.publish([event(channel) for channel in ("a", "n:a", "a", "n:a", "b")])
        pattern = f"{name.partition(':')[0]}:*"
        history = await engine.history([pattern], after=7, limit=9)
        assert [p.seq for p in history.publications] == ([9, 11] if name == "n:a" else [8, 10, 12])

    async def test_a_pattern_of_many_channels(self, open_engine):
        """More than an engine would look up one by one."""
        async with open_engine() as engine:
            for _ in range(2):
                await engine.publish([event(f"many:{n}") for n in range(100)] + [event("other")])
            for newest, seqs in ((False, [100, 102, 103]), (True, [199, 200, 201])):
                history = await engine.history(["many:*"], after=99, limit=3, newest=newest)
                assert [p.seq for p in history.publications] == seqs
                assert not history.complete
            whole = await engine.history(["many:*"], after=0, limit=1_000)
            assert len(whole.publications) == 200
            assert whole.complete


class TestLatest:
    async def test_it_is_the_newest_of_each_key_of_each_channel(self, engine):
        keys = ["x", "y", None, "x", None]
        await engine.publish([event("a", key=key) for key in keys])
        await engine.publish([event("b", key="x"), event("b"), event("c"), event("$conn:c")])
        for names, seqs in (
            (["a"], [2, 4, 5]),
            (["a", "b"], [2, 4, 5, 6, 7]),
            (["b", "nobody"], [6, 7]),
            (["*"], [2, 4, 5, 6, 7, 8]),
            ([], []),
        ):
            found = await engine.latest(names, limit=len(seqs), limit_bytes=len(seqs))
            assert [p.seq for p in found] == seqs
            if seqs:
                assert await engine.latest(names, limit=len(seqs) - 1, limit_bytes=100) is None
                assert await engine.latest(names, limit=9, limit_bytes=len(seqs) - 1) is None

    async def test_an_event_comes_as_it_was(self, engine):
        published = await engine.publish(
            [event("a", b'{"x": 1}', key="k", tags=("t", "u"), user="alice", exclude="c")]
        )
        assert await engine.latest(["a"], limit=1, limit_bytes=100) == published


def once(key, digest=b"1", *, scope="ann", index=0):
    return Once(scope, key, index, digest)


class TestOnce:
    async def test_the_same_again_is_not_accepted_again(self, engine):
        outlet = Outlet()
        engine.attach(outlet)
        first = await engine.publish([event("a", once=once("k")), event("a", b"2")])
        again = await engine.publish([event("a", once=once("k"))])
        assert again[0].position == first[0].position
        assert outlet.seqs == [1, 2]
        assert await seqs_of(engine, "a") == [1, 2]
        assert engine.head.seq == 2

    async def test_with_another_content_it_is_refused(self, engine):
        await engine.publish([event("a", once=once("k"))])
        with pytest.raises(IdempotencyConflict, match="'k'"):
            await engine.publish([event("a"), event("a", once=once("k", b"2"))])
        assert engine.head.seq == 1
        assert await seqs_of(engine, "a") == [1]

    @pytest.mark.parametrize("other", [{"scope": "bob"}, {"index": 1}, {"key": "l"}])
    async def test_another_publishers_key_is_another_one(self, engine, other):
        await engine.publish([event("a", once=once("k"))])
        await engine.publish([event("a", once=once(**{"key": "k", "digest": b"2"} | other))])
        assert engine.head.seq == 2

    async def test_twice_in_one_publish(self, engine):
        outlet = Outlet()
        engine.attach(outlet)
        events = [event("a", once=once("k")), event("b"), event("a", once=once("k"))]
        publications = await engine.publish(events)
        assert [p.seq for p in publications] == [1, 2, 1]
        assert outlet.seqs == [1, 2]
        with pytest.raises(IdempotencyConflict):
            await engine.publish(
                [event("a", once=once("l", b"1")), event("a", once=once("l", b"2"))]
            )
        assert engine.head.seq == 2

    async def test_at_the_same_time_one_is_accepted_and_all_get_its_place(self, engine):
        found = []

        async def publish(n):
            (publication,) = await engine.publish([event("a", once=once("k", b"%d" % (n % 2)))])
            found.append((n % 2, publication.seq))

        async def publish_or_fail(n):
            try:
                await publish(n)
            except IdempotencyConflict:
                found.append((n % 2, None))

        async with trio.open_nursery() as publishers:
            for n in range(20):
                publishers.start_soon(publish_or_fail, n)
        accepted = {kind for kind, seq in found if seq}
        assert len(accepted) == 1
        assert {seq for kind, seq in found if kind in accepted} == {1}
        assert len(found) == 20
        assert engine.head.seq == 1

    async def test_one_in_a_group_that_is_refused_does_not_harm_the_others(self, engine):
        await engine.publish([event("a", once=once("k"))])
        refused = []

        async def publish(digest):
            try:
                await engine.publish([event("a", once=once("k", digest)), event("b")])
            except IdempotencyConflict:
                refused.append(digest)

        async with trio.open_nursery() as publishers:
            for digest in (b"1", b"2", b"1"):
                publishers.start_soon(publish, digest)
        assert refused == [b"2"]
        assert len(await seqs_of(engine, "b")) == 2

    async def test_after_its_time_it_is_accepted_again(self, open_engine, monkeypatch):
        now = [1_000_000.0]
        monkeypatch.setattr(time, "time", lambda: now[0])
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        async with open_engine(idempotency_seconds=60) as engine:
            for moment, seq in ((0, 1), (59, 1), (62, 2)):
                now[0] = 1_000_000.0 + moment
                (publication,) = await engine.publish([event("a", once=once("k"))])
                assert publication.seq == seq

    async def test_it_can_be_off(self, open_engine):
        async with open_engine(idempotency_seconds=0) as engine:
            for seq in (1, 2):
                (publication,) = await engine.publish([event("a", once=once("k"))])
                assert publication.seq == seq


class TestRetention:
    async def test_each_namespace_keeps_its_own_number(self, open_engine):
        namespaces = {"few": Keep(2), "$all": Keep(1), "default": Keep(0)}
        async with open_engine(history_events=3, namespaces=namespaces) as engine:
            for channel in ("few:a", "few:b", "$all", "plain", "other:a"):
                await engine.publish([event(channel)] * 5)
            await engine.trim()
            counts = {
                channel: len(await seqs_of(engine, channel))
                for channel in ("few:a", "few:b", "$all", "plain", "other:a")
            }
        assert counts == {"few:a": 2, "few:b": 2, "$all": 1, "plain": 0, "other:a": 3}

    async def test_each_namespace_can_keep_so_many_bytes(self, open_engine):
        namespaces = {"some": Keep(100, size=10_000), "default": Keep(100)}
        async with open_engine(namespaces=namespaces) as engine:
            large = [
                event(channel, b"%02000d" % n) for n in range(9) for channel in ("some:a", "b")
            ]
            await engine.publish([*large, event("some:b", b"1")])
            await engine.trim()
            counts = {c: len(await seqs_of(engine, c)) for c in ("some:a", "some:b", "b")}
            assert counts in (
                {"some:a": 4, "some:b": 1, "b": 9},
                {"some:a": 3, "some:b": 1, "b": 9},
            )
            history = await engine.history(["some:a"], after=0, limit=99)
            assert history.floors["some:a"] == history.publications[0].prev
            await engine.publish([event("some:b", b"%08000d" % n) for n in (1, 2)])
            await engine.trim()
            assert await seqs_of(engine, "some:b") == [21]
            await engine.publish([event("some:b", b"%011000d" % 1)])
            await engine.trim()
            assert await seqs_of(engine, "some:b") == []

    async def test_what_is_too_old_goes_and_is_a_gap(self, open_engine, monkeypatch):
        now = [1_800_000_000]
        monkeypatch.setattr(time, "time_ns", lambda: now[0] * 10**9)

        def dated(channel):
            return attrs.evolve(event(channel), timestamp=timestamp())

        namespaces = {"short": Keep(100, 10), "ever": Keep(100)}
        channels = ("short:a", "ever:a", "plain")
        async with open_engine(history_seconds=100, namespaces=namespaces) as engine:
            for _ in range(3):
                await engine.publish([dated(channel) for channel in channels])
                now[0] += 8
            await engine.trim()
            assert await seqs_of(engine, "short:a") == [7]
            assert await seqs_of(engine, "ever:a") == [2, 5, 8]
            floors = (await engine.history(["short:a", "ever:a"], after=0, limit=9)).floors
            assert floors == {"short:a": 4, "ever:a": 0}
            now[0] += 89
            await engine.trim()
            assert await seqs_of(engine, *channels) == [2, 5, 8, 9]
            assert (await engine.history(["short:a"], after=0, limit=9)).floors == {"short:a": 7}


class TestForget:
    async def test_what_is_forgotten_is_a_gap_below_the_floor(self, engine):
        await engine.publish([event(c) for c in "aabab"])
        assert await engine.forget(["a", "nobody"]) == 3
        assert await seqs_of(engine, "a", "b") == [3, 5]
        history = await engine.history(["a", "b"], after=0, limit=9)
        assert history.floors["a"] >= 4
        assert history.floors["b"] == 0
        (publication,) = await engine.publish([event("a")])
        assert publication.prev >= 4
        assert await seqs_of(engine, "a", "b") == [3, 5, 6]

    async def test_what_comes_meanwhile_stays(self, engine):
        await engine.publish([event("a")] * 1_200)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.forget, ["a"])
            for _ in range(5):
                await engine.publish([event("a")])
        kept = await seqs_of(engine, "a")
        assert kept == list(range(1_206 - len(kept), 1_206))
        assert len(kept) <= 5


class TestFloors:
    async def test_the_floor_is_the_last_that_went(self, open_engine):
        async with open_engine(history_events=3) as engine:
            await engine.publish([event(c) for c in "aabaaa"])
            await engine.trim()
            history = await engine.history(["a", "b"], after=0, limit=10)
            assert [p.seq for p in history.publications] == [3, 4, 5, 6]
            assert history.floors == {"a": 2, "b": 0}

    async def test_prev_leads_from_the_floor_to_the_head(self, open_engine):
        async with open_engine(history_events=3) as engine:
            for channel in "aababaabbbaab":
                await engine.publish([event(channel)])
            await engine.trim()
            for channel in "ab":
                history = await engine.history([channel], after=0, limit=10)
                before = history.floors[channel]
                for publication in history.publications:
                    assert publication.prev == before
                    before = publication.seq

    async def test_without_history_everything_is_below_the_floor(self, open_engine):
        async with open_engine(history_events=0) as engine:
            await engine.publish([event("a"), event("b"), event("a")])
            await engine.trim()
            history = await engine.history(["a", "b"], after=0, limit=10)
            assert history.publications == ()
            assert history.floors["a"] >= 3
            assert history.floors["b"] >= 2


CHANNELS = ["a", "ab", "b", "ns:a", "ns:ab", "ns:b", "m:a", "$all", "$user:u"]
NAMES = ["*", "ns:*", "ns:a*", "default:*", "a*", "m:*", "nobody:*", "a", "ns:a", "$all"]


@given(
    batches=st.lists(st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=9), max_size=6),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    keep=st.sampled_from([1, 2, 100]),
    after=st.integers(0, 20),
    before=st.none() | st.integers(0, 40),
    limit=st.integers(1, 5),
    newest=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_of_patterns_are_those_of_a_plain_list(
    open_engine, batches, names, keep, after, before, limit, newest
):
    """Page by page, in either direction, with what retention removed told by the floors."""

    async def scenario():
        async with open_engine(history_events=keep) as engine:
            everything = []
            for batch in batches:
                everything += await engine.publish([event(channel) for channel in batch])
            await engine.trim()
            kept, floors = [], {}
            for channel in CHANNELS:
                mine = [p.seq for p in everything if p.event.channel == channel]
                kept += mine[-keep:]
                floors[channel] = max(mine[:-keep], default=0)
            covered = [c for c in CHANNELS if any(pattern_matches(n, c) for n in names)]
            end = engine.head.seq + 1 if before is None else before
            channel_of = {p.seq: p.event.channel for p in everything}
            due = [s for s in sorted(kept) if after < s < end and channel_of[s] in covered]
            found, bounds = [], {"after": after, "before": before}
            while True:
                page = await engine.history(names, limit=limit, newest=newest, **bounds)
                seqs = [p.seq for p in page.publications]
                assert seqs == sorted(set(seqs))
                assert len(seqs) <= limit
                found = seqs + found if newest else found + seqs
                for name in names:
                    floor = max(
                        (floors[c] for c in CHANNELS if pattern_matches(name, c)), default=0
                    )
                    told = page.floors[name]
                    assert told == floor or max(told, floor) <= bounds["after"]
                if page.complete:
                    break
                bounds |= {"before": seqs[0]} if newest else {"after": seqs[-1]}
            assert found == due

    trio.run(scenario)


channels = st.sampled_from(["a", "b", "ns:a", "ns:b", "$all", "$conn:x"])
published = st.lists(st.lists(st.tuples(channels, st.integers(0, 3_000)), min_size=1, max_size=4))


@given(
    batches=published,
    history_events=st.integers(1, 5),
    history_bytes=st.sampled_from([3_000, 8_000, 10_000_000]),
    after=st.integers(0, 30),
    limit=st.integers(0, 12),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reader_gets_all_or_knows_that_something_is_missing(
    open_engine, batches, history_events, history_bytes, after, limit
):
    """Whatever was removed, floors and limit tell it; whatever is above the floor is there."""

    async def scenario():
        bounds = {"history_events": history_events, "history_bytes": history_bytes}
        async with open_engine(**bounds) as engine:
            everything = []
            for batch in batches:
                everything += await engine.publish([event(c, b"x" * n) for c, n in batch])
            assert [p.seq for p in everything] == list(range(1, len(everything) + 1))
            await engine.trim()
            asked = ["a", "ns:a", "ns:b", "$all"]
            history = await engine.history(asked, after=after, limit=limit)
            whole = await engine.history(asked, after=after, limit=10_000)
            assert whole.complete
            assert history.publications == whole.publications[:limit]
            assert history.complete == (len(whole.publications) <= limit)
            for channel in asked:
                mine = [p for p in everything if p.event.channel == channel and p.seq > after]
                kept = [p for p in whole.publications if p.event.channel == channel]
                assert kept == mine[len(mine) - len(kept) :], "not the newest ones"
                assert len(kept) <= history_events
                lost = mine[: len(mine) - len(kept)]
                assert all(p.seq <= whole.floors[channel] for p in lost)
                assert all(p.seq > whole.floors[channel] for p in kept)
                for older, newer in pairwise(kept):
                    assert newer.prev == older.seq
                if kept and not lost and kept[0].prev <= after:
                    before = [p.seq for p in everything if p.event.channel == channel]
                    assert kept[0].prev >= max((s for s in before if s < kept[0].seq), default=0)

    trio.run(scenario)
