"""What the native WebSocket protocol refuses, over each way to the client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from e2e.clients import Socket, Stream
from e2e.rest import publish, stats
from e2e.servers import Server

REFUSED: list[tuple[str, Any, str]] = [
    ("no JSON", "{", "invalid_json"),
    ("half an object", '{"type":"ping"', "invalid_json"),
    ("two objects", '{"type":"ping"}{"type":"ping"}', "invalid_json"),
    ("a comma too many", '{"type":"ping",}', "invalid_json"),
    ("not a number", '{"type":"x","data":NaN}', "invalid_json"),
    ("deep nesting", '{"type":"x","data":' + "[" * 64 + "]" * 64 + "}", "invalid_json"),
    ("very deep nesting", '{"type":"x","data":' + "[" * 60_000, "invalid_json"),
    ("a number of 10 000 digits", '{"type":"x","data":' + "1" * 10_000 + "}", "invalid_json"),
    ("a raw control character", '{"type":"x","data":"\x01"}', "invalid_json"),
    ("an unknown escape", r'{"type":"x","data":"\q"}', "invalid_json"),
    ("half a surrogate pair", r'{"type":"x","data":"\ud800"}', "invalid_json"),
    ("an id that is a list", {"type": "ping", "id": []}, "invalid_event"),
    ("an id that is a truth value", {"type": "ping", "id": True}, "invalid_event"),
    ("an id that is a fraction", {"type": "ping", "id": 1.5}, "invalid_event"),
    ("an id that is long", {"type": "ping", "id": "x" * 65}, "invalid_event"),
    ("an id that is large", {"type": "ping", "id": 2**53}, "invalid_event"),
    ("a type that is a number", {"type": 5, "data": 1}, "invalid_event"),
    ("a type that is null", {"type": None, "data": 1}, "invalid_event"),
    ("a type that is empty", {"type": "", "data": 1}, "invalid_event"),
    ("a type of two lines", {"type": "a\nb", "data": 1}, "invalid_event"),
    ("a long type", {"type": "a" * 129, "data": 1}, "invalid_event"),
    (
        "an event of two lines",
        {"type": "publish", "event": {"type": "a\rb", "data": 1}},
        "invalid_event",
    ),
    ("no data", {"type": "publish", "event": {"channel": "a"}}, "invalid_event"),
    ("no message", {"type": "channel_message", "channel": "a"}, "invalid_event"),
    ("an unknown field", {"type": "publish", "event": {"data": 1}, "oops": 1}, "invalid_event"),
    ("echo of a wrong type", {"type": "publish", "event": {"data": 1}, "echo": 1}, "invalid_event"),
    (
        "tags of a wrong type",
        {"type": "publish", "event": {"data": 1, "tags": "a"}},
        "invalid_event",
    ),
    (
        "too many tags",
        {"type": "publish", "event": {"data": 1, "tags": ["a"] * 17}},
        "invalid_event",
    ),
    ("nothing to subscribe to", {"type": "subscribe"}, "invalid_event"),
    ("no channels", {"type": "subscribe", "channels": []}, "invalid_event"),
    ("channels of a wrong type", {"type": "subscribe", "channels": "a"}, "invalid_event"),
    ("one bad channel", {"type": "subscribe", "channels": ["a", "b c"]}, "invalid_channel"),
    ("everybody", {"type": "subscribe", "channel": "$all"}, "invalid_channel"),
    ("another's channel", {"type": "subscribe", "channel": "$conn:x"}, "invalid_channel"),
    (
        "publish to a pattern",
        {"type": "publish", "event": {"channel": "a*", "data": 1}},
        "invalid_channel",
    ),
    (
        "publish to everybody",
        {"type": "publish", "event": {"channel": "$all", "data": 1}},
        "invalid_channel",
    ),
    ("a type that is unknown", {"type": "x", "data": 1}, "unknown_command"),
    ("an unknown command", {"type": "command", "command": "reboot"}, "unknown_command"),
    ("no command", {"type": "command"}, "invalid_event"),
    ("join nothing", {"type": "command", "command": "join_channel"}, "invalid_event"),
    ("large data", {"type": "publish", "event": {"data": "x" * 65_535}}, "too_large"),
    ("binary", b"\x00\x01", "wrong_content_type"),
    ("empty binary", b"", "wrong_content_type"),
]


@pytest.mark.parametrize(
    ("message", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_wrong_is_answered_and_changes_nothing(
    server: Server, message: object, code: str
) -> None:
    with Socket(server) as socket, Stream(server, channel="*") as everything:
        everything.opened()
        before = stats(server)
        socket.send(message)
        answer = socket.answer()
        assert (answer["type"], answer["code"]) == ("error", code), answer
        assert answer["message"]
        assert answer["temporary"] is False
        after = stats(server)
        assert (after["seq"], after["channels"]) == (before["seq"], before["channels"])
        socket.ask(type="publish", event={"data": "still here"})
        assert socket.event()["data"] == "still here"
        assert everything.event()["data"] == "still here"


def test_an_error_carries_its_requests_id(server: Server) -> None:
    with Socket(server) as socket:
        assert socket.refused(type="subscribe", channel="a b")["code"] == "invalid_channel"
        assert socket.refused(type="publish", event={"channel": "a"})["code"] == "invalid_event"
        assert socket.refused(type="command", command="reboot")["code"] == "unknown_command"
        assert socket.refused(type="publish", event={"data": "x" * 65_535})["code"] == "too_large"


def test_a_connection_has_at_most_a_thousand_channels(server: Server, channel: str) -> None:
    names = [f"{channel}/{number}" for number in range(1_001)]
    with Socket(server) as socket:
        socket.ask(type="subscribe", channels=names[:999])
        assert socket.refused(type="subscribe", channels=names[999:])["code"] == "too_many_channels"
        assert publish(server, channel=names[999], data=1)["subscribers"] == 0
        socket.ask(type="subscribe", channels=names[:1_000])
        assert publish(server, channel=names[999], data=1)["subscribers"] == 1


@pytest.mark.parametrize(
    ("message", "code"), [("x" * 131_073, 1009), ("∎" * 131_000, 1009)], ids=["ascii", "utf-8"]
)
def test_a_message_that_is_too_big_ends_the_connection(
    server: Server, message: str, code: int
) -> None:
    with Socket(server) as socket:
        socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            socket.event()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        if code == 1009:
            seq = stats(server)["seq"]
            assert publish(server, data=1)["seq"] == seq + 1


def test_text_that_is_not_utf8_ends_the_connection(server: Server, way: str) -> None:
    with Socket(server) as socket:
        socket.ws.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            socket.event()
    if way == "stock hypercorn":
        assert closed.value.rcvd is None  # it hangs up without a close frame
    else:
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007


@pytest.mark.parametrize(("query", "status"), [("?heartbeat=never", 400)])
def test_a_wrong_query_is_refused(server: Server, query: str, status: int) -> None:
    address = f"ws://{server.authority}/realtime/ws{query}"
    with pytest.raises(InvalidStatus) as refused, connect(address, proxy=None):
        pass
    response = refused.value.response
    assert response.status_code == status
    assert json.loads(response.body or b"")["code"] == "bad_request"
