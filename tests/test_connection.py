"""A client's life: one reason for its end, whole frames in order, and nothing left behind."""

import gc
import socket
import time
import weakref

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from triocast.auth import Grant
from triocast.connections import Connections
from triocast.engines import MemoryEngine
from triocast.errors import EndReason
from triocast.events import Event, Position, Publication
from triocast.hub import Hub
from triocast.transports.links import SocketLink, StreamLink
from triocast.transports.sse import MOST_INBOUND_BYTES, SSEConnection, StreamOptions
from triocast.wire import sse

HEARTBEAT = 10.0
OUTBOX = 200_000
ALICE = Grant(user="alice", subscribe=("*",))


@pytest.fixture
async def hub(nursery):
    hub = Hub(inbox_bytes=10_000_000, head=Position("e", 0))
    nursery.start_soon(hub.run)
    return hub


@pytest.fixture
async def connections(hub):
    engine = MemoryEngine(epoch="e", history_events=10, history_bytes=100_000)
    return Connections(engine, hub, most=10, outbox_bytes=OUTBOX, heartbeat_seconds=HEARTBEAT)


@pytest.fixture
async def over():
    """Set when the connection of `start` has ended and is cleared away."""
    return trio.Event()


@pytest.fixture
async def start(nursery, connections, over):
    """Start a connection over a link; its reason is looked up in ``connections.ended``."""

    async def run(connection, link):
        await connection.run(link)
        over.set()

    def start(link, *, grant=ALICE, chunked=False, channels=("x",), kind=SSEConnection):
        connection = kind(
            connections, StreamOptions(channels=channels), id="c1", grant=grant, address=None
        )
        connection.use_framing(chunked=chunked)
        nursery.start_soon(run, connection, link)
        return connection

    return start


def publication(seq, data=b"null", channel="x"):
    event = Event("t", data, channel, "2026-01-01T00:00:00.000Z")
    return Publication(event, Position("e", seq), 0)


def publish(hub, count=1, *, size=2, channel="x"):
    """Publish events whose data is one JSON text of ``size`` bytes each."""
    for _ in range(count):
        seq = hub.accepted.seq + 1
        hub.put([publication(seq, b'"%s"' % (b"%d" % (seq % 10) * (size - 2)), channel)])


async def assert_nothing_is_left(hub, connections, reason):
    assert connections.ended == {reason: 1}
    assert connections.live == set()
    assert await hub.channels() == {}
    assert hub.subscribers() == ()


async def read_all(stream):
    return b"".join([bytes(data) async for data in stream])


# Each end has its one reason.


async def test_client_closed(hub, connections, start, autojump_clock):
    client, server = memory_stream_pair()
    connection = start(StreamLink(server))
    await wait_all_tasks_blocked()
    assert connections.live == {connection}
    assert await hub.channels() == {"$all": 1, "$user:alice": 1, "x": 1}
    await client.send_eof()
    await wait_all_tasks_blocked()
    await assert_nothing_is_left(hub, connections, "client_closed")


async def test_peer_lost_when_a_write_fails(hub, connections, start, autojump_clock):
    client, server = memory_stream_pair()
    start(StreamLink(server))
    await wait_all_tasks_blocked()
    client.receive_stream.close()
    publish(hub)
    await wait_all_tasks_blocked()
    await assert_nothing_is_left(hub, connections, "peer_lost")


async def test_slow_consumer_at_the_byte_bound(hub, connections, start, autojump_clock):
    _, server = lockstep_stream_pair()
    connection = start(StreamLink(server))
    await wait_all_tasks_blocked()
    publish(hub, 3, size=50_000)
    await wait_all_tasks_blocked()
    assert connection.reason is None
    assert 150_000 < connection.queued_bytes <= OUTBOX
    assert (await connections.counts())["queue_bytes"] == connection.queued_bytes
    publish(hub, 1, size=50_000)
    await trio.sleep(HEARTBEAT / 3)
    await assert_nothing_is_left(hub, connections, "slow_consumer")


async def test_slow_consumer_when_nothing_is_taken_for_a_heartbeat(
    hub, connections, start, autojump_clock
):
    _, server = lockstep_stream_pair()
    connection = start(StreamLink(server))
    await trio.sleep(HEARTBEAT * 0.9)
    assert connection.reason is None
    await trio.sleep(HEARTBEAT)
    await assert_nothing_is_left(hub, connections, "slow_consumer")


async def test_a_reader_that_takes_all_is_never_slow(
    hub, connections, start, nursery, autojump_clock
):
    client, server = lockstep_stream_pair()
    connection = start(StreamLink(server))
    nursery.start_soon(read_all, client)
    await wait_all_tasks_blocked()
    for _ in range(20):
        publish(hub, 3, size=50_000)
        await wait_all_tasks_blocked()
    await trio.sleep(HEARTBEAT * 10)
    assert connection.reason is None
    assert connection.queued_bytes == 0
    assert connection.events == 60


async def test_grant_ended_when_the_token_expires(hub, connections, start, autojump_clock):
    client, server = memory_stream_pair()
    connection = start(
        StreamLink(server), grant=Grant(user="a", subscribe=("*",), expires_at=time.time() + 300)
    )
    await trio.sleep(295)
    assert connection.reason is None
    await trio.sleep(10)
    await assert_nothing_is_left(hub, connections, "grant_ended")
    body = await read_all(client)
    assert body.count(b'"code":"unauthorized"') == 1


async def test_a_grant_that_has_ended_already_hears_nothing(
    hub, connections, start, autojump_clock
):
    client, server = memory_stream_pair()
    start(StreamLink(server), grant=Grant(subscribe=("*",), expires_at=time.time() - 1))
    await wait_all_tasks_blocked()
    publish(hub)
    await wait_all_tasks_blocked()
    await assert_nothing_is_left(hub, connections, "grant_ended")
    assert b'"type":"t"' not in await read_all(client)


class FullLink:
    """A client whose kernel buffer takes nothing more once it is full."""

    taken_over = True

    def __init__(self):
        self.is_full = False
        self.unsent = b""
        self.last = b""

    def write_now(self, data):
        if self.is_full:
            raise BlockingIOError
        return len(data)

    async def send(self, frames):
        self.unsent = b"".join(frames)
        await trio.sleep_forever()

    async def receive(self):
        await trio.sleep_forever()

    async def finish(self, farewell, *, abruptly=False):
        self.last = self.unsent + b"".join(farewell)

    def close(self):
        pass


# A connection's tasks end over a few turns of the loop, in none of which a writer may suffer.
@pytest.mark.parametrize("turns", range(6))
async def test_what_comes_in_the_moment_of_the_end_is_sent_with_the_farewell(
    hub, connections, start, autojump_clock, turns
):
    link = FullLink()
    grant = Grant(subscribe=("*",), expires_at=time.time() + 5)
    connection = start(link, grant=grant)
    await wait_all_tasks_blocked()
    link.is_full = True
    await trio.sleep_until(connection._scope.deadline)
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    is_there = connection.reason is None
    connection.push(b"late")
    await wait_all_tasks_blocked()
    assert connections.ended == {"grant_ended": 1}
    assert (b"late" in link.last) == is_there


async def test_policy_when_a_client_sends_where_it_should_only_read(
    hub, connections, start, autojump_clock
):
    client, server = memory_stream_pair()
    connection = start(StreamLink(server))
    await client.send_all(b"x" * MOST_INBOUND_BYTES)
    await wait_all_tasks_blocked()
    assert connection.reason is None
    await client.send_all(b"x")
    await wait_all_tasks_blocked()
    await assert_nothing_is_left(hub, connections, "policy")


async def test_shutdown_when_cancelled_from_outside_says_goodbye(
    hub, connections, start, nursery, autojump_clock
):
    client, server = memory_stream_pair()
    connection = SSEConnection(connections, StreamOptions(), id="c", grant=ALICE, address=None)
    connection.use_framing(chunked=True)
    async with trio.open_nursery() as its:
        its.start_soon(connection.run, StreamLink(server))
        await wait_all_tasks_blocked()
        its.cancel_scope.cancel()
    await assert_nothing_is_left(hub, connections, "shutdown")
    body = await read_all(client)
    assert body.endswith(b"\n\n\r\n"), "a client need not come back after the last chunk"
    assert body.count(b"retry: ") == 2


async def test_a_fault_of_ours_ends_that_connection_alone(
    hub, connections, start, nursery, autojump_clock, caplog
):
    class Faulty(StreamLink):
        async def receive(self):
            await trio.lowlevel.checkpoint()
            raise ZeroDivisionError

    start(Faulty(memory_stream_pair()[1]))
    await wait_all_tasks_blocked()
    await assert_nothing_is_left(hub, connections, "server_error")
    assert "ZeroDivisionError" in caplog.text


async def test_the_first_reason_counts(hub, connections, start, autojump_clock, caplog):
    caplog.set_level("INFO", "triocast.access")
    client, server = memory_stream_pair()
    connection = start(StreamLink(server))
    await wait_all_tasks_blocked()
    connection.end(EndReason.SHUTDOWN)
    connection.end(EndReason.POLICY)
    assert hub.subscribers() == ()  # in the same step
    await client.aclose()
    await wait_all_tasks_blocked()
    await assert_nothing_is_left(hub, connections, "shutdown")
    assert caplog.text.count("close id=c1") == 1
    assert "reason=shutdown" in caplog.text


async def test_a_farewell_that_nobody_takes_has_its_deadline(
    hub, connections, start, autojump_clock, over
):
    client, server = lockstep_stream_pair()
    connection = start(StreamLink(server))
    await wait_all_tasks_blocked()
    await client.receive_some(10_000)
    connection.end(EndReason.SHUTDOWN)
    began = trio.current_time()
    with trio.fail_after(60):
        await over.wait()
    assert trio.current_time() - began < 5


async def test_an_ended_connection_can_be_collected(hub, connections, start, autojump_clock):
    client, server = memory_stream_pair()
    gone = weakref.ref(start(StreamLink(server)))
    await wait_all_tasks_blocked()
    await client.aclose()
    await wait_all_tasks_blocked()
    del client, server
    gc.collect()
    assert gone() is None


# On a real socket, the hub writes itself.


@pytest.fixture
async def sockets():
    """A client's stream and the server's link, with little room in between."""
    theirs, ours = socket.socketpair()
    for end in (theirs, ours):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.setblocking(False)
    server = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    yield client, SocketLink(server, ours)  # the connection closes it
    client.socket.close()


def blocks_of(body):
    """Return the chunks of a body that breaks off behind one; fails where one is broken."""
    chunks = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        assert len(rest) >= length + 2, "the body ends within a chunk"
        assert rest[length : length + 2] == b"\r\n"
        chunks.append(rest[:length])
        body = rest[length + 2 :]
    assert b"" not in chunks, "the body has an end"
    return chunks


async def read_slowly(client, size=1_000):
    body = bytearray()
    while data := await client.receive_some(size):
        body += data
        await trio.lowlevel.checkpoint()
    return bytes(body)


def data_of(seq, size):
    return b'"data":"%s"' % (b"%d" % (seq % 10) * (size - 2))


async def test_every_frame_arrives_unbroken_through_partial_writes(
    hub, connections, start, sockets, nursery, over
):
    client, link = sockets
    connection = start(link, chunked=True)
    await wait_all_tasks_blocked()
    sizes = [2, 7_000, 100, 30_000, 3, 13_000, 600] * 3
    queued = []

    async def write():
        for size in sizes:
            publish(hub, size=size)
            for _ in range(5):  # turns for the hub and the reader, not enough to empty the queue
                await trio.lowlevel.checkpoint()
            queued.append(connection.queued_bytes)
        while connection.queued_bytes:  # noqa: ASYNC110, nobody tells
            await trio.lowlevel.checkpoint()
        connection.end(EndReason.SHUTDOWN)

    nursery.start_soon(write)
    with trio.fail_after(30):
        chunks = blocks_of(await read_slowly(client))
    assert 0 in queued, "it never wrote directly"
    assert max(queued) > 0, "the socket took everything"
    first, *events, farewell = chunks
    assert first.startswith(b": triocast c1\n")
    assert farewell.startswith(b"retry: ")
    assert len(events) == len(sizes)
    for seq, (size, event) in enumerate(zip(sizes, events, strict=True), 1):
        assert event.startswith(b"id: 0.e.%d\n" % seq)
        assert data_of(seq, size) in event
    await client.send_eof()
    with trio.fail_after(5):
        await over.wait()
    await assert_nothing_is_left(hub, connections, "shutdown")


async def test_direct_writes_come_back_after_the_queue_is_empty(hub, start, sockets, nursery):
    client, link = sockets
    connection = start(link)
    writes = []

    def record(data):
        writes.append(len(data))
        return write_now(data)

    write_now, link.write_now = link.write_now, record
    await wait_all_tasks_blocked()
    publish(hub, size=30_000)
    await wait_all_tasks_blocked()
    assert connection.queued_bytes > 0
    with trio.fail_after(30):
        body = b""
        while not body.endswith(b"}\n\n"):
            body += await client.receive_some(4096)
    await wait_all_tasks_blocked()
    assert connection.queued_bytes == 0
    writes.clear()
    publish(hub)
    await trio.lowlevel.checkpoint()  # the hub's turn
    await trio.lowlevel.checkpoint()
    with trio.fail_after(5):
        assert b"id: 0.e.2\n" in await client.receive_some(4096)
    assert len(writes) == 1


@pytest.mark.parametrize("size", [9_000, 60_000])
async def test_a_slow_consumer_gets_its_broken_frame_whole_before_the_farewell(
    hub, connections, start, sockets, size
):
    client, link = sockets
    connection = start(link, chunked=True)
    await wait_all_tasks_blocked()
    while connection.reason is None:
        publish(hub, size=size)
        await wait_all_tasks_blocked()
        assert hub.accepted.seq < 100
    assert connection.reason is EndReason.SLOW_CONSUMER
    with trio.fail_after(30):
        chunks = blocks_of(await read_slowly(client))
    assert chunks[-1].startswith(b"retry: ")
    seqs = [int(chunk.split(b"\n")[0].rpartition(b".")[2]) for chunk in chunks[1:-1]]
    assert seqs == list(range(1, len(seqs) + 1))  # a beginning, without holes


async def test_a_frame_broken_by_the_bound_itself_is_finished_before_the_farewell(
    connections, start, sockets
):
    """The rest of a frame can stand in the outbox before the send task had its first turn."""
    client, link = sockets
    frames = [sse.chunk(letter * (OUTBOX + 1)) for letter in (b"a", b"b")]

    class Flooded(SSEConnection):
        def _opened(self):
            super()._opened()
            self.deliver(b"".join(frames), frames, [publication(1), publication(2)])

    connection = start(link, chunked=True, kind=Flooded)
    with trio.fail_after(30):
        chunks = blocks_of(await read_slowly(client, 10_000))
    assert connection.reason is EndReason.SLOW_CONSUMER
    assert chunks[1] == b"a" * (OUTBOX + 1)
    assert [chunk[:7] for chunk in chunks[2:]] == [b"retry: "]


async def test_a_slow_consumer_that_reads_nothing_gets_no_farewell_in_the_middle_of_a_frame(
    hub, connections, start, sockets, autojump_clock
):
    client, link = sockets
    connection = start(link, chunked=True)
    await wait_all_tasks_blocked()
    while connection.reason is None:
        publish(hub, size=60_000)
        await wait_all_tasks_blocked()
    await trio.sleep(HEARTBEAT / 2)  # the farewell's time is over
    await assert_nothing_is_left(hub, connections, "slow_consumer")
    body = await read_slowly(client)
    assert b"retry: " not in body[body.index(b"id: 0.e.1") :]


async def test_nothing_is_written_after_the_end(hub, connections, start, sockets):
    client, link = sockets
    connection = start(link, chunked=True)
    await wait_all_tasks_blocked()
    publish(hub)
    connection.end(EndReason.SHUTDOWN)  # before the hub's turn
    connection.deliver(b"LATE", [b"LATE"], [publication(2)])
    connection.push(b"LATE")
    publish(hub)
    with trio.fail_after(5):
        chunks = blocks_of(await read_slowly(client))
    assert len(chunks) == 2
    assert chunks[1].startswith(b"retry: ")


async def test_peer_lost_when_the_client_resets(hub, connections, start, sockets, over):
    client, link = sockets
    start(link)
    await wait_all_tasks_blocked()
    client.socket.close()
    publish(hub)  # the hub's own write finds out
    with trio.fail_after(5):
        await over.wait()
    assert sum(connections.ended.values()) == 1
    assert set(connections.ended) <= {"peer_lost", "client_closed"}
    assert hub.subscribers() == ()


async def test_a_link_that_fails_in_its_farewell_leaves_nothing_either(
    hub, connections, start, nursery, autojump_clock, caplog
):
    """An ASGI server's ``send`` may raise whatever it likes."""

    class Faulty(StreamLink):
        async def finish(self, farewell, *, abruptly=False):
            await trio.lowlevel.checkpoint()
            raise ZeroDivisionError

    connection = SSEConnection(connections, StreamOptions(), id="c", grant=ALICE, address=None)
    async with trio.open_nursery() as its:
        its.start_soon(connection.run, Faulty(memory_stream_pair()[1]))
        await wait_all_tasks_blocked()
        connection.end(EndReason.SHUTDOWN)
    await assert_nothing_is_left(hub, connections, "shutdown")


async def test_the_head_goes_out_with_the_first_frame(hub, connections, start, autojump_clock):
    _client, server = memory_stream_pair()
    writes = []
    send_all = server.send_all

    async def noting(data):
        writes.append(bytes(data))
        await send_all(data)

    server.send_all = noting
    connection = start(StreamLink(server))
    connection.preface = b"HTTP/1.1 200 OK\r\n\r\n"
    await wait_all_tasks_blocked()
    assert len(writes) == 1
    assert writes[0].startswith(b"HTTP/1.1 200 OK\r\n\r\n:")
    publish(hub)
    await wait_all_tasks_blocked()
    assert len(writes) == 2
    assert b"HTTP/1.1" not in writes[1]


async def test_who_is_not_let_in_gets_no_farewell_without_a_head(
    hub, connections, start, autojump_clock
):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connections.draining = True
    with theirs:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        connection = start(SocketLink(stream, ours))
        connection.preface = b"HTTP/1.1 200 OK\r\n\r\n"
        await wait_all_tasks_blocked()
        assert theirs.recv(100) == b""
    assert connections.ended == {"shutdown": 1}


async def test_a_client_that_takes_everything_at_once_needs_no_task_for_sending(
    hub, connections, start, autojump_clock
):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    with theirs:
        before = trio.lowlevel.current_statistics().tasks_living
        connection = start(SocketLink(stream, ours))
        await wait_all_tasks_blocked()
        publish(hub, 3)
        await wait_all_tasks_blocked()
        assert connection.events == 3
        # the connection's own, and its heartbeat
        assert trio.lowlevel.current_statistics().tasks_living == before + 2
        while not connection.queued_bytes and connection.events < 200:
            publish(hub, 1, size=OUTBOX // 2)
            await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before + 3
        connection.end(EndReason.POLICY)
