"""The native WebSocket protocol: what a client asks, what it hears, and how it ends."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.frames import Opcode

from triocast.auth import Grant
from triocast.errors import EndReason
from triocast.transports.native import NativeConnection
from triocast.transports.websocket import ASGIWebSocketLink

HEARTBEAT = 10.0


async def test_the_first_message_says_who_and_where(parts, open_websocket):
    await parts.publish("x")
    client = await open_websocket()
    (hello,) = client.take()
    assert hello["type"] == "connected"
    assert hello["id"] == "0.e.1"
    assert hello["data"] == {
        "connection_id": "w1",
        "user": "ann",
        "heartbeat_seconds": HEARTBEAT,
    }


async def test_subscribe_and_unsubscribe(parts, open_websocket):
    client = await open_websocket()
    await parts.publish("before")
    assert await client.ask(
        {"type": "subscribe", "id": 7, "channel": "default:a", "channels": ["n:*", "a"]}
    ) == [{"type": "reply", "id": 7, "data": {"channels": ["a", "n:*"], "cursor": "0.e.1"}}]
    for channel in ("a", "n:b", "b"):
        await parts.publish(channel)
    await wait_all_tasks_blocked()
    assert [(e["channel"], e["id"]) for e in client.take()] == [("a", "0.e.2"), ("n:b", "0.e.3")]
    assert await client.ask({"type": "unsubscribe", "id": "u", "channel": "a"}) == [
        {"type": "reply", "id": "u", "data": {"channels": ["a"]}}
    ]
    await parts.publish("a")
    await parts.publish("n:b")
    await wait_all_tasks_blocked()
    assert [e["channel"] for e in client.take()] == ["n:b"]


async def test_subscribe_with_a_filter(parts, open_websocket):
    client = await open_websocket()
    await client.ask({"type": "subscribe", "channel": "a", "types": ["T"], "tags": ["red"]})
    await parts.publish("a", "T", tags=("red",))
    await parts.publish("a", "T")
    await parts.publish("a", "U", tags=("red",))
    await wait_all_tasks_blocked()
    assert [e["id"] for e in client.take()] == ["0.e.1"]


async def test_publish_is_answered_and_heard(open_websocket):
    client, other = await open_websocket(), await open_websocket(id="w2")
    for each in (client, other):
        await each.ask({"type": "subscribe", "channel": "a"})
    heard = await client.ask(
        {
            "type": "publish",
            "id": 1,
            "channel": "a",
            "event": "E",
            "data": {"n": [1, 2]},
            "key": "k",
            "tags": ["t"],
        }
    )
    assert {"type": "reply", "id": 1, "data": {"channel": "a", "id": "0.e.1"}} in heard
    (event,) = [message for message in heard if message["type"] != "reply"]
    assert event.pop("timestamp")
    assert event == {
        "type": "E",
        "data": {"n": [1, 2]},
        "channel": "a",
        "key": "k",
        "tags": ["t"],
        "user": "ann",
        "id": "0.e.1",
    }
    assert [message["data"] for message in other.take()] == [{"n": [1, 2]}]


async def test_without_echo_the_publisher_alone_does_not_hear_it(open_websocket):
    client, other = await open_websocket(), await open_websocket(id="w2")
    for each in (client, other):
        await each.ask({"type": "subscribe", "channel": "a"})
    message = {"type": "publish", "channel": "a", "data": 5, "echo": False}
    assert await client.ask(message) == []  # no id, no reply
    assert [event["data"] for event in other.take()] == [5]


async def test_join_and_leave_set_where_bare_messages_go(open_websocket):
    client = await open_websocket()

    async def target():
        (event,) = await client.ask(b"bare text")
        assert (event["type"], event["data"]) == ("text", "bare text")
        return event["channel"]

    def command(word, channel):
        return {"type": "command", "command": word, "id": 3, "data": {"channel": channel}}

    assert await target() == "$all"
    (reply,) = await client.ask(command("join_channel", "general"))
    assert (reply["id"], reply["data"]["channels"]) == (3, ["general"])
    assert await target() == "general"
    await client.ask(command("join_channel", "chat:two"))
    assert await target() == "chat:two"
    await client.ask(command("join_channel", "general"))
    assert await target() == "general"
    await client.ask(command("leave_channel", "general"))
    assert await target() == "chat:two"
    await client.ask(command("leave_channel", "chat:two"))
    assert await target() == "$all"


async def test_a_joined_pattern_is_no_channel_to_publish_to(parts, open_websocket):
    client = await open_websocket()
    message = {"type": "command", "command": "join_channel", "data": {"channel": "news:*"}}
    await client.ask(message)
    answers = await client.ask({"type": "channel_message", "message": "hi", "id": 9})
    channels = {answer["channel"] for answer in answers if answer["type"] == "channel_message"}
    assert "news:*" not in channels


async def test_channel_message_and_other_objects(open_websocket):
    client = await open_websocket()
    await client.ask({"type": "subscribe", "channel": "a"})
    (event,) = await client.ask({"type": "channel_message", "channel": "a", "message": {"b": 1}})
    assert (event["type"], event["data"], event["channel"]) == ("channel_message", {"b": 1}, "a")
    (event,) = await client.ask({"type": "MOVED", "x": 1, "channel": "a"})
    assert (event["type"], event["data"]) == ("MOVED", {"type": "MOVED", "x": 1, "channel": "a"})


async def test_pings_of_the_protocol_and_of_websockets(open_websocket):
    client = await open_websocket()
    for message in (
        {"type": "ping", "id": 4},
        {"type": "command", "command": "ping", "id": 4},
    ):
        (reply,) = await client.ask(message)
        assert (reply["type"], reply["id"]) == ("reply", 4)
        assert reply["data"]["timestamp"].endswith("Z")
    client.protocol.send_ping(b"here?")
    await client.flush()
    (pong,) = client.others
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"here?")


@pytest.mark.parametrize(
    ("message", "id", "code"),
    [
        ({"type": "subscribe", "id": "q"}, "q", "invalid_event"),
        ({"type": "subscribe", "id": "q", "channel": "$all"}, "q", "invalid_channel"),
        ({"type": "subscribe", "id": "q", "channel": "no spaces"}, "q", "invalid_channel"),
        ({"type": "subscribe", "id": "q", "channel": "a", "what": 1}, "q", "invalid_event"),
        ({"type": "publish", "id": 2, "channel": "$conn:w1", "data": 1}, 2, "invalid_channel"),
        ({"type": "publish", "id": 2, "data": "x" * 9_999}, 2, "too_large"),
        ({"type": "publish", "id": 2}, 2, "invalid_event"),
        ({"type": "command", "id": 5, "command": "dance"}, 5, "unknown_command"),
        ({"type": "ping", "id": [1]}, None, "invalid_event"),
        (b'{"type":"ping"', None, "invalid_json"),
        (b'{"a":' * 21 + b"1" + b"}" * 21, None, "invalid_json"),
    ],
)
async def test_a_bad_request_is_answered_under_its_id_and_changes_nothing(
    parts, open_websocket, message, id, code
):
    client = await open_websocket(max_message_bytes=20_000)
    (error,) = await client.ask(message)
    assert (error["type"], error["id"], error["code"]) == ("error", id, code)
    assert error["message"]
    assert error["temporary"] is False
    assert parts.engine.head.seq == 0
    assert set(parts.hub.channels()) == {"$all", "$user:ann"}
    (reply,) = await client.ask({"type": "ping"})
    assert reply["type"] == "reply"


async def test_binary_messages_are_refused(open_websocket):
    client = await open_websocket()
    client.take()
    client.protocol.send_binary(b"\x00\x01")
    await client.flush()
    (error,) = client.take()
    assert error["code"] == "wrong_content_type"
    assert client.connection.reason is None


async def test_grants_are_respected(parts, open_websocket):
    client = await open_websocket(grant=Grant(subscribe=("news:*",), publish=("chat:a",)))
    for message in (
        {"type": "subscribe", "id": 1, "channels": ["news:a", "chat:a"]},
        {"type": "subscribe", "id": 1, "channel": "*"},
        {"type": "publish", "id": 1, "channel": "chat:b", "data": 1},
        {"type": "publish", "id": 1, "data": 1},  # to everybody
    ):
        (error,) = await client.ask(message)
        assert (error["id"], error["code"]) == (1, "forbidden")
    assert parts.hub.channels() == {"$all": 1}
    assert parts.engine.head.seq == 0
    assert [m["type"] for m in await client.ask({"type": "subscribe", "channel": "news:*"})] == [
        "reply"
    ]
    assert await client.ask({"type": "publish", "channel": "chat:a", "data": 1}) == []
    assert parts.engine.head.seq == 1


async def test_channel_limit(parts, open_websocket):
    """The server's own channels, which nobody asked for, do not count."""
    client = await open_websocket(most_channels=2)

    async def subscribe(*names):
        (answer,) = await client.ask({"type": "subscribe", "channels": names})
        return answer

    assert (await subscribe("a", "b", "c"))["code"] == "too_many_channels"
    assert parts.hub.count("a") == 0
    assert (await subscribe("a", "b"))["type"] == "reply"
    assert (await subscribe("a"))["type"] == "reply"
    error = await subscribe("c")
    assert (error["code"], error["temporary"]) == ("too_many_channels", False)
    await client.ask({"type": "unsubscribe", "channel": "a"})
    assert (await subscribe("c"))["type"] == "reply"


async def test_overload_is_told_as_temporary(parts, open_websocket, autojump_clock):
    client = await open_websocket()
    parts.publisher.closed = True
    (error,) = await client.ask({"type": "publish", "id": 1, "data": 1})
    assert (error["id"], error["code"], error["temporary"]) == (1, "shutting_down", True)


async def test_what_came_behind_the_upgrade_is_read_first(open_websocket):
    key = bytes(4)  # a mask of zeros changes nothing
    ping = b'{"type":"ping","id":1}'
    client = await open_websocket(leftover=bytes((0x81, 0x80 | len(ping))) + key + ping)
    assert [message["type"] for message in client.take()] == ["connected", "reply"]


# How it ends.


async def test_a_client_that_closes_is_answered(parts, open_websocket):
    client = await open_websocket()
    client.protocol.send_close(1000, "bye")
    await client.flush()
    assert client.close[0] == 1000
    parts.assert_nothing_is_left("client_closed")


async def test_a_client_that_gives_no_sign_is_lost_within_two_heartbeats(
    parts, open_websocket, autojump_clock
):
    client = await open_websocket(pongs=False)
    await trio.sleep(HEARTBEAT)
    assert client.connection.reason is None
    assert [frame.opcode for frame in client.others] == [Opcode.PING]
    await trio.sleep(HEARTBEAT)
    parts.assert_nothing_is_left("peer_lost")


async def test_a_client_that_answers_pings_stays(open_websocket, autojump_clock):
    client = await open_websocket()
    await trio.sleep(HEARTBEAT * 10)
    assert client.connection.reason is None
    assert sum(frame.opcode is Opcode.PING for frame in client.others) >= 9
    assert [message["type"] for message in client.take()] == ["connected"]


async def test_heartbeat_events_on_demand(open_websocket, autojump_clock):
    client = await open_websocket(heartbeat_events=True)
    await trio.sleep(HEARTBEAT * 3)
    beats = [message for message in client.take() if message["type"] == "HEARTBEAT"]
    assert len(beats) in (2, 3)
    assert beats[0]["data"] is None


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
    parts.assert_nothing_is_left(reason)


@pytest.mark.parametrize(
    "reason", [EndReason.SHUTDOWN, EndReason.SLOW_CONSUMER, EndReason.GRANT_ENDED, EndReason.POLICY]
)
async def test_farewell_is_a_close_frame_with_code_and_word(parts, open_websocket, reason):
    client = await open_websocket()
    client.connection.end(reason)
    await wait_all_tasks_blocked()
    assert client.close == (reason.close_code, reason.word)
    parts.assert_nothing_is_left(reason.word)


async def test_drained_clients_are_told_to_come_back(parts, open_websocket, autojump_clock):
    client = await open_websocket()
    await parts.connections.drain(1)
    assert client.close == (1012, "shutdown")


class Gone:
    """A link whose client is gone before the first write."""

    taken_over = True

    def write_now(self, data):
        raise ConnectionResetError

    async def send(self, frames):
        raise ConnectionResetError

    async def receive(self):
        await trio.sleep_forever()

    async def finish(self, farewell):
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
    parts.assert_nothing_is_left("peer_lost")
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
    parts.assert_nothing_is_left("client_closed")


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
    parts.assert_nothing_is_left("message_too_big")


async def test_portable_heartbeats_are_messages(portable, autojump_clock):
    await trio.sleep(HEARTBEAT)
    assert '"type":"HEARTBEAT"' in portable.texts[-1]
