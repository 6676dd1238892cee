"""The native WebSocket protocol: what a client asks, and what it hears."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.frames import Opcode

from triocast.auth import Grant

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
            "event": {
                "channel": "a",
                "type": "E",
                "data": {"n": [1, 2]},
                "key": "k",
                "tags": ["t"],
            },
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


@pytest.mark.parametrize("type", ["connected", "gap", "HEARTBEAT", "ERROR"])
async def test_messages_of_the_server_cannot_be_imitated(open_websocket, type):
    client = await open_websocket()
    await client.ask({"type": "subscribe", "channel": "a"})
    event = {"channel": "a", "type": type, "data": None}
    (error,) = await client.ask({"type": "publish", "id": 1, "event": event})
    assert (error["type"], error["id"], error["code"]) == ("error", 1, "reserved_type")


async def test_without_echo_the_publisher_alone_does_not_hear_it(open_websocket):
    client, other = await open_websocket(), await open_websocket(id="w2")
    for each in (client, other):
        await each.ask({"type": "subscribe", "channel": "a"})
    message = {"type": "publish", "event": {"channel": "a", "data": 5}, "echo": False}
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


async def test_channel_message(open_websocket):
    client = await open_websocket()
    await client.ask({"type": "subscribe", "channel": "a"})
    (event,) = await client.ask({"type": "channel_message", "channel": "a", "message": {"b": 1}})
    assert (event["type"], event["data"], event["channel"]) == ("channel_message", {"b": 1}, "a")


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ({"type": "MOVED", "id": 1, "x": 1, "channel": "a"}, '"event":{"type":"MOVED",'),
        ({"type": "Subscribe", "id": 1, "channel": "a"}, "'subscribe'"),
        ({"type": "publsh", "id": 1, "event": {"data": 1}}, "'publish'"),
        ({"id": 1, "data": 1}, '"type":"publish"'),
        ({"type": "publish", "id": 1, "channel": "a", "event": "e", "data": 1}, '"event":{'),
        ({"type": "publish", "id": 1, "event": {"chanel": "a", "data": 1}}, "'channel'"),
        ({"type": "publish", "id": 1, "event": {"data": 1}, "eco": False}, "'echo'"),
        ({"type": "command", "id": 1, "command": "joinchannel"}, "'join_channel'"),
    ],
)
async def test_what_is_no_request_is_told_what_was_meant(parts, open_websocket, message, hint):
    client = await open_websocket()
    (error,) = await client.ask(message)
    assert (error["type"], error["id"]) == ("error", 1)
    assert "did you mean" in error["message"]
    assert hint in error["message"]
    assert parts.engine.head.seq == 0


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff{"type":"ping"}',
        '\xa0{"type":"ping"}',
        '\x0c {"type":"ping"}',
        ' \u200b\x00{"type":"ping"}',
        '\u2028{"type":',
        '[{"type":"ping"}]',
        '\ufeff [\xa0[{"type":"ping"}]]',
        '[1, {"type":"ping"}]',
    ],
)
async def test_what_looks_like_a_request_is_not_published(parts, open_websocket, text):
    client = await open_websocket()
    (error,) = await client.ask(text.encode())
    assert error["type"] == "error"
    assert "did you mean" in error["message"]
    assert parts.engine.head.seq == 0
    (reply,) = await client.ask({"type": "ping", "id": 2})  # The line goes on.
    assert reply["id"] == 2


@pytest.mark.parametrize("text", ["hello", "", " x", "[1, 2]", "[x {", '"{}"', "\ufeffhi", "[]"])
async def test_other_text_publishes_itself(open_websocket, text):
    client = await open_websocket()
    (event,) = await client.ask(text.encode())
    assert (event["type"], event["data"]) == ("text", text)


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
        (
            {"type": "publish", "id": 2, "event": {"channel": "$conn:w1", "data": 1}},
            2,
            "invalid_channel",
        ),
        ({"type": "publish", "id": 2, "event": {"data": "x" * 9_999}}, 2, "too_large"),
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
    assert set(await parts.hub.channels()) == {"$all", "$user:ann"}
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
        {"type": "publish", "id": 1, "event": {"channel": "chat:b", "data": 1}},
        {"type": "publish", "id": 1, "event": {"data": 1}},  # to everybody
    ):
        (error,) = await client.ask(message)
        assert (error["id"], error["code"]) == (1, "forbidden")
    assert await parts.hub.channels() == {"$all": 1}
    assert parts.engine.head.seq == 0
    assert [m["type"] for m in await client.ask({"type": "subscribe", "channel": "news:*"})] == [
        "reply"
    ]
    assert await client.ask({"type": "publish", "event": {"channel": "chat:a", "data": 1}}) == []
    assert parts.engine.head.seq == 1


async def test_channel_limit(parts, open_websocket):
    """The server's own channels, which nobody asked for, do not count."""
    client = await open_websocket(most_channels=2)

    async def subscribe(*names):
        (answer,) = await client.ask({"type": "subscribe", "channels": names})
        return answer

    assert (await subscribe("a", "b", "c"))["code"] == "too_many_channels"
    assert await parts.hub.count("a") == 0
    assert (await subscribe("a", "b"))["type"] == "reply"
    assert (await subscribe("a"))["type"] == "reply"
    error = await subscribe("c")
    assert (error["code"], error["temporary"]) == ("too_many_channels", False)
    await client.ask({"type": "unsubscribe", "channel": "a"})
    assert (await subscribe("c"))["type"] == "reply"


async def test_overload_is_told_as_temporary(parts, open_websocket, autojump_clock):
    client = await open_websocket()
    parts.publisher.closed = True
    (error,) = await client.ask({"type": "publish", "id": 1, "event": {"data": 1}})
    assert (error["id"], error["code"], error["temporary"]) == (1, "shutting_down", True)


async def test_heartbeat_events_on_demand(open_websocket, autojump_clock):
    client = await open_websocket(heartbeat_events=True)
    await trio.sleep(HEARTBEAT * 3)
    beats = [message for message in client.take() if message["type"] == "HEARTBEAT"]
    assert len(beats) in (2, 3)
    assert (beats[0]["data"], beats[0]["id"]) == (None, "0.e.0")


@pytest.mark.parametrize("heartbeat_events", [True, False])
async def test_the_cursor_of_a_quiet_client_does_not_grow_old(
    parts, open_websocket, autojump_clock, heartbeat_events
):
    client = await open_websocket(channels=("x",), heartbeat_events=heartbeat_events)
    client.take()
    await parts.publish("elsewhere")
    await parts.publish("elsewhere")
    await trio.sleep(HEARTBEAT)
    beat, *more = client.take()
    assert (beat["type"], beat["id"]) == ("HEARTBEAT", "0.e.2")
    assert more == []
    await trio.sleep(HEARTBEAT)
    assert [beat["id"] for beat in client.take()] == ["0.e.2"] * heartbeat_events


async def test_a_heartbeat_does_not_pass_over_what_still_waits(
    parts, open_websocket, autojump_clock, monkeypatch
):
    client = await open_websocket(channels=("x",), heartbeat_events=True)
    client.take()
    read, may_read = parts.engine.history, trio.Event()

    async def history(*names, **bounds):
        await may_read.wait()
        return await read(*names, **bounds)

    monkeypatch.setattr(parts.engine, "history", history)
    await client.send({"type": "subscribe", "id": 1, "channel": "y", "cursor": "0.e.0"})
    await parts.publish("x")
    await trio.sleep(HEARTBEAT)
    (beat,) = client.take()
    assert (beat["type"], "id" in beat) == ("HEARTBEAT", False)
    may_read.set()
    await wait_all_tasks_blocked()
    assert [message["type"] for message in client.take()] == ["t", "reply"]


# What a namespace has switched on.


def subjects(members):
    return {member["user"] for member in members}


async def test_the_members_of_a_channel_are_told(open_websocket, autojump_clock):
    client = await open_websocket(grant=Grant("ann", ("*",)))
    await open_websocket(id="w2", grant=Grant("bob", ("*",)), channels=("room:a",))
    await client.ask({"type": "subscribe", "channel": "room:a"})
    ask = {"type": "presence", "id": 1, "channel": "room:a"}
    (reply,) = await client.ask(ask)
    assert (reply["type"], reply["id"]) == ("reply", 1)
    assert subjects(reply["data"]["members"]) == {"ann", "bob"}
    first = reply["data"]["members"][0]["key"]
    (reply,) = await client.ask(ask | {"after": first})
    assert len(reply["data"]["members"]) == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "presence", "channel": "secret:a"}, "forbidden"),
        ({"type": "presence", "channel": "quiet:a"}, "disabled"),
        ({"type": "subscribe", "channel": "$presence:quiet:a"}, "disabled"),
        ({"type": "subscribe", "channel": "$presence:secret:a"}, "forbidden"),
    ],
)
async def test_a_question_about_members_is_refused_with_the_reason(open_websocket, message, code):
    client = await open_websocket(grant=Grant("ann", ("room:*", "quiet:*")))
    (error,) = await client.ask(message | {"id": 1})
    assert (error["type"], error["id"], error["code"]) == ("error", 1, code)


async def test_a_server_without_presence_says_so(parts, open_websocket):
    parts.connections.presence = None
    client = await open_websocket()
    (error,) = await client.ask({"type": "presence", "channel": "room:a"})
    assert error["code"] == "disabled"
    (reply,) = await client.ask({"type": "subscribe", "channel": "room:a"})
    assert reply["type"] == "reply"


async def test_an_event_that_is_held_back_is_acknowledged_as_pending(
    parts, open_websocket, autojump_clock
):
    client = await open_websocket()
    publish = {"type": "publish", "id": 1, "event": {"channel": "fast:a", "key": "k", "data": 1}}
    (first,) = await client.ask(publish)
    assert first["data"] == {"channel": "fast:a", "id": "0.e.1"}
    (second,) = await client.ask(publish)
    assert second["data"] == {"channel": "fast:a", "pending": True}
    assert await client.ask({**publish, "id": None}) == []
    publish["event"]["urgent"] = True
    (urgent,) = await client.ask(publish)
    assert urgent["data"] == {"channel": "fast:a", "id": "0.e.2"}


async def test_a_repeated_publish_gets_the_first_reply(parts, open_websocket):
    client = await open_websocket()
    publish = {"type": "publish", "event": {"channel": "a", "data": 1, "idempotency_key": "once"}}
    (first,) = await client.ask(publish | {"id": 1})
    (again,) = await client.ask(publish | {"id": 2})
    assert (again["id"], again["data"]) == (2, first["data"])
    publish["event"]["data"] = 2
    (conflict,) = await client.ask(publish | {"id": 3})
    assert (conflict["id"], conflict["code"]) == (3, "idempotency_conflict")
    assert parts.engine.head.seq == 1
