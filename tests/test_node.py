"""A process's parts together."""

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from triocast.auth import EVERYTHING
from triocast.broadcaster import EventBroadcaster
from triocast.errors import (
    EndReason,
    InternalError,
    NodeClosed,
    NodeFailed,
    NodeNotStarted,
    Overloaded,
    ShuttingDown,
)
from triocast.node import NodeState, build_node, open_node
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


# A node that does not run, or not any more.


PARTS = ("engine", "hub", "signaling", "peerjs", "presence")


def with_all_parts():
    return build_node(Settings(namespaces=Namespaces({"room": Namespace(presence=True)})))


def replace_run(node, part, run):
    """Have a part run this instead; tests of each part show that it can fail at all."""
    patch = pytest.MonkeyPatch()
    patch.setattr(type(getattr(node, part)), "run", lambda self: run())
    return patch


async def run_to_its_failure(node):
    failed = False
    try:
        await node.run()
    except* (ZeroDivisionError, RuntimeError, KeyError):
        failed = True
    assert failed


async def fail():
    await trio.sleep(1)
    raise ZeroDivisionError("injected")


async def end():
    await trio.sleep(1)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("run", "why"), [(fail, "injected"), (end, "it ended by itself")])
async def test_a_part_that_fails_or_ends_is_a_failure_of_the_node(autojump_clock, part, run, why):
    node = with_all_parts()
    patch = replace_run(node, part, run)
    try:
        await run_to_its_failure(node)
    finally:
        patch.undo()
    assert node.state is NodeState.FAILED
    assert str(node.failure).startswith(f"the {part} failed (")
    assert why in str(node.failure)
    assert not node.ready
    with pytest.raises(NodeFailed) as refused:
        node.check_running()
    assert refused.value.temporary
    assert "injected" not in str(refused.value)  # That is for the log.
    with pytest.raises(ShuttingDown):
        await EventBroadcaster(node).broadcast_event("T")


async def test_clients_of_a_node_that_fails_are_told_and_nobody_comes_in(nursery, autojump_clock):
    node = with_all_parts()
    patch = replace_run(node, "hub", fail)
    heard = []

    async def listen():
        async with EventBroadcaster(node).subscribe() as events:
            with pytest.raises(InternalError):
                heard.append(await anext(events))

    try:
        nursery.start_soon(run_to_its_failure, node)
        connection = SSEConnection(
            node.connections, StreamOptions(), id="c", grant=EVERYTHING, address=None
        )
        client, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        nursery.start_soon(listen)
        failure = await node.wait_for_failure()
        assert isinstance(failure.__cause__, ZeroDivisionError)
        await wait_all_tasks_blocked()
    finally:
        patch.undo()
    assert node.connections.ended == {"server_error": 1}
    assert heard == []
    body = b"".join([bytes(data) async for data in client])
    assert body.rstrip().rpartition(b"\n\n")[2].startswith(b"retry: ")
    assert node.hub.subscribers() == ()
    with pytest.raises(ShuttingDown):
        node.connections.admit(connection)


async def test_the_first_failure_counts(autojump_clock):
    async def fail_at_the_end():
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("follows from it")

    node = with_all_parts()
    patches = [replace_run(node, "hub", fail), replace_run(node, "peerjs", fail_at_the_end)]
    try:
        await run_to_its_failure(node)
    finally:
        for patch in patches:
            patch.undo()
    assert str(node.failure) == "the hub failed (ZeroDivisionError: injected)"


async def test_a_node_says_whether_it_runs(nursery):
    node = build_node(Settings())
    assert node.state is NodeState.NOT_STARTED
    assert not node.ready
    with pytest.raises(NodeNotStarted):
        node.check_running()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            await inner.start(node.run)
            assert node.state is NodeState.RUNNING
            assert node.ready
            node.check_running()
            scope.cancel()
    assert node.state is NodeState.CLOSED
    assert not node.ready
    assert node.failure is None
    with pytest.raises(NodeClosed):
        node.check_running()
    with pytest.raises(RuntimeError, match="once"):
        await node.run()


async def test_nobody_is_left_with_a_node_that_has_ended(nursery):
    async with open_node(Settings()) as node:
        connection = SSEConnection(
            node.connections, StreamOptions(), id="c", grant=EVERYTHING, address=None
        )
        _client, server = memory_stream_pair()
        nursery.start_soon(connection.run, StreamLink(server))
        await wait_all_tasks_blocked()
    assert connection.reason is EndReason.SHUTDOWN


async def test_an_error_in_a_node_of_the_own_ends_its_block(autojump_clock):
    failed = False
    try:
        async with open_node(Settings()) as node:
            node.hub._take_batch = lambda: 1 / 0
            await EventBroadcaster(node).broadcast_event("T")
            await trio.sleep_forever()
    except* ZeroDivisionError:
        failed = True
    assert failed
