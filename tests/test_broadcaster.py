"""Events for code in the server's own process."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.broadcaster import EventBroadcaster
from triocast.errors import InvalidChannel, InvalidEvent, ReservedType, SlowConsumer, TooLarge
from triocast.events import EventType
from triocast.node import open_node
from triocast.settings import Settings


@pytest.fixture
async def node():
    async with open_node(Settings(outbox_bytes=10_000, max_event_bytes=5_000)) as node:
        await wait_all_tasks_blocked()
        yield node


@pytest.fixture
async def broadcaster(node):
    return EventBroadcaster(node)


async def read_into(events, read):
    async for event in events:
        read.append(int(event.data))


async def take(events, count):
    with trio.fail_after(5):
        taken = []
        for _ in range(count):
            taken.append(await anext(events))
        return taken


@pytest.mark.parametrize("type", [EventType.HEARTBEAT, EventType.ERROR, "gap", "connected"])
async def test_messages_of_the_server_cannot_be_imitated(node, broadcaster, type):
    with pytest.raises(ReservedType):
        await broadcaster.broadcast_event(type)
    assert node.engine.head.seq == 0


async def test_events_come_in_order_with_all_their_fields(broadcaster):
    async with broadcaster.subscribe(["catalog", "news:*"]) as events:
        first = await broadcaster.broadcast_event(
            EventType.APPLICATION_ADDED, {"name": "app"}, channel="default:catalog", key="app"
        )
        await broadcaster.broadcast_event("OTHER", channel="elsewhere")
        await broadcaster.broadcast_event("NEWS", [1], channel="news:a", tags=["red"])
        await broadcaster.broadcast_event(EventType.CONFIG_CHANGED)
        one, two, three = await take(events, 3)
    assert one == first.event
    assert (one.type, one.data, one.channel, one.key) == (
        "APPLICATION_ADDED",
        b'{"name":"app"}',
        "catalog",
        "app",
    )
    assert (two.type, two.data, two.channel, two.tags) == ("NEWS", b"[1]", "news:a", ("red",))
    assert (three.type, three.data, three.channel) == ("CONFIG_CHANGED", b"null", "$all")


@pytest.mark.parametrize(
    ("type", "data", "key"),
    [
        (
            EventType.APPLICATION_UPDATED,
            {"name": "app", "namespace": "prod", "url": "x"},
            "prod/app",
        ),
        (EventType.APPLICATION_REMOVED, {"name": "app"}, "default/app"),
        ("BOOKMARK_ADDED", {"name": "b", "namespace": "team"}, "team/b"),
        (EventType.STATUS_CHANGED, {"name": "app", "status": "down"}, "default/app"),
        (EventType.APPLICATION_ADDED, {"name": 5}, None),
        (EventType.APPLICATION_ADDED, {"name": "a" * 300}, None),
        (EventType.APPLICATION_ADDED, {"name": "a\n"}, None),
        (EventType.APPLICATION_ADDED, ["app"], None),
        (EventType.CONFIG_CHANGED, {"name": "app"}, None),
        (EventType.FLAG_UPDATED, {"name": "flag"}, None),
        ("OTHER", {"name": "app"}, None),
    ],
)
async def test_an_event_about_an_entry_of_the_catalog_has_its_key(broadcaster, type, data, key):
    accepted = await broadcaster.broadcast_event(type, data)
    assert accepted.event.key == key
    accepted = await broadcaster.broadcast_event(type, data, key="mine")
    assert accepted.event.key == "mine"


async def test_filters_hold_for_channels_and_for_what_is_for_all(broadcaster):
    async with broadcaster.subscribe(["c"], types=["A"], tags=["red", "blue"]) as events:
        for n, (type, tags, channel) in enumerate(
            [
                ("A", ["red"], "c"),
                ("A", [], "c"),
                ("B", ["red"], "c"),
                ("A", ["blue", "green"], None),
                ("B", [], None),
                ("A", ["red"], "d"),
                ("A", ["red"], "c"),
            ]
        ):
            await broadcaster.broadcast_event(type, n, channel=channel, tags=tags)
        assert [event.data for event in await take(events, 3)] == [b"0", b"3", b"6"]


async def test_a_slow_reader_is_told_after_what_was_taken(broadcaster, node):
    async with broadcaster.subscribe() as events:
        for n in range(100):
            await broadcaster.broadcast_event("T", n)
        await wait_all_tasks_blocked()
        read = []
        with trio.fail_after(5), pytest.raises(SlowConsumer) as caught:
            await read_into(events, read)
        assert read == list(range(len(read)))
        assert 10 <= len(read) <= 100
        assert caught.value.temporary
    assert node.hub.subscribers() == ()


async def test_a_reader_that_keeps_up_is_never_slow(broadcaster):
    async with broadcaster.subscribe() as events:
        for n in range(200):
            await broadcaster.broadcast_event("T", n)
            (event,) = await take(events, 1)
            assert event.data == b"%d" % n


async def test_a_slow_reader_costs_only_itself(broadcaster):
    async with broadcaster.subscribe(), broadcaster.subscribe() as events:
        for n in range(100):
            await broadcaster.broadcast_event("T", n)
            await take(events, 1)


async def test_nothing_is_left_behind_after_the_block(broadcaster, node):
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with broadcaster.subscribe(["a", "n:*"], types=["T"]):
            assert await node.hub.channels() == {"$all": 1, "a": 1, "n:*": 1}
            raise ZeroDivisionError
    assert await node.hub.channels() == {}
    assert node.hub.subscribers() == ()


async def test_leaving_while_events_wait_harms_nobody(broadcaster, node):
    async with broadcaster.subscribe() as events:
        async with broadcaster.subscribe():
            await broadcaster.broadcast_event("T", 1)
        (event,) = await take(events, 1)
    assert event.data == b"1"


async def test_what_cannot_be_published_is_refused_and_changes_nothing(broadcaster, node):
    for error, arguments in (
        (InvalidEvent, {"type": "T", "data": {1, object()}}),
        (InvalidEvent, {"type": "line\nbreak"}),
        (InvalidEvent, {"type": "T", "tags": [""]}),
        (InvalidChannel, {"type": "T", "channel": "$all"}),
        (InvalidChannel, {"type": "T", "channel": "no spaces"}),
        (TooLarge, {"type": "T", "data": "x" * 5_000}),
    ):
        with pytest.raises(error):
            await broadcaster.broadcast_event(**arguments)
    assert node.engine.head.seq == 0
    for error, arguments in (
        (InvalidChannel, {"channels": ["a", "$all"]}),
        (InvalidEvent, {"types": [""]}),
        (InvalidEvent, {"tags": ["\n"]}),
    ):
        with pytest.raises(error):
            async with broadcaster.subscribe(**arguments):
                pass
    assert node.hub.subscribers() == ()
