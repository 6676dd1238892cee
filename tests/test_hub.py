"""The fan-out: who gets what, once, in order, and nothing after they left."""

from collections.abc import Callable, Sequence

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast import hub as hub_module
from triocast import turns as turns_module
from triocast.events import BROADCAST, Event, Position, Publication, pattern_matches, user_channel
from triocast.hub import Hub
from triocast.subscriptions import EVERYTHING, Subscriber, make_filter

EPOCH = "e"


@attrs.define(eq=False)
class Encoder:
    """Frames are (seq, type); counts what it was asked for."""

    encoded: int = 0

    def encode(self, publication: Publication) -> tuple[int, str]:
        self.encoded += 1
        return publication.seq, publication.event.type

    def join(self, frames: list[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
        return tuple(frames)


SHARED = Encoder()


@attrs.define(eq=False)
class Listener(Subscriber):
    id: str
    user: str | None = None
    encoder: Encoder = SHARED
    got: list[int] = attrs.field(factory=list)
    seqs: list[int] = attrs.field(factory=list)
    on_delivery: Callable[[], None] = lambda: None

    def deliver(
        self,
        joined: object,
        frames: Sequence[tuple[int, str]],
        publications: Sequence[Publication],
    ) -> None:
        assert joined == (frames[0] if len(frames) == 1 else tuple(frames))
        seqs = [publication.seq for publication in publications]
        assert [number for number, _ in frames] == seqs
        self.got += (number for number, _ in frames)
        self.seqs.append(seqs[-1])
        self.on_delivery()


class Source:
    """Numbers events, as an engine does, and puts them into the hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.seq = 0

    def publish(self, channel: str, type: str = "t", **fields: object) -> int:
        self.hub.put([self._number(channel, type, **fields)])
        return self.seq

    def publish_together(self, *channels: str) -> None:
        self.hub.put([self._number(channel, "t") for channel in channels])

    def _number(self, channel: str, type: str, **fields: object) -> Publication:
        self.seq += 1
        event = Event(type=type, data=b"{}", channel=channel, timestamp="", **fields)
        return Publication(event, Position(EPOCH, self.seq), prev=0)


@pytest.fixture
async def hub() -> Hub:
    return Hub(inbox_bytes=100_000, head=Position(EPOCH, 0))


@pytest.fixture
async def source(hub) -> Source:
    return Source(hub)


def enter(hub: Hub, name: str, *channels: str, **fields: object) -> Listener:
    listener = Listener(name, **fields)
    hub.add(listener)
    hub.subscribe(listener, channels)
    return listener


async def test_each_gets_its_channels_in_order(hub, source, nursery):
    a, b = enter(hub, "a", "x"), enter(hub, "b", "x", "y")
    for channel in ("x", "y", "x", "z", BROADCAST):
        source.publish(channel)
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert a.got == [1, 3, 5]
    assert b.got == [1, 2, 3, 5]
    assert hub.written == Position(EPOCH, 5)


async def test_an_event_comes_once_however_many_names_cover_it(hub, source, nursery):
    listener = enter(hub, "a", "news:x", "news:*", "*")
    other = enter(hub, "b", "news:*")
    source.publish("news:x")
    source.publish("news:y")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert listener.got == other.got == [1, 2]


async def test_order_holds_over_names_with_filters_of_their_own(hub, source, nursery):
    listener = enter(hub, "a")
    hub.subscribe(listener, ["n:x"], make_filter(["late"], []))
    hub.subscribe(listener, ["n:*"], make_filter(["early"], []))
    source.publish("n:x", "early")
    source.publish("n:x", "late")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert listener.got == [1, 2]


async def test_what_was_accepted_before_the_subscription_is_not_for_it(hub, source, nursery):
    early = enter(hub, "early", "x")
    source.publish("x")
    late = Listener("late")
    hub.add(late)
    assert hub.subscribe(late, ["x"]) == Position(EPOCH, 1)
    source.publish("x")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert early.got == [1, 2]
    assert late.got == [2]


async def test_nothing_comes_after_leaving_in_the_middle_of_a_batch(hub, source, nursery):
    first, second, third = (enter(hub, name, "x") for name in "abc")
    first.on_delivery = lambda: (hub.unsubscribe(second, ["x"]), hub.remove(third))
    source.publish("x")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert (first.got, second.got, third.got) == ([1], [], [])


async def test_nothing_comes_after_leaving_between_two_slices(
    hub, source, nursery, monkeypatch, autojump_clock
):
    monkeypatch.setattr(turns_module, "SLICE_SECONDS", -1)
    monkeypatch.setattr(turns_module, "LONGEST_SLICE_SECONDS", -1)
    monkeypatch.setattr(hub_module, "WRITES_IN_A_ROW", 1)
    crowd = [enter(hub, f"c{n}", "x") for n in range(50)]
    left: dict[str, int] = {}

    async def leave_one_by_one() -> None:
        for listener in reversed(crowd):
            await trio.lowlevel.checkpoint()
            hub.remove(listener)
            left[listener.id] = len(listener.got)

    source.publish("x")
    nursery.start_soon(hub.run)
    nursery.start_soon(leave_one_by_one)
    await wait_all_tasks_blocked()
    assert {listener.id: len(listener.got) for listener in crowd} == left
    assert 0 < sum(left.values()) < len(crowd)  # some had it before they left, some had not


async def test_what_is_for_one_connection_does_not_come_after_it_left(
    hub, source, nursery, monkeypatch
):
    turns = []

    async def leave(slices: object) -> None:
        turns.append(slices)
        await trio.lowlevel.checkpoint()
        hub.remove(listener)

    monkeypatch.setattr(turns_module, "SLICE_SECONDS", -1)  # a turn for others before the write
    monkeypatch.setattr(turns_module.Turns, "give", leave)
    listener = enter(hub, "a")
    source.publish("$conn:a")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert turns, "there was no turn, nothing was tested"
    assert listener.got == []


async def test_filters_by_type_and_tag(hub, source, nursery):
    types, tags = Listener("types"), Listener("tags")
    for listener, filter in (
        (types, make_filter(["a", "b"], [])),
        (tags, make_filter(["a"], ["red", "blue"])),
    ):
        hub.add(listener, filter)
        hub.subscribe(listener, ["x"], filter)
    source.publish("x", "a", tags=("red",))
    source.publish("x", "b", tags=("red",))
    source.publish("x", "c")
    source.publish(BROADCAST, "a", tags=("blue", "green"))
    source.publish(BROADCAST, "a")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert types.got == [1, 2, 4, 5]
    assert tags.got == [1, 4]


async def test_users_connections_and_publishers_without_echo(hub, source, nursery):
    one, two = enter(hub, "one", "x", user="ann"), enter(hub, "two", "x", user="ann")
    other = enter(hub, "other", "x", user="bob")
    source.publish(user_channel("ann"))
    source.publish("$conn:two")
    source.publish("x", exclude="one")
    source.publish("$conn:nobody")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert one.got == [1]
    assert two.got == [1, 2, 3]
    assert other.got == [3]
    assert await hub.count("$conn:two") == 1
    assert await hub.count("$conn:nobody") == 0
    assert await hub.count("x") == 3


async def test_an_event_is_encoded_once_for_all_who_take_it_the_same_way(hub, source, nursery):
    mine, theirs = Encoder(), Encoder()
    for n in range(20):
        enter(hub, f"m{n}", "x", "*", encoder=mine)
        enter(hub, f"t{n}", "x", encoder=theirs)
    source.publish("x")
    source.publish("x")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert (mine.encoded, theirs.encoded) == (2, 2)


async def test_events_that_are_ready_together_come_in_one_delivery(hub, source, nursery):
    listener = enter(hub, "a", "x")
    for _ in range(10):
        source.publish("x")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert listener.seqs == [10]


async def test_publishers_wait_at_the_inbox_bound(hub, source, nursery):
    waited = []

    async def wait() -> None:
        await hub.wait_for_room()
        waited.append(hub.stats.inbox_bytes)

    while hub.stats.inbox_bytes < 100_000:
        source.publish("x")
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert waited == []
    source.publish("x")  # one more, by an engine that had room to promise
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    assert len(waited) == 1
    assert waited[0] < 100_000
    assert hub.stats.inbox_bytes == 0


async def test_nothing_is_left_when_everybody_left(hub, source, nursery):
    nursery.start_soon(hub.run)
    crowd = [enter(hub, f"c{n}", "x", f"own:{n}", "own:*", user="ann") for n in range(5)]
    source.publish("own:3")
    await wait_all_tasks_blocked()
    for listener in crowd:
        hub.remove(listener)
        hub.remove(listener)
    assert await hub.channels() == {}
    assert hub.subscribers() == ()
    assert await hub.count(BROADCAST) == 0


async def test_a_new_filter_replaces_the_old_one(hub, source, nursery):
    listener = enter(hub, "a", "x")
    nursery.start_soon(hub.run)
    hub.subscribe(listener, ["x"], make_filter(["wanted"], []))
    hub.subscribe(listener, ["x"], make_filter(["wanted"], []))
    source.publish("x", "other")
    wanted = source.publish("x", "wanted")
    await wait_all_tasks_blocked()
    assert listener.got == [wanted]
    assert await hub.channels() == {BROADCAST: 1, "x": 1}
    hub.subscribe(listener, ["x"], EVERYTHING)
    other = source.publish("x", "other")
    await wait_all_tasks_blocked()
    assert listener.got == [wanted, other]


CHANNELS = ("a", "b", "n:a", "n:b", BROADCAST)
NAMES = ("a", "b", "n:a", "n:b", "n:*", "*")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("subscribe"), st.integers(0, 3), st.sampled_from(NAMES)),
        st.tuples(st.just("unsubscribe"), st.integers(0, 3), st.sampled_from(NAMES)),
        st.tuples(st.just("remove"), st.integers(0, 3)),
        st.tuples(st.just("turn"), st.integers(1, 5)),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_interleaving_loses_doubles_and_disorders_nothing(steps):
    """Events that were accepted while a name was subscribed come, once and in order, unless the
    subscriber left before they were written; others do not come."""

    async def run() -> None:
        hub = Hub(inbox_bytes=100_000, head=Position(EPOCH, 0))
        source = Source(hub)
        listeners = [Listener(str(n)) for n in range(4)]
        live: dict[int, dict[str, int]] = {}
        published: list[tuple[int, str]] = []
        must: list[set[int]] = [set() for _ in listeners]
        may: list[set[int]] = [set() for _ in listeners]

        def settle(n: int, *, left: str | None = None) -> None:
            """Note what listener n must have by now or may have, before its names change."""
            for seq, channel in published:
                covering = [
                    name
                    for name, since in live[n].items()
                    if seq > since and (name == channel or pattern_matches(name, channel))
                ]
                if covering:
                    may[n].add(seq)
                    if covering != [left] or seq <= hub.written.seq:
                        must[n].add(seq)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            for step in steps:
                match step:
                    case ("publish", channel):
                        published.append((source.publish(channel), channel))
                    case ("subscribe", n, name):
                        if n not in live:
                            hub.add(listeners[n])
                            live[n] = {BROADCAST: hub.accepted.seq}
                        live[n].setdefault(name, hub.subscribe(listeners[n], [name]).seq)
                    case ("unsubscribe", n, name) if n in live and name in live[n]:
                        settle(n, left=name)
                        must[n] -= {
                            seq
                            for seq, channel in published
                            if seq > hub.written.seq and pattern_matches(name, channel)
                        }
                        hub.unsubscribe(listeners[n], [name])
                        del live[n][name]
                    case ("remove", n) if n in live:
                        settle(n)
                        must[n] -= {seq for seq, _ in published if seq > hub.written.seq}
                        hub.remove(listeners[n])
                        del live[n]
                    case ("turn", times):
                        for _ in range(times):
                            await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            for n in live:
                settle(n)
            nursery.cancel_scope.cancel()
        for n, listener in enumerate(listeners):
            assert listener.got == sorted(set(listener.got))
            assert must[n] <= set(listener.got) <= may[n]

    before = turns_module.SLICE_SECONDS, turns_module.LONGEST_SLICE_SECONDS
    turns_module.SLICE_SECONDS = turns_module.LONGEST_SLICE_SECONDS = -1
    try:
        trio.run(run)
    finally:
        turns_module.SLICE_SECONDS, turns_module.LONGEST_SLICE_SECONDS = before


@pytest.mark.parametrize("attempt", range(20))  # Trio shuffles the tasks of a pass.
async def test_who_listens_comes_before_a_publisher_goes_on(hub, source, nursery, attempt):
    listener = enter(hub, "a", "x")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    source.publish("x")
    await hub.take_turn()
    assert listener.got == [1]


async def test_a_turn_is_not_waited_for_when_all_is_written(hub, source):
    with trio.fail_after(0):  # nobody runs the hub
        await hub.take_turn()


async def test_a_publisher_that_gives_up_does_not_fail_what_was_accepted(hub, source, nursery):
    listener = enter(hub, "a", "x")
    nursery.start_soon(hub.run)
    await wait_all_tasks_blocked()
    source.publish("x")
    with trio.CancelScope() as scope:
        scope.cancel()
        await hub.take_turn()
        reached = True
    assert reached
    assert listener.got == [1]


# Errors of ours cost as little as they can.


@attrs.define(eq=False)
class Fragile(Encoder):
    """Cannot encode the types `poison`, for which it can tell a gap, and `venom`."""

    def encode(self, publication: Publication) -> tuple[int, str]:
        if publication.event.type in ("poison", "venom"):
            raise RuntimeError("injected")
        return super().encode(publication)

    def encode_gap(self, publication: Publication) -> tuple[int, str]:
        if publication.event.type == "venom":
            raise RuntimeError("injected too")
        return publication.seq, "gap"


class Recorder(Listener):
    """Keeps its frames, and whether it was ended."""

    failed = False

    def deliver(self, joined, frames, publications):
        self.frames = [*getattr(self, "frames", []), *frames]
        super().deliver(joined, frames, publications)

    def fail(self) -> None:
        self.failed = True


def enter_recorder(hub: Hub, name: str, *channels: str, **fields: object) -> Recorder:
    recorder = Recorder(name, **fields)
    hub.add(recorder)
    hub.subscribe(recorder, channels)
    return recorder


@pytest.mark.parametrize("channels", [("x", "x", "x"), ("x", "y", "x"), ("$all", "y", "$conn:a")])
async def test_an_event_that_cannot_be_encoded_is_a_gap_for_that_encoder_alone(
    hub, source, nursery, caplog, channels
):
    hurt = enter_recorder(hub, "a", "x", "y", encoder=Fragile())
    other = enter_recorder(hub, "b", "x", "y")
    nursery.start_soon(hub.run)
    for channel, type in zip(channels, ("before", "poison", "after"), strict=True):
        source.publish(channel, type)
    await wait_all_tasks_blocked()
    assert hurt.frames == [(1, "before"), (2, "gap"), (3, "after")]
    assert other.frames[:2] == [(1, "before"), (2, "poison")]
    assert hub.written == Position(EPOCH, 3)
    assert (hub.stats.encode_failures, hub.stats.delivery_failures) == (1, 0)
    (record,) = caplog.records
    assert "injected" in str(record.exc_info[1])
    assert "by an error of ours" in record.getMessage()
    assert channels[1] in record.getMessage()


async def test_only_those_who_would_have_got_the_event_are_told_of_the_gap(hub, source, nursery):
    encoder = Fragile()
    wants = enter_recorder(hub, "a", encoder=encoder)
    passes = enter_recorder(hub, "b", encoder=encoder)
    hub.subscribe(wants, ["x"], make_filter(["poison"], []))
    hub.subscribe(passes, ["x"], make_filter(["t"], []))
    nursery.start_soon(hub.run)
    source.publish("x", "poison")
    source.publish("x", "t")
    await wait_all_tasks_blocked()
    assert wants.frames == [(1, "gap")]
    assert passes.frames == [(2, "t")]


async def test_an_error_that_repeats_with_each_event_does_not_fill_the_log(
    hub, source, nursery, caplog
):
    enter_recorder(hub, "a", "x", encoder=Fragile())
    nursery.start_soon(hub.run)
    for _ in range(100):
        source.publish("x", "poison")
        await wait_all_tasks_blocked()
    assert hub.stats.encode_failures == 100
    assert len(caplog.records) <= 3


@attrs.define(eq=False)
class NoJoin(Encoder):
    def join(self, frames):
        raise RuntimeError("injected")


@pytest.mark.parametrize(
    ("encoder", "types"), [(Fragile(), ("t", "venom")), (NoJoin(), ("t", "t"))]
)
async def test_subscribers_who_cannot_even_be_told_of_a_gap_are_ended_and_nobody_else(
    hub, source, nursery, caplog, encoder, types
):
    hurt = [enter_recorder(hub, name, "x", encoder=encoder) for name in "ab"]
    other = enter_recorder(hub, "c", "x")
    nursery.start_soon(hub.run)
    for type in types:
        source.publish("x", type)
    await wait_all_tasks_blocked()
    source.publish("x")
    await wait_all_tasks_blocked()
    assert [each.failed for each in hurt] == [True, True]
    assert other.got == [1, 2, 3]
    assert hub.subscribers() == (other,)
    assert hub.stats.delivery_failures == 2
    assert "injected" in caplog.text


class Broken(Recorder):
    """Fails where the hub calls it, in the way that its id says."""

    def claim(self, size, count, seq):
        if self.id == "claim":
            raise RuntimeError("injected")
        return None if self.id == "deliver" else self.write

    def write(self, data):
        if self.id == "write":
            raise TypeError("injected")
        return 1

    def catch_up(self, frames, publications, size, sent, error=None):
        raise RuntimeError("injected")

    def deliver(self, joined, frames, publications):
        raise RuntimeError("injected")

    def fail(self) -> None:
        super().fail()
        if self.id == "write":
            raise RuntimeError("injected too")


@pytest.mark.parametrize("channels", [("x",), ("x", "y"), ("$conn:{}",)])
@pytest.mark.parametrize("way", ["claim", "write", "rest", "deliver"])
async def test_a_subscriber_that_fails_is_ended_and_nobody_else(
    hub, source, nursery, caplog, way, channels
):
    first, last = (enter_recorder(hub, name, "x", "y") for name in ("first", "last"))
    broken = Broken(way)
    hub.add(broken)
    hub.subscribe(broken, ["x", "y"])
    again = enter_recorder(hub, "again", "x", "y")
    nursery.start_soon(hub.run)
    for channel in channels:
        source.publish(channel.format(way))
    await wait_all_tasks_blocked()
    seq = source.publish("x")
    await wait_all_tasks_blocked()
    assert broken.failed
    assert hub.subscribers() == (first, last, again)
    assert first.got == last.got == again.got
    assert first.got[-1] == seq
    assert hub.stats.delivery_failures == 1
    assert "injected" in caplog.text


async def test_someone_who_leaves_is_forgotten_even_if_the_watcher_fails(hub):
    class Watcher:
        def came(self, subscriber, channel):
            pass

        def went(self, subscriber, channel):
            raise RuntimeError("injected")

    hub.watcher = Watcher()
    listener = enter(hub, "a", "x")
    with pytest.raises(RuntimeError):
        hub.remove(listener)
    assert hub.subscribers() == ()


# No step of the run loop is longer for there being more to do.


@attrs.define(eq=False)
class Worker(Listener):
    """Notes each time that it is looked up or given something: that is what the hub has to do."""

    did: Callable[[], None] = lambda: None

    def __hash__(self) -> int:
        self.did()
        return id(self)

    def deliver(self, joined, frames, publications):
        self.did()
        super().deliver(joined, frames, publications)


def enter_workers(hub: Hub, work, count: int, *names: str, filtered: bool) -> list[Worker]:
    """Let a crowd in, if it is filtered with a filter for each that lets everything pass."""
    crowd = [Worker(str(number), did=work.did) for number in range(count)]
    for worker in crowd:
        hub.add(worker)
        hub.subscribe(worker, names, make_filter(["t", worker.id] if filtered else [], []))
    return crowd


CROWDS = {
    "one channel": (["x"], ["x"], False),
    "many events of one channel": (["x"], ["x"] * 20, False),
    "two channels in one batch": (["x", "y"], ["x", "y"] * 10, False),
    "a filter for each": (["x"], ["x"] * 20, True),
    "a filter for each, two channels": (["x", "y"], ["x", "y"] * 10, True),
    "patterns": (["n:*", "n:x", "*"], ["n:x", "n:y"] * 10, False),
    "many channels": ([f"c{n}" for n in range(20)], [f"c{n}" for n in range(20)], False),
}


@pytest.mark.parametrize("count", [500, 1_000])
@pytest.mark.parametrize("crowd", CROWDS)
async def test_a_step_of_the_fan_out_has_a_bounded_length(hub, source, nursery, work, crowd, count):
    names, channels, filtered = CROWDS[crowd]
    everybody = enter_workers(hub, work, count, *names, filtered=filtered)
    source.publish_together(*channels)
    work.longest = 0
    nursery.start_soon(hub.run)
    await hub.wait_until_written()
    expected = list(range(1, len(channels) + 1))
    assert all(each.got == expected for each in everybody)
    assert 0 < work.longest <= work.PER_TURN + 8 * hub_module.WRITES_IN_A_ROW


async def test_counting_subscribers_of_patterns_gives_turns(hub, work):
    enter_workers(hub, work, 1_000, "n:x", "n:*", filtered=True)
    await trio.lowlevel.checkpoint()
    work.longest = 0
    assert await hub.count("n:x") == 1_000
    assert 0 < work.longest <= work.PER_TURN + 1
