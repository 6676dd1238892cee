"""Who listens to what, seen through the hub: tables that come and go while events are written."""

from collections import Counter

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast import hub as hub_module
from triocast import turns as turns_module
from triocast.errors import Overloaded
from triocast.events import Event, Position, Publication, pattern_matches
from triocast.hub import Hub
from triocast.subscriptions import (
    EVERYTHING,
    MOST_REMEMBERED_MATCHES,
    Filter,
    PatternIndex,
    Subscriber,
    make_filter,
)

INBOX_BYTES = 50_000


class CountingEncoder:
    """Frames are the publications themselves; counts how often each was made."""

    def __init__(self):
        self.encoded = Counter()

    def encode(self, publication):
        self.encoded[publication.seq] += 1
        return publication

    def join(self, frames):
        return tuple(frames)


class Listener(Subscriber):
    """A subscriber that keeps what it is given."""

    def __init__(self, id, encoder=None, user=None):
        self.id = id
        self.user = user
        self.encoder = encoder or CountingEncoder()
        self.got = []
        self.calls = 0
        self.wrong = []
        self.on_delivery = None

    def deliver(self, joined, frames, publications):
        self.calls += 1
        self.got += frames
        if frames != publications:
            self.wrong.append(f"told {publications} with {frames}")
        if joined != (frames[0] if len(frames) == 1 else tuple(frames)):
            self.wrong.append("what is joined is not the frames")
        if self.on_delivery is not None:
            self.on_delivery(self)

    @property
    def seqs(self):
        assert not self.wrong
        return [publication.seq for publication in self.got]

    @property
    def data(self):
        return [publication.event.data.decode() for publication in self.got]


class Feed:
    """Accepts events as an engine does."""

    def __init__(self, hub, epoch="e"):
        self.hub = hub
        self.epoch = epoch
        self.seq = hub.accepted.seq

    def accept(self, channel, data="x", **fields):
        self.seq += 1
        event = Event(
            fields.pop("type", "T"),
            data if isinstance(data, bytes) else data.encode(),
            channel,
            "2026-01-31T12:00:00.123Z",
            **fields,
        )
        return Publication(event, Position(self.epoch, self.seq), prev=0)

    def put(self, *channels, **fields):
        publications = [self.accept(channel, **fields) for channel in channels]
        self.hub.put(publications)
        return publications


@pytest.fixture
async def hub(nursery):
    hub = Hub(inbox_bytes=INBOX_BYTES, head=Position("e", 0))
    nursery.start_soon(hub.run)
    return hub


@pytest.fixture
def feed(hub):
    return Feed(hub)


@pytest.fixture
def turn_after_each(monkeypatch):
    """Make the hub give others a turn before each subscriber."""
    monkeypatch.setattr(turns_module, "SLICE_SECONDS", -1)
    monkeypatch.setattr(turns_module, "LONGEST_SLICE_SECONDS", -1)
    monkeypatch.setattr(hub_module, "WRITES_IN_A_ROW", 1)


@pytest.fixture
def join(hub):
    def join(id, *names, filter=EVERYTHING, **fields):
        listener = Listener(id, **fields)
        hub.add(listener)
        hub.subscribe(listener, names, filter)
        return listener

    return join


async def written():
    await wait_all_tasks_blocked()


class TestDelivery:
    async def test_one_order_over_all_channels(self, join, feed):
        listener = join("1", "a", "b", "ns:*")
        feed.put("b", "a", "ns:x", "$all", "b", "b", "a", "ns:y")
        feed.put("a")
        await written()
        assert listener.seqs == list(range(1, 10))

    async def test_an_event_comes_once_however_often_it_was_asked_for(self, join, feed):
        listener = join("1", "ns:a", "ns:*", "ns:a*", "*", filter=make_filter(["T"], []))
        join("other", "ns:a")
        feed.put("ns:a", "ns:b", "ns:a", "$all")
        await written()
        assert listener.seqs == [1, 2, 3, 4]

    async def test_one_connection_is_reached_by_its_id(self, join, feed):
        one, two = join("1", "*"), join("2", "*")
        feed.put("$conn:1", "news", "$conn:1", "$conn:3")
        await written()
        assert (one.seqs, two.seqs) == ([1, 2, 3], [2])

    async def test_no_pattern_reaches_the_servers_own_channels(self, join, feed):
        listener = join("1", "*")
        feed.put("$user:alice", "$conn:2")
        await written()
        assert listener.seqs == []

    @pytest.mark.parametrize("user", ["*", "bob*", "a:*", "b%"])
    async def test_a_users_channel_is_that_users_only(self, hub, join, feed, user):
        own, bob = join("1", "room", user=user), join("2", user="bob")
        watcher = join("3", "*")
        assert await hub.count(f"$user:{user}") == await hub.count("$user:bob") == 1
        feed.put(f"$user:{user}", "$user:bob", "$user:a:b", "bob", "a:b")
        await written()
        assert (own.seqs, bob.seqs, watcher.seqs) == ([1], [2], [4, 5])
        hub.remove(own)
        assert await hub.count(f"$user:{user}") == 0

    async def test_an_event_passes_if_one_of_several_filters_lets_it(self, hub, join, feed):
        listener = join("1", "ns:*", filter=make_filter(["T"], []))
        hub.subscribe(listener, ["ns:a"], make_filter(["U"], []))
        feed.put("ns:a", type="T")
        feed.put("ns:a", type="U")
        feed.put("ns:a", type="V")
        feed.put("ns:b", type="U")
        await written()
        assert listener.seqs == [1, 2]

    async def test_the_filter_of_a_stream_is_for_broadcasts_too(self, hub, feed):
        listener = Listener("1", user="alice")
        hub.add(listener, make_filter(["T"], []))
        feed.put("$all", "$user:alice", type="U")
        feed.put("$all", "$user:alice", type="T")
        feed.put("$conn:1", type="U")
        await written()
        assert listener.seqs == [3, 4, 5]

    async def test_each_event_is_encoded_once_for_each_encoder(self, join, feed):
        shared, own = CountingEncoder(), CountingEncoder()
        for number in range(20):
            join(str(number), "ns:a", encoder=shared)
            join(f"p{number}", "ns:*", encoder=shared)
            join(f"f{number}", "ns:a", encoder=shared, filter=make_filter([f"T{number % 3}"], []))
        join("own", "ns:a", encoder=own)
        feed.put("ns:a", "ns:a")
        await written()
        feed.put("ns:a", type="T1")
        await written()
        assert shared.encoded == own.encoded == {1: 1, 2: 1, 3: 1}

    async def test_nothing_is_encoded_for_nobody(self, join, feed):
        encoder = CountingEncoder()
        join("1", "a", encoder=encoder)
        feed.put("b", "$conn:2", "$user:x")
        await written()
        assert not encoder.encoded

    async def test_more_than_a_batch_comes_complete(self, join, feed):
        listener = join("1", "a", "b")
        for _ in range(20):
            feed.put("a", "b", "a", data="x" * 10_000)
        await written()
        assert listener.seqs == list(range(1, 61))
        assert listener.calls > 1

    async def test_counters(self, hub, join, feed):
        join("1", "a", "b"), join("2", "a")
        feed.put("a", "b", "c")
        await written()
        assert (hub.stats.published, hub.stats.delivered) == (3, 3)
        assert hub.stats.inbox_bytes == 0
        assert hub.written == hub.accepted == Position("e", 3)


class TestLiveFrom:
    async def test_what_was_accepted_before_is_not_for_a_newcomer(self, join, feed):
        old = join("1", "a")
        feed.put("a", "a")  # in the inbox; the hub had no turn yet
        new = join("2", "a", "*")
        feed.put("a", "$all")
        await written()
        assert (old.seqs, new.seqs) == ([1, 2, 3, 4], [3, 4])

    async def test_the_reply_says_from_where(self, hub, feed):
        listener = Listener("1")
        feed.put("a")
        assert hub.add(listener) == Position("e", 1)
        feed.put("a")
        assert hub.subscribe(listener, ["a"]) == hub.accepted == Position("e", 2)
        assert hub.written == Position("e", 0)

    async def test_a_repeated_subscription_stays_as_it_is(self, hub, join, feed):
        listener = join("1", "a", filter=make_filter(["T"], []))
        feed.put("a")
        hub.subscribe(listener, ["a"], make_filter(["T"], []))
        await written()
        assert listener.seqs == [1]

    async def test_another_filter_is_a_new_subscription(self, hub, join, feed):
        listener = join("1", "a")
        feed.put("a", type="U")
        hub.subscribe(listener, ["a"], make_filter(["U"], []))
        feed.put("a")
        feed.put("a", type="U")
        await written()
        assert listener.seqs == [3]

    async def test_leaving_and_coming_back_begins_anew(self, hub, join, feed):
        listener, other = join("1", "a"), join("2", "a")
        feed.put("a")
        hub.unsubscribe(listener, ["a"])
        hub.subscribe(listener, ["a"])
        feed.put("a")
        await written()
        assert (listener.seqs, other.seqs) == ([2], [1, 2])


class TestLeaving:
    async def test_nothing_comes_after_unsubscribe(self, hub, join, feed):
        listener = join("1", "a", "b")
        feed.put("a", "b")
        hub.unsubscribe(listener, ["a", "unknown"])
        feed.put("a", "b")
        await written()
        assert listener.seqs == [2, 4]

    async def test_nothing_comes_after_remove(self, hub, join, feed):
        listener = join("1", "a")
        feed.put("a", "$conn:1", "$all")
        hub.remove(listener)
        hub.remove(listener)
        feed.put("a", "$conn:1", "$all")
        await written()
        assert listener.seqs == []

    async def test_the_removed_may_unsubscribe(self, hub, join):
        listener = join("1", "a")
        hub.remove(listener)
        hub.unsubscribe(listener, ["a"])
        assert hub.subscriptions(listener) == ()

    @pytest.mark.parametrize("channels", [["a"], ["a", "b"], ["a", "$all", "a"]])
    @pytest.mark.parametrize("how", ["unsubscribe", "remove"])
    async def test_it_holds_in_the_middle_of_a_batch(self, hub, join, feed, channels, how):
        """The first who gets something sends all others away."""
        listeners = [join(str(number), "a", "b") for number in range(40)]
        for listener in listeners:
            hub.unsubscribe(listener, ["$all"])

        def send_others_away(first):
            for listener in listeners:
                listener.on_delivery = None
                if listener is not first:
                    if how == "remove":
                        hub.remove(listener)
                    else:
                        hub.unsubscribe(listener, ["a", "b"])

        for listener in listeners:
            listener.on_delivery = send_others_away
        feed.put(*channels)
        await written()
        assert sum(1 for listener in listeners if listener.got) == 1

    async def test_one_of_two_channels_is_left_in_the_middle_of_a_batch(self, hub, join, feed):
        first, second = join("1", "a", "b"), join("2", "a", "b")
        first.on_delivery = lambda _: hub.unsubscribe(second, ["a"])
        feed.put("a", "b", "a", "b")
        await written()
        assert (first.seqs, second.seqs) == ([1, 2, 3, 4], [2, 4])

    @pytest.mark.parametrize("channel", ["a", "$all", "$user:u", "$conn:7"])
    @pytest.mark.parametrize("extra", [(), ("b",)])
    @pytest.mark.usefixtures("turn_after_each")
    async def test_it_holds_between_two_slices(self, hub, nursery, join, feed, channel, extra):
        """Somebody else ends connections while the hub gives them their turn."""
        listeners = [join(str(number), "a", "b", user="u") for number in range(8)]
        late = []

        async def end_one_by_one():
            for listener in reversed(listeners):
                await trio.lowlevel.checkpoint()
                hub.remove(listener)
                listener.on_delivery = late.append

        for _ in range(20):
            feed.put(channel, *extra)
            nursery.start_soon(end_one_by_one)
            await written()
            assert late == []
            for listener in listeners:
                listener.on_delivery = None
                hub.add(listener)
                hub.subscribe(listener, ["a", "b"])

    @pytest.mark.usefixtures("turn_after_each")
    async def test_who_comes_back_between_two_slices_gets_nothing_old(self, hub, join, feed):
        first, second = join("1", "a"), join("2", "a")

        def again(_):
            hub.unsubscribe(second, ["a"])
            hub.subscribe(second, ["a"])

        first.on_delivery = again
        feed.put("a", "a")
        await written()
        assert (first.seqs, second.seqs) == ([1, 2], [])
        first.on_delivery = None
        feed.put("a")
        await written()
        assert second.seqs == [3]

    async def test_nothing_is_left_when_everybody_has_left(self, hub, join, feed):
        listeners = [
            join(
                str(number),
                f"a{number % 3}",
                "ns:*",
                f"ns:{number}",
                "*",
                user=f"u{number % 2}",
                filter=make_filter([f"T{number % 2}"], []),
            )
            for number in range(10)
        ]
        feed.put("a1", "ns:1")
        await written()
        assert await hub.count("ns:1") == 10
        for number, listener in enumerate(listeners):
            if number % 2:
                hub.unsubscribe(listener, hub.subscriptions(listener))
            hub.remove(listener)
        assert hub.subscribers() == ()
        assert await hub.channels() == {}
        for channel in ("$all", "a1", "ns:1", "$conn:1", "$user:u1"):
            assert await hub.count(channel) == 0
        left = vars(hub._subscriptions) | vars(hub._subscriptions._index)
        assert not any(
            value for name, value in left.items() if name not in ("_index", "departures")
        )


class TestWhoIsThere:
    async def test_counts(self, hub, join):
        one, two = join("1", "ns:a", "ns:*", user="u"), join("2", "ns:a", user="u")
        assert await hub.count("ns:a") == 2
        assert await hub.count("ns:b") == 1
        assert await hub.count("$all") == await hub.count("$user:u") == 2
        assert (await hub.count("$conn:1"), await hub.count("$conn:3")) == (1, 0)
        assert await hub.channels() == {"$all": 2, "$user:u": 2, "ns:a": 2, "ns:*": 1}
        assert hub.subscribers() == (one, two)
        assert hub.subscriptions(two) == ("$all", "$user:u", "ns:a")

    async def test_all_subscriptions_together_are_bounded(self):
        hub = Hub(inbox_bytes=INBOX_BYTES, head=Position("e", 0), max_subscriptions=6)
        one, two = Listener("1"), Listener("2", user="u")
        hub.add(one)
        hub.add(two)  # With $all each, and $user:u.
        hub.subscribe(one, ["a", "b*"])
        hub.subscribe(one, ["a"], make_filter(["T"], []))
        hub.check_room(1)
        with pytest.raises(Overloaded):
            hub.check_room(2)
        hub.subscribe(two, ["a"])
        with pytest.raises(Overloaded):
            hub.check_room(1)
        hub.unsubscribe(one, ["a", "other"])
        hub.check_room(1)
        hub.remove(one)
        hub.check_room(3)
        hub.remove(two)
        hub.check_room(6)

    async def test_patterns_that_come_and_go_are_seen_at_once(self, hub, join, feed):
        listener = join("1")
        for pattern in ("n*", "news*", "*"):
            feed.put("news")
            await written()
            hub.subscribe(listener, [pattern])
            feed.put("news")
            await written()
            hub.unsubscribe(listener, [pattern])
        feed.put("news")
        await written()
        assert listener.seqs == [2, 4, 6]

    async def test_a_pattern_is_seen_by_channels_that_others_match_already(self, hub, join, feed):
        first, second = join("1", "news*"), join("2")
        feed.put("news")
        await written()
        hub.subscribe(second, ["n*"])
        feed.put("news")
        await written()
        assert (first.seqs, second.seqs) == ([1, 2], [2])

    async def test_many_channels_do_not_fill_the_cache_of_matches(self, hub, join, feed):
        listener = join("1", "ns:*")
        for start in range(0, 12_000, 500):
            feed.put(*(f"ns:{number}" for number in range(start, start + 500)))
            await written()
        assert len(listener.got) == 12_000
        assert len(hub._subscriptions._index._remembered) <= MOST_REMEMBERED_MATCHES


class TestInbox:
    async def test_the_bound_is_looked_at_again_by_each_who_waited(self, autojump_clock):
        hub = Hub(inbox_bytes=1_000, head=Position("e", 0))
        feed = Feed(hub)
        most = 0

        async def publish():
            nonlocal most
            for _ in range(20):
                await hub.wait_for_room()
                feed.put("a", data="x" * 900)
                most = max(most, hub.stats.inbox_bytes)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hub.run)
                async with trio.open_nursery() as publishers:
                    for _ in range(5):
                        publishers.start_soon(publish)
                nursery.cancel_scope.cancel()
        assert feed.seq == 100
        assert most < 3_000

    async def test_empty_events_have_their_weight_too(self):
        hub = Hub(inbox_bytes=INBOX_BYTES, head=Position("e", 0))
        Feed(hub).put(*["a"] * 1_000, data="")
        assert hub.stats.inbox_bytes >= INBOX_BYTES


@pytest.mark.parametrize("encoder", [CountingEncoder(), None], ids=["shared", "own"])
async def test_others_get_their_turn_between_slices(join, feed, turn_after_each, encoder):
    listeners = [join(str(number), "a", encoder=encoder) for number in range(10)]
    feed.put("a")
    turns = set()
    for _ in range(30):
        await trio.lowlevel.checkpoint()
        turns.add(sum(1 for listener in listeners if listener.got))
    assert len(turns) > 3


# Everything at once, against a model.

CHANNELS = ["a", "b", "ns:a", "ns:b", "$all", "$user:u", "$conn:0", "$conn:1"]
NAMES = ["a", "b", "ns:a", "ns:*", "ns:b*", "*", "a*"]
FILTERS = [EVERYTHING, Filter(types=frozenset({"T"})), Filter(tags=frozenset({"t"}))]

who = st.integers(0, 3)
some_names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)
leaving = st.tuples(st.just("unsubscribe"), who, some_names) | st.tuples(st.just("remove"), who)
events = st.tuples(
    st.sampled_from(CHANNELS),
    st.sampled_from("TU"),
    st.sampled_from([(), ("t",)]),
    st.sampled_from([None, None, "0", "1"]),
)
operations = st.one_of(
    st.tuples(st.just("publish"), st.lists(events, min_size=1, max_size=4)),
    st.tuples(st.just("publish"), st.lists(events, min_size=1, max_size=4)),
    st.tuples(st.just("add"), who, st.sampled_from(FILTERS)),
    st.tuples(st.just("subscribe"), who, some_names, st.sampled_from(FILTERS)),
    leaving,
    st.tuples(st.just("trap"), who, leaving),
    st.tuples(st.just("turns"), st.integers(1, 4)),
)


class Model:
    """What each subscriber may and must get, as a list of subscriptions."""

    def __init__(self, hub):
        self.hub = hub
        self.feed = Feed(hub)
        encoders = [CountingEncoder(), CountingEncoder()]
        self.encoders = encoders
        self.listeners = [
            Listener(str(i), encoders[i % 2], "u" if i < 2 else None) for i in range(4)
        ]
        self.subscriptions = [None] * 4
        self.received = [[] for _ in range(4)]
        self.accepted = []
        self.problems = []
        self.traps = [[] for _ in range(4)]
        for index, listener in enumerate(self.listeners):
            listener.on_delivery = lambda _, index=index: self.on_delivery(index)

    def wanted(self, index, publication):
        mine, event = self.subscriptions[index], publication.event
        if mine is None or event.exclude == str(index):
            return False
        if event.channel == f"$conn:{index}":
            return True
        return any(
            pattern_matches(name, event.channel)
            and live < publication.seq
            and (not filter.types or event.type in filter.types)
            and (not filter.tags or filter.tags & set(event.tags))
            for name, (live, filter) in mine.items()
        )

    def on_delivery(self, index):
        listener = self.listeners[index]
        frames, listener.got = listener.got, []
        for publication in frames:
            if not self.wanted(index, publication):
                self.problems.append(f"{index} got {publication} without a subscription")
        self.received[index] += frames
        traps, self.traps[index] = self.traps[index], []
        for operation in traps:
            self.carry_out(operation)

    def carry_out(self, operation):
        match operation:
            case "publish", several:
                publications = [
                    self.feed.accept(channel, type=type, tags=tags, exclude=exclude)
                    for channel, type, tags, exclude in several
                ]
                self.accepted += publications
                self.hub.put(publications)
            case "add", index, filter if self.subscriptions[index] is None:
                live = self.hub.add(self.listeners[index], filter).seq
                self.subscriptions[index] = {"$all": (live, filter)}
                if index < 2:
                    self.subscriptions[index]["$user:u"] = (live, filter)
                self.received[index] = []
            case "subscribe", index, names, filter if self.subscriptions[index] is not None:
                live = self.hub.subscribe(self.listeners[index], names, filter).seq
                for name in names:
                    old = self.subscriptions[index].get(name)
                    if old is None or old[1] != filter:
                        self.subscriptions[index][name] = (live, filter)
            case "unsubscribe", index, names:
                self.hub.unsubscribe(self.listeners[index], names)
                for name in names:
                    (self.subscriptions[index] or {}).pop(name, None)
            case "remove", index:
                self.hub.remove(self.listeners[index])
                self.subscriptions[index] = None
            case "trap", index, operation:
                self.traps[index].append(operation)

    def check(self):
        assert self.problems == []
        for index, listener in enumerate(self.listeners):
            assert listener.wrong == []
            seqs = [publication.seq for publication in self.received[index]]
            assert seqs == sorted(set(seqs)), "out of order, or twice"
            for publication in self.accepted:
                own = publication.event.channel.startswith("$conn:")
                if not own and self.wanted(index, publication):
                    assert publication.seq in seqs, "lost"
        for encoder in self.encoders:
            assert all(count == 1 for count in encoder.encoded.values())


@given(st.lists(operations, max_size=40))
@settings(max_examples=settings.default.max_examples * 3)
def test_any_interleaving_agrees_with_the_model(plan):
    async def scenario():
        hub = Hub(inbox_bytes=INBOX_BYTES, head=Position("e", 0))
        model = Model(hub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            for operation in plan:
                if operation[0] == "turns":
                    for _ in range(operation[1]):
                        await trio.lowlevel.checkpoint()
                else:
                    model.carry_out(operation)
            await hub.wait_until_written()
            nursery.cancel_scope.cancel()
        model.check()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns_module, "SLICE_SECONDS", -1)
        patch.setattr(turns_module, "LONGEST_SLICE_SECONDS", -1)
        patch.setattr(hub_module, "WRITES_IN_A_ROW", 1)
        trio.run(scenario)


_names = st.sampled_from(
    [
        "a", "ab", "abc", "b", "ns:a", "ns:ab", "ns:a:b", "n:a", "nsx:a", "default", "ns",
        "$all", "$user:a",
    ]
)  # fmt: skip
_patterns = st.sampled_from(
    [
        "*", "a*", "ab*", "abc*", "ns*", "ns:*", "ns:a*", "ns:a:*", "n:*", "default:*",
        "default:a*", "b*",
    ]
)  # fmt: skip


@given(st.lists(st.tuples(st.booleans(), _patterns, _names), max_size=40))
def test_the_index_finds_the_patterns_that_match(steps):
    index, there = PatternIndex(), set()
    for add, pattern, channel in steps:
        if add and pattern not in there:
            index.add(pattern)
            there.add(pattern)
        elif not add and pattern in there:
            index.remove(pattern)
            there.remove(pattern)
        found = index.matching(channel)
        assert sorted(found) == sorted(p for p in there if pattern_matches(p, channel))


async def test_only_what_was_asked_for_is_counted():
    hub = Hub(inbox_bytes=INBOX_BYTES, head=Position("e", 0))
    listener = Listener("x", user="ann")
    hub.add(listener)
    assert hub.subscription_count(listener) == 0
    hub.subscribe(listener, ["a", "b:*"])
    hub.subscribe(listener, ["a"], make_filter(["T"], []))
    assert hub.subscription_count(listener) == 2
    assert [hub.is_subscribed(listener, name) for name in ("a", "b:*", "c")] == [True, True, False]
    hub.unsubscribe(listener, ["$all", "a"])
    assert hub.subscription_count(listener) == 1
    hub.remove(listener)
    assert hub.subscription_count(listener) == 0
    assert not hub.is_subscribed(listener, "b:*")
