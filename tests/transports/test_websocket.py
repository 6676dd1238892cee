"""A WebSocket connection's life: heartbeats, bad frames, close codes; and the same over ASGI."""

import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.frames import Opcode

from triocast.auth import Grant
from triocast.connection import MOST_AHEAD
from triocast.errors import EndReason
from triocast.floods import MAX_UNITS
from triocast.transports.native import NativeConnection
from triocast.transports.websocket import MOST_MESSAGES_AHEAD, ASGIWebSocketLink
from triocast.wire import websocket as frames
from triocast.wire.start import parse_cursor
from triocast.wire.websocket import FrameReader

HEARTBEAT = 10.0


async def test_what_came_behind_the_upgrade_is_read_first(open_websocket):
    key = bytes(4)  # a mask of zeros changes nothing
    ping = b'{"type":"ping","id":1}'
    client = await open_websocket(leftover=bytes((0x81, 0x80 | len(ping))) + key + ping)
    assert [message["type"] for message in client.take()] == ["connected", "reply"]


async def test_a_client_that_closes_is_answered(parts, open_websocket):
    client = await open_websocket()
    client.protocol.send_close(1000, "bye")
    await client.flush()
    assert client.close[0] == 1000
    await parts.assert_nothing_is_left("client_closed")


async def test_a_client_that_gives_no_sign_is_lost_within_two_heartbeats(
    parts, open_websocket, autojump_clock
):
    client = await open_websocket(pongs=False)
    await trio.sleep(HEARTBEAT)
    assert client.connection.reason is None
    assert [frame.opcode for frame in client.others] == [Opcode.PING]
    await trio.sleep(HEARTBEAT)
    assert client.close == (4002, "peer_lost")
    await parts.assert_nothing_is_left("peer_lost")


async def test_a_client_that_answers_pings_stays(open_websocket, autojump_clock):
    client = await open_websocket()
    await trio.sleep(HEARTBEAT * 10)
    assert client.connection.reason is None
    assert sum(frame.opcode is Opcode.PING for frame in client.others) >= 9
    assert [message["type"] for message in client.take()] == ["connected"]


def masked(first, payload):
    head = bytes((first, 0x80 | 126)) + len(payload).to_bytes(2, "big")
    return head + bytes(4) + payload


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (masked(0x81, b"x" * 10_001), 1009, "message_too_big"),
        (masked(0x01, b"x" * 6_000) + masked(0x80, b"x" * 6_000), 1009, "message_too_big"),
        (bytes((0x81, 2)) + b"hi", 1002, "protocol_error"),  # unmasked
        (masked(0xC1, b"reserved bit"), 1002, "protocol_error"),
        (masked(0x80, b"nothing to continue"), 1002, "protocol_error"),
        (masked(0x81, b"\xff\xfe"), 1007, "invalid_text"),
    ],
)
async def test_bad_frames_end_it_with_their_code(parts, open_websocket, data, code, reason):
    client = await open_websocket()
    await client.send_bytes(data)
    assert client.close[0] == code
    assert parts.engine.head.seq == 0
    await parts.assert_nothing_is_left(reason)


# Floods.


def small(first, payload=b""):
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload


FLOODS = {
    "pings": small(0x89),
    "large pings": small(0x89, b"p" * 125),
    "pongs": small(0x8A),
    "empty texts": small(0x81),
    "empty binaries": small(0x82),
    "empty fragments": small(0x00),
    "fragments of a byte": small(0x00, b"x"),
    "fragments and pings": small(0x00) + small(0x89),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("size", [100, 10_000_000])
async def test_a_flood_of_frames_that_say_nothing_ends_its_sender(
    parts, open_websocket, autojump_clock, caplog, name, size
):
    """However much of it comes in one read."""
    caplog.set_level("INFO", logger="triocast.access")
    client = await open_websocket()
    flood = FLOODS[name] * (MAX_UNITS + 10)
    if "fragments" in name:
        flood = small(0x01) + flood
    for start in range(0, len(flood), size):
        if client.connection.reason is None:
            await client.send_bytes(flood[start : start + size])
    if size == 100:  # Else it may end within an answer: no close frame could follow that.
        assert client.close == (1008, "flood")
    await parts.assert_nothing_is_left("flood")
    assert "reason=flood" in caplog.text


async def test_a_flood_is_noticed_while_it_is_read(parts, open_websocket, work, monkeypatch):
    """Not only once all of it has been done."""
    read = FrameReader._assemble

    def count(self, frame):
        work.did()
        return read(self, frame)

    monkeypatch.setattr(FrameReader, "_assemble", count)
    client = await open_websocket(leftover=small(0x8A) * 50 * MAX_UNITS)
    assert client.close == (1008, "flood")
    assert work.done < 2 * MAX_UNITS


async def test_one_read_of_small_frames_is_done_in_turns(open_websocket, work, monkeypatch):
    read = FrameReader._assemble

    def count(self, frame):
        work.did()
        return read(self, frame)

    monkeypatch.setattr(FrameReader, "_assemble", count)
    await open_websocket(leftover=small(0x8A) * MAX_UNITS)
    assert work.done == MAX_UNITS > work.PER_TURN
    assert work.longest <= work.PER_TURN + 1


async def test_a_client_that_publishes_as_fast_as_it_can_is_no_flood(open_websocket):
    client = await open_websocket()
    for _ in range(5):
        await client.send_bytes(small(0x81, b"x") * MAX_UNITS)
    assert client.connection.reason is None


async def test_a_client_that_streams_its_messages_is_no_flood(open_websocket):
    """`websockets` sends what comes from an iterator as fragments, the last one empty."""
    client = await open_websocket()
    await client.send_bytes((small(0x01, b"x") + small(0x80)) * MAX_UNITS * 2)
    assert client.connection.reason is None


async def test_a_client_that_pings_every_second_is_no_flood(open_websocket, autojump_clock):
    client = await open_websocket()
    for _ in range(3 * MAX_UNITS):
        await client.send_bytes(small(0x89))
        await trio.sleep(1)
    assert client.connection.reason is None


@pytest.mark.parametrize(
    "reason", [EndReason.SHUTDOWN, EndReason.SLOW_CONSUMER, EndReason.GRANT_ENDED, EndReason.POLICY]
)
async def test_farewell_is_a_close_frame_with_code_and_word(parts, open_websocket, reason):
    client = await open_websocket()
    client.connection.end(reason)
    await wait_all_tasks_blocked()
    assert client.close == (reason.close_code, reason.word)
    await parts.assert_nothing_is_left(reason.word)


async def test_drained_clients_are_told_to_come_back(parts, open_websocket, autojump_clock):
    client = await open_websocket()
    await parts.connections.drain(1)
    assert client.close == (1012, "shutdown")


# Pings are answered at once.


def ping(payload=b""):
    return bytes((0x89, 0x80 | len(payload))) + bytes(4) + payload


def text(message):
    return masked(0x81, json.dumps(message).encode())


PUBLISH = text({"type": "channel_message", "id": 1, "channel": "a", "message": 1, "echo": False})


@pytest.fixture
def stalled(parts, monkeypatch):
    """An event until which nothing is published."""
    going_on = trio.Event()
    publish = parts.engine.publish

    async def publish_later(events):
        await going_on.wait()
        return await publish(events)

    monkeypatch.setattr(parts.engine, "publish", publish_later)
    return going_on


async def test_a_pong_comes_before_the_replies_of_the_same_read(open_websocket):
    client = await open_websocket()
    client.opcodes.clear()
    await client.send_bytes(text({"type": "ping", "id": 1}) + ping(b"x"))
    assert client.opcodes == [Opcode.PONG, Opcode.TEXT]


async def test_pings_are_answered_while_a_reply_is_being_made(open_websocket, stalled):
    client = await open_websocket()
    for _ in range(2):  # The first time a second task begins to read, then the two take turns.
        await client.send_bytes(PUBLISH)
        for payload in (b"a", b"b"):
            await client.send_bytes(ping(payload))
            assert client.others.pop().data == payload
    client.take()
    stalled.set()
    await wait_all_tasks_blocked()
    assert [reply["id"] for reply in client.take()] == [1, 1]
    await client.send_bytes(PUBLISH + ping(b"c"))
    assert client.others.pop().data == b"c"
    assert [reply["id"] for reply in client.take()] == [1]


async def test_pings_are_answered_while_a_backlog_is_being_read(parts, open_websocket, monkeypatch):
    await parts.publish("a")
    going_on = trio.Event()
    history = parts.engine.history

    async def read_later(*args, **options):
        await going_on.wait()
        return await history(*args, **options)

    monkeypatch.setattr(parts.engine, "history", read_later)
    start = parse_cursor("0.e.0")
    client = await open_websocket(channels=["a"], start=start)
    await client.send_bytes(text({"type": "ping", "id": 1}) + ping(b"x"))
    assert [frame.data for frame in client.others] == [b"x"]
    assert [message["type"] for message in client.take()] == ["connected"]
    going_on.set()
    await wait_all_tasks_blocked()
    assert [message["type"] for message in client.take()] == ["t", "live", "reply"]


async def test_a_pong_goes_ahead_of_what_waits_for_the_client(open_websocket):
    client = await open_websocket()
    client.opcodes.clear()
    connection = client.connection
    for _ in range(20):
        connection.push(frames.text_frame(b"1"))
    for number in range(20):
        connection.push_ahead(frames.frame(frames.PONG, b"%d" % number))
    await wait_all_tasks_blocked()
    assert client.opcodes == [*[Opcode.PONG] * MOST_AHEAD, *[Opcode.TEXT] * 20]
    assert [frame.data for frame in client.others] == [b"%d" % n for n in range(4, 20)]


class Half:
    """A link that takes half of the first frame at once, and the rest later.

    ``meanwhile`` is called in between.
    """

    taken_over = True

    def __init__(self, meanwhile):
        self.sent = []
        self._meanwhile = meanwhile

    def write_now(self, data):
        if self.sent:
            raise BlockingIOError
        self.sent.append(bytes(data[: len(data) // 2]))
        return len(self.sent[0])

    async def send(self, parts):
        self.sent += map(bytes, parts)

    async def receive(self):
        self._meanwhile()  # The first read comes in the step of the first write.
        assert len(self.sent) == 1
        await trio.sleep_forever()

    async def finish(self, farewell):
        pass

    def close(self):
        pass


async def test_a_pong_does_not_cut_a_frame_in_two(parts, nursery):
    connection = NativeConnection(
        parts.connections,
        parts.publisher,
        id="w",
        grant=Grant(),
        address=None,
        most_channels=10,
        max_message_bytes=1_000,
        max_json_depth=10,
    )
    connection.use_frames(b"")
    link = Half(meanwhile=lambda: connection.push_ahead(b"pong"))
    nursery.start_soon(connection.run, link)
    await wait_all_tasks_blocked()
    *hello, pong = link.sent
    assert pong == b"pong"
    assert b"".join(hello).endswith(b"}")


async def test_a_client_is_read_only_so_far_ahead(open_websocket, stalled, nursery):
    client = await open_websocket()
    await client.send_bytes(PUBLISH)
    requests = text({"type": "ping", "id": 2}) * (MOST_MESSAGES_AHEAD + 1)
    await client.send_bytes(requests + ping(b"x"))
    assert client.others == []
    client.take()
    stalled.set()
    await wait_all_tasks_blocked()
    assert [frame.data for frame in client.others] == [b"x"]
    assert [reply["id"] for reply in client.take()] == [1, *[2] * (MOST_MESSAGES_AHEAD + 1)]


@pytest.mark.parametrize("end", ["close", "eof", "error"])
async def test_what_came_before_the_end_is_done(parts, open_websocket, stalled, end):
    client = await open_websocket(pongs=False)
    await client.send_bytes(PUBLISH)
    if end == "close":
        client.protocol.send_close(4321, "bye")
        await client.flush()
    elif end == "eof":
        await client.stream.send_stream.aclose()
    else:
        await client.send_bytes(bytes((0x81, 2)) + b"hi")
    assert client.connection.reason is None
    assert client.close[0] is None
    stalled.set()
    await wait_all_tasks_blocked()
    assert parts.engine.head.seq == 1
    assert client.close[0] == {"close": 4321, "eof": 1000, "error": 1002}[end]
    assert [message["type"] for message in client.take()] == ["connected", "reply"]
    await parts.assert_nothing_is_left("protocol_error" if end == "error" else "client_closed")


async def test_a_close_frame_is_answered_also_when_something_else_ends_it_first(
    parts, open_websocket, stalled
):
    client = await open_websocket()
    await client.send_bytes(PUBLISH)
    client.protocol.send_close(4321)
    await client.flush()
    client.connection.end(EndReason.GRANT_ENDED)
    await wait_all_tasks_blocked()
    assert client.close[0] == 4321
    await parts.assert_nothing_is_left("grant_ended")


class Gone:
    """A link whose client is gone before the first write."""

    taken_over = True

    def write_now(self, data):
        raise ConnectionResetError

    async def send(self, frames):
        raise ConnectionResetError

    async def receive(self):
        await trio.sleep_forever()

    async def finish(self, farewell, *, abruptly=False):
        raise ConnectionResetError

    def close(self):
        pass


async def test_requests_of_a_client_that_is_gone_are_dropped_without_a_fault(
    parts, nursery, caplog
):
    request = b'{"type":"subscribe","id":1,"channel":"a"}'
    connection = NativeConnection(
        parts.connections,
        parts.publisher,
        id="w",
        grant=Grant(subscribe=("*",)),
        address=None,
        most_channels=10,
        max_message_bytes=1_000,
        max_json_depth=10,
    )
    connection.use_frames(bytes((0x81, 0x80 | len(request))) + bytes(4) + request)
    await connection.run(Gone())
    await parts.assert_nothing_is_left("peer_lost")
    assert "Traceback" not in caplog.text


# The portable way: messages over ASGI.


class ASGI:
    def __init__(self):
        self.to_app, self.incoming = trio.open_memory_channel(100)
        self.sent = []

    async def send(self, message):
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    @property
    def texts(self):
        return [m["text"] for m in self.sent if m["type"] == "websocket.send"]


@pytest.fixture
async def portable(parts, nursery):
    asgi = ASGI()
    connection = NativeConnection(
        parts.connections,
        parts.publisher,
        id="p1",
        grant=Grant(subscribe=("*",), publish=("*", "$all")),
        address=None,
        most_channels=10,
        max_message_bytes=100,
        max_json_depth=10,
    )
    nursery.start_soon(connection.run, ASGIWebSocketLink(asgi.incoming.receive, asgi.send))
    await wait_all_tasks_blocked()
    asgi.connection = connection
    return asgi


async def test_portable_speaks_the_same_protocol(parts, portable):
    await portable.to_app.send({"type": "websocket.receive", "text": "hello"})
    await portable.to_app.send({"type": "websocket.receive", "bytes": b"\x00"})
    await wait_all_tasks_blocked()
    hello, *others = portable.texts
    assert '"type":"connected"' in hello
    assert sorted('"data":"hello"' in text for text in others) == [False, True]
    assert sorted('"wrong_content_type"' in text for text in others) == [False, True]
    await portable.to_app.send({"type": "websocket.disconnect", "code": 1001})
    await wait_all_tasks_blocked()
    await parts.assert_nothing_is_left("client_closed")


async def test_portable_takes_an_empty_text_as_the_other_way_does(parts, portable, open_websocket):
    client = await open_websocket()
    assert [event["data"] for event in await client.ask(b"")] == [""]
    before = parts.engine.head.seq
    await portable.to_app.send({"type": "websocket.receive", "text": ""})
    await wait_all_tasks_blocked()
    assert parts.engine.head.seq == before + 1


async def test_portable_says_goodbye_with_the_code(parts, portable, autojump_clock):
    await parts.connections.drain(1)
    assert portable.sent[-1] == {"type": "websocket.close", "code": 1012}


async def test_portable_bounds_messages_in_bytes(parts, portable):
    await portable.to_app.send({"type": "websocket.receive", "text": "ä" * 51})
    await wait_all_tasks_blocked()
    assert portable.sent[-1] == {"type": "websocket.close", "code": 1009}
    await parts.assert_nothing_is_left("message_too_big")


async def test_portable_heartbeats_are_messages(portable, autojump_clock):
    await trio.sleep(HEARTBEAT)
    assert '"type":"HEARTBEAT"' in portable.texts[-1]


@pytest.mark.parametrize("empty", [{"text": ""}, {"bytes": b""}])
async def test_portable_ends_the_sender_of_a_flood_of_empty_messages(
    parts, portable, autojump_clock, empty
):
    for _ in range(MAX_UNITS + 1):
        await portable.to_app.send({"type": "websocket.receive", **empty})
    await wait_all_tasks_blocked()
    assert portable.sent[-1] == {"type": "websocket.close", "code": 1008}
    await parts.assert_nothing_is_left("flood")


async def test_portable_takes_any_number_of_messages_that_say_something(parts, portable):
    for _ in range(2 * MAX_UNITS):
        await portable.to_app.send({"type": "websocket.receive", "text": "x"})
    await wait_all_tasks_blocked()
    assert portable.connection.reason is None


async def test_portable_counts_what_our_server_ended_as_a_flood(parts, portable):
    message = {"type": "websocket.disconnect", "code": 1008, "reason": "flood"}
    await portable.to_app.send(message)
    await wait_all_tasks_blocked()
    await parts.assert_nothing_is_left("flood")
