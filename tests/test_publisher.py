"""What a publisher may not do, and what it is told when the server cannot."""

import re

import attrs
import pytest
import trio

from triocast.auth import EVERYTHING, Grant
from triocast.engines import MemoryEngine
from triocast.engines.sqlite import SQLiteEngine
from triocast.errors import (
    Forbidden,
    IdempotencyConflict,
    Overloaded,
    ReservedType,
    ShuttingDown,
    TooLarge,
)
from triocast.events import Once
from triocast.publisher import Publisher


class FullOutlet:
    """Has no room until it is told."""

    def __init__(self) -> None:
        self.received = []
        self.room = trio.Event()

    @property
    def has_room(self) -> bool:
        return self.room.is_set()

    async def wait_for_room(self) -> None:
        await self.room.wait()

    def put(self, publications) -> None:
        self.received += publications


@pytest.fixture
def engine():
    return MemoryEngine(epoch="e", history_events=10, history_bytes=10**6)


@pytest.fixture
def publisher(engine):
    return Publisher(engine, max_event_bytes=10, wait_seconds=3)


def events(publisher, count=1):
    return [publisher.event(EVERYTHING, channel="news", type="T", data=b"1") for _ in range(count)]


def test_an_event_is_stamped_with_now_and_its_publisher(publisher):
    grant = Grant(user="alice", publish=("chat:*",))
    event = publisher.event(
        grant, channel="chat:a", type="T", data=b"[1]", key="k", tags=("x",), exclude="c1"
    )
    assert (event.channel, event.type, event.data) == ("chat:a", "T", b"[1]")
    assert (event.key, event.tags, event.exclude) == ("k", ("x",), "c1")
    assert event.user == "alice"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.timestamp)


@pytest.mark.parametrize("channel", ["news", "chat", "$all", "$user:alice", "$conn:c1"])
def test_what_the_grant_does_not_name_is_forbidden(publisher, channel):
    with pytest.raises(Forbidden, match=re.escape(channel)):
        publisher.event(
            Grant(user="alice", subscribe=("*",), publish=("chat:*",)),
            channel=channel,
            type="T",
            data=b"1",
        )


@pytest.mark.parametrize("type", ["connected", "gap", "HEARTBEAT", "ERROR"])
def test_nobody_publishes_under_the_type_of_a_message_of_the_server(publisher, type):
    with pytest.raises(ReservedType, match=type) as caught:
        publisher.event(EVERYTHING, channel="news", type=type, data=b"1")
    assert (caught.value.status, caught.value.code) == (400, "reserved_type")
    for other in ("live", "reply", "error", type.swapcase()):
        publisher.event(EVERYTHING, channel="news", type=other, data=b"1")


def test_data_is_bounded(publisher):
    publisher.event(EVERYTHING, channel="news", type="T", data=b"1" * 10)
    with pytest.raises(TooLarge, match="11 bytes; 10"):
        publisher.event(EVERYTHING, channel="news", type="T", data=b"1" * 11)


async def test_published_events_come_back_with_their_positions(publisher, engine):
    given = events(publisher, 3)
    published = await publisher.publish(given)
    assert [p.event for p in published] == given
    assert [p.seq for p in published] == [1, 2, 3]
    assert published[-1].position == engine.head


async def test_without_room_for_too_long_the_server_is_overloaded(
    publisher, engine, autojump_clock
):
    outlet = FullOutlet()
    engine.attach(outlet)
    began = trio.current_time()
    with pytest.raises(Overloaded) as caught:
        await publisher.publish(events(publisher, 2))
    assert trio.current_time() - began == pytest.approx(3)
    assert caught.value.temporary and caught.value.status == 503
    outlet.room.set()
    assert engine.head.seq == 0 and outlet.received == []
    (publication,) = await publisher.publish(events(publisher))
    assert publication.seq == 1


async def test_room_that_comes_in_time_is_used(publisher, engine, autojump_clock):
    outlet = FullOutlet()
    engine.attach(outlet)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.publish, events(publisher, 2))
        await trio.sleep(2.9)
        assert outlet.received == []
        outlet.room.set()
    assert [p.seq for p in outlet.received] == [1, 2]


async def test_cancelling_a_publisher_is_not_an_overload(publisher, engine):
    engine.attach(FullOutlet())
    with trio.CancelScope() as scope:
        scope.cancel()
        await publisher.publish(events(publisher))
    assert scope.cancelled_caught
    assert engine.head.seq == 0


async def test_a_server_that_goes_away_takes_no_events(publisher, engine):
    prepared = events(publisher)
    publisher.closed = True
    with pytest.raises(ShuttingDown) as caught:
        await publisher.publish(prepared)
    assert caught.value.temporary
    assert engine.head.seq == 0


@pytest.mark.parametrize("full", [True, False])
async def test_a_wait_of_zero_refuses_only_where_there_is_no_room(engine, full):
    publisher = Publisher(engine, max_event_bytes=10, wait_seconds=0)
    outlet = FullOutlet()
    engine.attach(outlet)
    if full:
        with pytest.raises(Overloaded):
            await publisher.publish(events(publisher))
    else:
        outlet.room.set()
        await publisher.publish(events(publisher))
    assert len(outlet.received) == engine.head.seq == (not full)


async def test_a_callers_deadline_is_not_an_overload(publisher, engine, autojump_clock):
    engine.attach(FullOutlet())
    with trio.move_on_after(1) as scope:
        await publisher.publish(events(publisher))
    assert scope.cancelled_caught


async def test_a_wait_of_zero_does_not_refuse_because_the_store_is_at_work(
    tmp_path, autojump_clock
):
    """Publishers that come during another's commit wait for the next one."""

    async def slowly(function, *arguments, limiter):
        await trio.sleep(1)
        return function(*arguments)

    bounds = {"history_events": 10, "history_bytes": 10**6, "durable": False}
    engine = SQLiteEngine(tmp_path / "events.db", run_sync=slowly, **bounds)
    outlet = FullOutlet()
    outlet.room.set()
    engine.attach(outlet)
    publisher = Publisher(engine, max_event_bytes=10, wait_seconds=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        async with trio.open_nursery() as publishers:
            for n in range(4):
                publishers.start_soon(publisher.publish, events(publisher))
                await trio.sleep(0.1 * n)
        assert engine.head.seq == len(outlet.received) == 4
        outlet.room = trio.Event()
        assert not engine.has_room
        began = trio.current_time()
        with pytest.raises(Overloaded):
            await publisher.publish(events(publisher))
        assert trio.current_time() - began < 0.1
        nursery.cancel_scope.cancel()
    engine.close()


async def test_one_event_with_a_fault_among_many_costs_few_publishes(
    publisher, engine, monkeypatch
):
    """Each may take a commit: what is at fault is found by halves."""
    publishes, real = [], engine.publish

    async def publish(events):
        publishes.append(len(events))
        return await real(events)

    monkeypatch.setattr(engine, "publish", publish)

    def events_with(digests):
        return [
            attrs.evolve(event, once=Once("ann", f"{i}", 0, digest))
            for i, (event, digest) in enumerate(zip(events(publisher, 256), digests, strict=True))
        ]

    await publisher.publish_each(events_with([b"1"] * 256)[100:101])
    outcomes = await publisher.publish_each(events_with([b"1"] * 100 + [b"2"] + [b"1"] * 155))
    assert [i for i, each in enumerate(outcomes) if isinstance(each, IdempotencyConflict)] == [100]
    assert engine.head.seq == 256
    assert len(publishes) <= 2 + 2 * 8
