"""Admission, counts and the drain."""

import gc

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from triocast.auth import Grant
from triocast.connections import Connections
from triocast.engines import MemoryEngine
from triocast.errors import EndReason, ShuttingDown, TooManyConnections
from triocast.events import Position
from triocast.hub import Hub
from triocast.transports.links import StreamLink
from triocast.transports.sse import SSEConnection, StreamOptions


@pytest.fixture
async def connections():
    hub = Hub(inbox_bytes=1_000, head=Position("e", 0))
    engine = MemoryEngine(epoch="e", history_events=10, history_bytes=100_000)
    return Connections(engine, hub, most=3, outbox_bytes=100_000, heartbeat_seconds=1_000)


def new(connections, id="c"):
    return SSEConnection(connections, StreamOptions(), id=id, grant=Grant(), address=None)


async def crowd(connections, nursery, count, pair=memory_stream_pair):
    connections.most = count
    clients = []
    for n in range(count):
        client, server = pair()
        connection = new(connections, f"c{n}")
        connections.admit(connection)
        nursery.start_soon(connection.run, StreamLink(server))
        clients.append((connection, client))
    await wait_all_tasks_blocked()
    return clients


async def read_all(stream):
    return b"".join([bytes(data) async for data in stream])


async def test_no_more_than_the_limit_are_admitted(connections):
    coming = [new(connections, f"c{n}") for n in range(3)]
    for connection in coming:
        connections.admit(connection)
    with pytest.raises(TooManyConnections) as caught:
        connections.admit(new(connections))
    assert caught.value.temporary
    del connection, coming[0]  # a handshake that failed
    gc.collect()
    connections.admit(another := new(connections))
    with pytest.raises(TooManyConnections):
        connections.admit(new(connections))
    assert another.reason is None


async def test_a_place_is_kept_from_the_handshake_to_the_end(connections, nursery, autojump_clock):
    clients = await crowd(connections, nursery, 3)
    assert len(connections.live) == 3
    with pytest.raises(TooManyConnections):
        connections.admit(new(connections))
    await clients[0][1].send_eof()
    await wait_all_tasks_blocked()
    connections.admit(coming := new(connections))
    with pytest.raises(TooManyConnections):
        connections.admit(new(connections))
    assert coming.reason is None


async def test_counts(connections, nursery):
    await crowd(connections, nursery, 3)
    assert await connections.counts() == {
        "websocket_count": 0,
        "sse_count": 3,
        "signaling_count": 0,
        "peerjs_count": 0,
        "poll_count": 0,
        "taken_over": 3,
        "portable": 0,
        "queue_bytes": 0,
    }


async def test_drain_sends_all_away_within_its_time_each_with_its_own_time_to_return(
    connections, nursery, autojump_clock
):
    clients = await crowd(connections, nursery, 50)
    began = trio.current_time()
    await connections.drain(10)
    assert trio.current_time() - began < 10
    assert connections.live == set()
    assert connections.ended == {"shutdown": 50}
    assert connections.hub.subscribers() == ()
    times = [connection.retry_ms for connection, _ in clients]
    assert len(set(times)) > 45
    assert min(times) >= 1_000
    assert max(times) <= 13_000
    assert max(times) - min(times) > 5_000
    for connection, client in clients:
        farewell = (await read_all(client)).removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        assert farewell.startswith(b"retry: %d\n" % connection.retry_ms)


async def test_drain_spreads_the_ends(connections, nursery, autojump_clock):
    await crowd(connections, nursery, 100)
    nursery.start_soon(connections.drain, 10)
    await trio.sleep(0.2)
    assert 30 < len(connections.live) < 70
    await trio.sleep(0.4)
    assert connections.live == set()


async def test_drain_does_not_wait_for_clients_that_do_not_read(
    connections, nursery, autojump_clock
):
    for _, client in await crowd(connections, nursery, 10, pair=lockstep_stream_pair):
        await client.receive_some(1_000)  # the first block, and nothing after it
    with trio.fail_after(3.5):
        await connections.drain(10)
    assert connections.live == set()


async def test_drain_gives_up_after_its_time(connections, nursery, autojump_clock):
    for _, client in await crowd(connections, nursery, 10, pair=lockstep_stream_pair):
        await client.receive_some(1_000)  # the first block, and nothing after it
    began = trio.current_time()
    await connections.drain(1)
    assert trio.current_time() - began == pytest.approx(1, abs=0.01)


async def test_a_drain_of_nobody_is_over_at_once(connections, autojump_clock):
    began = trio.current_time()
    await connections.drain(10)
    assert trio.current_time() == began


async def test_newcomers_are_refused_during_the_drain(connections, nursery, autojump_clock):
    late = new(connections, "late")
    connections.admit(late)
    await connections.drain(1)
    with pytest.raises(ShuttingDown) as caught:
        connections.admit(new(connections))
    assert caught.value.temporary
    client, server = memory_stream_pair()
    await late.run(StreamLink(server))  # its handshake had begun before
    assert connections.ended == {"shutdown": 1}
    assert connections.live == set()
    body = await read_all(client)
    assert body.startswith(b"retry: ")
    assert b"triocast late" not in body


async def test_all_are_ended_at_once_and_nobody_comes_in_any_more(
    connections, nursery, autojump_clock
):
    clients = await crowd(connections, nursery, 5)
    connections.end_all(EndReason.SERVER_ERROR)
    await wait_all_tasks_blocked()
    assert connections.ended == {"server_error": 5}
    times = {connection.retry_ms for connection, _ in clients}
    assert len(times) > 2
    with pytest.raises(ShuttingDown):
        connections.admit(new(connections))


async def test_refusals_are_counted_and_logged(connections, caplog):
    caplog.set_level("INFO", "triocast.access")
    for _ in range(2):
        connections.note_refusal(TooManyConnections("full"), "192.0.2.1")
    assert connections.refused == {"too_many_connections": 2}
    assert caplog.messages == ["refuse code=too_many_connections address=192.0.2.1"] * 2


async def test_numbers_of_many_connections_are_counted_in_steps(connections, nursery, work):
    class Counted:
        transport, taken_over, queued_bytes = "sse", True, 3

        def __getattribute__(self, name: str) -> object:
            work.did()
            return super().__getattribute__(name)

    connections.live = {Counted() for _ in range(2_000)}
    await trio.lowlevel.checkpoint()
    work.longest = 0
    numbers = await connections.counts()
    assert (numbers["sse_count"], numbers["queue_bytes"]) == (2_000, 6_000)
    assert 0 < work.longest <= work.PER_TURN + 3
