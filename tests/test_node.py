"""A process's parts together."""

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from triocast.auth import EVERYTHING
from triocast.broadcaster import EventBroadcaster
from triocast.errors import Overloaded, ShuttingDown
from triocast.node import build_node, open_node
from triocast.settings import Namespace, Namespaces, Settings
from triocast.transports.links import StreamLink
from triocast.transports.sse import SSEConnection, StreamOptions


async def test_an_event_published_at_once_is_heard():
    """A node is whole when its block begins: nothing published in it goes by its subscribers."""
    async with open_node(Settings()) as node:
        broadcaster = EventBroadcaster(node)
        async with broadcaster.subscribe() as events:
            publication = await broadcaster.broadcast_event("T")
            assert node.hub.accepted == publication.position
            with trio.fail_after(5):
                assert (await anext(events)).type == "T"


async def test_settings_reach_the_parts(autojump_clock):
    node = build_node(
        Settings(
            max_connections=7,
            outbox_bytes=80_000,
            heartbeat_seconds=9,
            inbox_bytes=100,
            max_event_bytes=50,
            publish_wait_seconds=3,
        )
    )
    connections = node.connections
    assert (connections.most, connections.outbox_bytes) == (7, 80_000)
    assert connections.heartbeat_seconds == 9
    broadcaster = EventBroadcaster(node)
    node.engine.attach(node.hub)  # and nobody empties its inbox
    await broadcaster.broadcast_event("T")
    began = trio.current_time()
    with pytest.raises(Overloaded) as caught:
        await broadcaster.broadcast_event("T")
    assert trio.current_time() - began == pytest.approx(3)
    assert caught.value.temporary
    assert node.engine.head.seq == 1


@pytest.mark.parametrize(
    ("namespaces", "compresses"),
    [
        ({}, False),
        ({"chat": Namespace()}, False),
        ({"chat": Namespace(compress=True)}, True),
        ({"chat": Namespace(), "$all": Namespace(compress=True)}, True),
    ],
)
async def test_compression_is_offered_once_a_namespace_asks_for_it(namespaces, compresses):
    node = build_node(Settings(namespaces=Namespaces(namespaces)))
    assert (node.deflate is not None) == compresses
    if node.deflate is not None:
        assert node.deflate.negotiate(["permessage-deflate"])
        assert node.deflate.negotiate(["permessage-bzip2"]) is None


async def test_two_nodes_have_epochs_of_their_own():
    one, two = build_node(Settings()), build_node(Settings())
    assert one.engine.head.epoch != two.engine.head.epoch
    assert one.hub.accepted == one.engine.head


async def test_after_the_block_the_engine_is_let_go():
    async with open_node(Settings()) as node:
        await wait_all_tasks_blocked()
    published = node.hub.stats.published
    await EventBroadcaster(node).broadcast_event("T")
    assert node.hub.stats.published == published


async def test_drain_sends_clients_away_and_closes_for_publishers(nursery, autojump_clock):
    async with open_node(Settings()) as node:
        connection = SSEConnection(
            node.connections, StreamOptions(), id="c", grant=EVERYTHING, address=None
        )
        node.connections.admit(connection)
        _client, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        await wait_all_tasks_blocked()
        assert node.ready
        nursery.start_soon(node.drain, 5)
        await wait_all_tasks_blocked()
        assert not node.ready
        await trio.sleep(5)
        assert node.connections.ended == {"shutdown": 1}
        with pytest.raises(ShuttingDown):
            await EventBroadcaster(node).broadcast_event("T")


async def test_a_drain_without_any_time_ends_at_once():
    async with open_node(Settings()) as node:
        await node.drain(0)
        assert not node.ready
        with pytest.raises(ShuttingDown):
            await EventBroadcaster(node).broadcast_event("T")
