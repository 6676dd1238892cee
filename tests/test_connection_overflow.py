"""A client that reads too slowly, by the policy of the namespace: what it gets, and what it may
come back with."""

import json
import socket

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from triocast.auth import Grant
from triocast.connections import Connections
from triocast.engines import MemoryEngine
from triocast.errors import EndReason
from triocast.events import Event, Position, Publication
from triocast.hub import Hub
from triocast.outbox import Entry, Loss
from triocast.publisher import Publisher
from triocast.settings import Namespace, Namespaces
from triocast.transports.links import SocketLink, StreamLink
from triocast.transports.native import NativeConnection
from triocast.transports.sse import SSEConnection, StreamOptions
from triocast.transports.websocket import ASGIWebSocketLink
from triocast.wire.start import After

HEARTBEAT = 100.0
OUTBOX = 40_000
SIZE = 1_000
ALICE = Grant(user="alice", subscribe=("*",))
NAMESPACES = Namespaces({"l": Namespace(overflow="latest"), "d": Namespace(overflow="drop")})


@pytest.fixture
async def engine():
    return MemoryEngine(epoch="e", history_events=1_000, history_bytes=10_000_000)


@pytest.fixture
async def hub(engine, nursery):
    hub = Hub(inbox_bytes=10_000_000, head=engine.head)
    engine.attach(hub)
    nursery.start_soon(hub.run)
    return hub


@pytest.fixture
async def connections(engine, hub):
    return Connections(
        engine,
        hub,
        most=10,
        outbox_bytes=OUTBOX,
        heartbeat_seconds=HEARTBEAT,
        namespaces=NAMESPACES,
    )


class SlowStream:
    """A client's end that takes nothing until it is told to."""

    def __init__(self):
        self.client, self.server = memory_stream_pair()
        self.reads = trio.Event()
        self.reads.set()
        self._pump = self.server.send_stream.send_all_hook
        self.server.send_stream.send_all_hook = self._wait

    async def _wait(self):
        await self.reads.wait()
        await self._pump()

    def stop(self):
        self.reads = trio.Event()

    async def go(self):
        self.reads.set()
        await wait_all_tasks_blocked()

    async def take(self):
        """Read all that has come; return (type, seq of the id, data) of what has an id."""
        with trio.fail_after(5):
            return told(bytes(await self.client.receive_some(10_000_000)))


def told(body):
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "id" in fields:
            seq = int(fields["id"].rpartition(".")[2])
            event = json.loads(fields.get("data", "null"))
            assert event is None or event["id"] == fields["id"]
            kind = event and event["type"]
            found.append((kind, seq, event and event["data"]))
    return found


@pytest.fixture
async def slow(connections, nursery):
    """A stream that has had its first block, and has stopped to read."""
    slow = SlowStream()
    slow.connection = SSEConnection(
        connections, StreamOptions(channels=("*",)), id="c", grant=ALICE, address=None
    )
    nursery.start_soon(slow.connection.run, StreamLink(slow.server))
    await wait_all_tasks_blocked()
    await slow.take()
    slow.stop()
    return slow


@pytest.fixture
async def publish(engine):
    async def publish(channel, count=1, *, key=None, size=SIZE):
        for _ in range(count):
            data = b'"%s"' % (b"x" * size)
            (last,) = await engine.publish(
                [Event("t", data, channel, "2026-01-01T00:00:00.000Z", key=key)]
            )
            await wait_all_tasks_blocked()
        return last.seq

    return publish


def gap(channels, start, end):
    data = {"reason": "overflow", "channels": channels, "from": f"0.e.{start}", "to": f"0.e.{end}"}
    return ("gap", end, data)


def seqs(items):
    return [seq for _, seq, _ in items]


async def test_disconnect_ends_it_at_the_bound(connections, slow, publish):
    await publish("x", 50)
    assert slow.connection.reason is EndReason.SLOW_CONSUMER
    assert connections.overflow.acts == {"disconnected": 1, "merged": 0, "dropped": 0}


async def test_latest_gives_the_last_state(connections, slow, publish):
    await publish("l:a", key="first")
    for _ in range(100):
        await publish("l:a", key="a")
        last = await publish("l:a", key="b")
    assert slow.connection.reason is None
    assert slow.connection.queued_bytes <= OUTBOX
    await slow.go()
    items = await slow.take()
    assert seqs(items) == sorted(seqs(items))
    assert seqs(items)[-2:] == [last - 1, last]
    merged = connections.overflow.acts["merged"]
    assert len(items) == slow.connection.events == last - merged
    assert merged > 100


async def test_latest_ends_it_where_that_is_not_enough(connections, slow, publish):
    await publish("l:a", 50)
    assert slow.connection.reason is EndReason.SLOW_CONSUMER
    assert connections.overflow.acts["disconnected"] == 1


async def test_drop_tells_of_a_gap_and_goes_on(connections, slow, publish, autojump_clock):
    last = await publish("d:a", 100)
    assert slow.connection.reason is None
    await slow.go()
    items = await slow.take()
    first_lost = len(items)
    dropped = connections.overflow.acts["dropped"]
    assert dropped == last - first_lost + 1 > 50
    assert seqs(items[:-1]) == list(range(1, first_lost))
    assert items[-1] == gap(["d:a"], first_lost - 1, last)
    assert slow.connection.events == first_lost - 1
    live = await publish("d:a")
    await trio.sleep(HEARTBEAT)
    live, heartbeat = await slow.take()
    assert (live[1], heartbeat[:2]) == (last + 1, (None, last + 1))


async def test_no_position_is_ahead_of_what_was_given_or_told(slow, publish, engine):
    """What comes for another channel meanwhile does not hide that something was lost."""
    await publish("d:a", 60)
    other = await publish("x", size=10)
    await publish("d:b", 10)
    last = await publish("x", size=10)
    await slow.go()
    items = await slow.take()
    at = [place for place, item in enumerate(items) if item[0] == "gap"]
    assert [items[place][2]["channels"] for place in at] == [["d:a"], ["d:b"]]
    assert seqs(items) == sorted(set(seqs(items)))
    assert seqs(items[at[0] + 1 : at[1]]) == [other]
    assert items[at[0]] == gap(["d:a"], seqs(items)[at[0] - 1], other - 1)
    assert items[at[1]] == gap(["d:b"], other, last - 1)
    assert seqs(items)[-1] == last


async def test_whoever_breaks_before_it_is_told_resumes_what_was_dropped(
    slow, publish, connections, nursery, autojump_clock
):
    """Nothing reaches it while it does not read, heartbeats neither."""
    last = await publish("d:a", 100)
    await trio.sleep(HEARTBEAT * 0.9)
    assert slow.connection.reason is None
    slow.connection.end(EndReason.PEER_LOST)
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + 1
        assert await slow.client.receive_some(1) == b""
    again = SlowStream()
    options = StreamOptions(channels=("*",), start=After(Position("e", 0)))
    connection = SSEConnection(connections, options, id="c2", grant=ALICE, address=None)
    nursery.start_soon(connection.run, StreamLink(again.server))
    await wait_all_tasks_blocked()
    _, *events, _ = await again.take()
    assert seqs(events) == list(range(1, last + 1))


async def test_whoever_is_sent_away_is_told_first(slow):
    await slow.go()
    event = Event("t", b'"%s"' % (b"x" * SIZE), "d:a", "2026-01-01T00:00:00.000Z")
    for seq in range(1, 101):  # before the send task has its turn
        publication = Publication(event, Position("e", seq), 0)
        frame = slow.connection.encoder.encode(publication)
        slow.connection.deliver(frame, [frame], [publication])
    slow.connection.end(EndReason.SHUTDOWN)
    with trio.fail_after(5):
        items = told(b"".join([bytes(data) async for data in slow.client]))
    assert items[-1][:2] == ("gap", 100)


async def test_a_client_that_never_reads_ends_by_its_patience(slow, publish, autojump_clock):
    began = trio.current_time()
    while slow.connection.reason is None:
        assert slow.connection.queued_bytes < OUTBOX + 5_000
        await publish("d:a", 10)
        await trio.sleep(1)
    assert slow.connection.reason is EndReason.SLOW_CONSUMER
    assert trio.current_time() - began == pytest.approx(HEARTBEAT, abs=5)


async def test_a_loss_of_too_many_channels_ends_it(connections, slow, publish):
    await publish("d:a", 50)
    for number in range(200):
        await publish(f"d:{number}")
    assert slow.connection.reason is EndReason.SLOW_CONSUMER
    assert connections.overflow.acts["disconnected"] == 1


async def test_the_state_of_a_namespace_and_the_alarms_of_another(connections, slow, publish):
    """Each event has its own namespace's policy, in one outbox."""
    for _ in range(30):
        await publish("l:a", key="k")
        await publish("d:a")
    alarm = await publish("x")
    state = await publish("l:a", key="k")
    await slow.go()
    items = await slow.take()
    assert connections.overflow.acts["disconnected"] == 0
    assert connections.overflow.acts["merged"] > 0
    assert {alarm, state} <= set(seqs(items))
    assert seqs(items) == sorted(set(seqs(items)))


class TestWebSocket:
    def websocket(self, connections, engine, **options):
        return NativeConnection(
            connections,
            Publisher(engine, max_event_bytes=10_000, wait_seconds=1),
            id="w",
            grant=ALICE,
            address=None,
            most_channels=10,
            max_message_bytes=10_000,
            max_json_depth=10,
            channels=("*",),
            **options,
        )

    async def test_over_asgi_it_is_told_as_well(self, connections, engine, nursery, publish):
        sent, reads = [], trio.Event()

        async def send(message):
            await reads.wait()
            sent.append(json.loads(message["text"]))

        connection = self.websocket(connections, engine)
        nursery.start_soon(connection.run, ASGIWebSocketLink(trio.sleep_forever, send))
        await wait_all_tasks_blocked()
        last = await publish("d:a", 100)
        reads.set()
        await wait_all_tasks_blocked()
        assert sent[-1]["type"] == "gap"
        assert sent[-1]["data"]["to"] == sent[-1]["id"] == f"0.e.{last}"
        await publish("d:a")
        assert sent[-1]["id"] == f"0.e.{last + 1}"


async def test_a_frame_that_is_begun_is_finished(connections, hub, nursery, publish):
    """Over a socket, where the hub's own write was cut short."""
    connections.outbox_bytes = 200_000
    theirs, ours = socket.socketpair()
    for end in (theirs, ours):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    connection = SSEConnection(
        connections, StreamOptions(channels=("*",)), id="c", grant=ALICE, address=None
    )
    nursery.start_soon(connection.run, SocketLink(stream, ours))
    async with client:
        await wait_all_tasks_blocked()
        for _ in range(100):
            await publish("l:a", key="k", size=7_000)
            last = await publish("d:a", size=7_000)
        assert connection.reason is None
        body = b""
        with trio.fail_after(10):
            while b"id: 0.e.%d\n" % last not in body:
                body += await client.receive_some(10_000)
            while not body.endswith(b"\n\n"):
                body += await client.receive_some(10_000)
        items = told(body)
    assert seqs(items) == sorted(set(seqs(items)))
    assert {kind for kind, _, _ in items} == {"connected", "t", "gap"}
    assert all(data == "x" * 7_000 for kind, _, data in items if kind == "t")


class TestHeld:
    """While a backlog is read, the policies act on what is held."""

    @pytest.fixture
    async def held(self, engine, hub, connections, nursery, publish, monkeypatch):
        gate, history = trio.Event(), engine.history

        async def wait_and_read(*names, **bounds):
            await gate.wait()
            return await history(*names, **bounds)

        monkeypatch.setattr(engine, "history", wait_and_read)
        await publish("x", 3)
        stream = SlowStream()
        options = StreamOptions(channels=("*",), start=After(Position("e", 1)))
        stream.connection = SSEConnection(connections, options, id="c", grant=ALICE, address=None)
        stream.gate = gate
        nursery.start_soon(stream.connection.run, StreamLink(stream.server))
        await wait_all_tasks_blocked()
        return stream

    async def test_latest(self, held, publish, connections):
        for _ in range(100):
            last = await publish("l:a", key="k")
        held.gate.set()
        await wait_all_tasks_blocked()
        items = await held.take()
        assert seqs(items)[:3] == [1, 2, 3]
        assert (items[-2][1], items[-1][:2]) == (last, ("live", last))
        assert seqs(items) == sorted(seqs(items))
        assert connections.overflow.acts["merged"] > 50

    async def test_drop(self, held, publish, connections):
        last = await publish("d:a", 100)
        held.gate.set()
        await wait_all_tasks_blocked()
        first, *items, lost, live = await held.take()
        dropped = connections.overflow.acts["dropped"]
        assert first[1] == 1
        assert seqs(items) == list(range(2, last - dropped + 1))
        assert lost == gap(["d:a"], last - dropped, last)
        assert live[:2] == ("live", last)

    async def test_disconnect(self, held, publish, connections):
        await publish("x", 100)
        assert held.connection.reason is EndReason.SLOW_CONSUMER
        assert connections.overflow.acts["disconnected"] == 1

    async def test_a_gap_does_not_pass_over_what_is_still_to_be_read(self, slow):
        """What was lost of what is held may reach beyond a page of the backlog."""
        await slow.go()

        def entry(seq):
            event = Event("t", b"1", "x", "2026-01-01T00:00:00.000Z")
            publication = Publication(event, Position("e", seq), 0)
            return Entry(slow.connection.encoder.encode(publication), publication)

        lost = Loss(Position("e", 15), Position("e", 40), {"d:a": None})
        await slow.connection._give_in_order([lost, entry(14), entry(16)], all_is_read=False)
        await wait_all_tasks_blocked()
        before, (kind, at, told), after = await slow.take()
        assert (before[1], kind, at, after[1]) == (14, "gap", 14, 16)
        assert (told["from"], told["to"]) == ("0.e.14", "0.e.40")
