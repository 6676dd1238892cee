"""The native WebSocket protocol, over each way to the client."""

from __future__ import annotations

import re
from typing import Any

import pytest

from e2e.clients import HEARTBEAT, Socket, Stream
from e2e.rest import PATIENCE, publish, stats, until
from e2e.servers import Server

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_the_server_says_hello(server: Server, channel: str) -> None:
    before = publish(server, channel=channel, data=None)
    with Socket(server) as socket, Socket(server) as other:
        hello = socket.hello
        assert hello["type"] == "connected"
        assert re.fullmatch(TIMESTAMP, hello["timestamp"])
        assert set(hello["data"]) == {"connection_id", "user", "heartbeat_seconds"}
        assert hello["data"]["user"] is None
        assert hello["data"]["heartbeat_seconds"] == 25
        assert hello["id"] == before["id"]
        assert socket.id != other.id


def test_the_subprotocol_is_agreed_on(server: Server) -> None:
    with Socket(server, subprotocols=["other", "triocast.v1"]) as socket:
        assert socket.ws.subprotocol == "triocast.v1"
    with Socket(server, subprotocols=["other"]) as socket:
        assert socket.ws.subprotocol is None
    with Socket(server) as socket:
        assert socket.ws.subprotocol is None


def test_channels_are_subscribed_to_and_left(server: Server, channel: str) -> None:
    pattern = channel + "/*"
    with Socket(server) as socket:
        assert socket.ask(type="subscribe", channel=channel)["channels"] == [channel]
        answer = socket.ask(type="subscribe", channels=[channel, pattern])
        assert answer["channels"] == [channel, pattern]
        first = publish(server, channel=channel, data=1)
        second = publish(server, channel=channel + "/other", data=2)
        assert first["subscribers"] == 1
        assert second["subscribers"] == 1
        assert [socket.event()["id"], socket.event()["id"]] == [first["id"], second["id"]]
        assert socket.ask(type="unsubscribe", channels=[channel]) == {"channels": [channel]}
        assert publish(server, channel=channel, data=3)["subscribers"] == 0
        publish(server, channel=channel + "/other", data=4)
        assert socket.event()["data"] == 4


def test_a_subscription_is_live_from_its_cursor_on(server: Server, channel: str) -> None:
    before = publish(server, channel=channel, data="before")
    with Socket(server) as socket:
        assert socket.ask(type="subscribe", channel=channel)["cursor"] == before["id"]
        publish(server, channel=channel, data="after")
        assert socket.event()["data"] == "after"


def test_subscriptions_filter_by_type_and_tag(server: Server, channel: str) -> None:
    with Socket(server) as socket:
        socket.ask(type="subscribe", channel=channel, types=["a"], tags=["red"])
        publish(server, channel=channel, type="a", data=1)
        publish(server, channel=channel, type="b", data=2, tags=["red"])
        publish(server, channel=channel, type="a", data=3, tags=["blue", "red"])
        assert socket.event()["data"] == 3


def test_publishing_reaches_both_transports(server: Server, channel: str) -> None:
    with Socket(server) as sender, Socket(server) as reader, Stream(server, channel=channel) as sse:
        sse.opened()
        reader.ask(type="subscribe", channel=channel)
        answer = sender.ask(
            type="publish",
            event={
                "channel": channel,
                "type": "news",
                "data": {"a": [1]},
                "key": "k",
                "tags": ["t"],
            },
        )
        assert answer["channel"] == channel
        event = reader.event()
        assert event == sse.event()
        assert re.fullmatch(TIMESTAMP, event.pop("timestamp"))
        assert event == {
            "type": "news",
            "data": {"a": [1]},
            "channel": channel,
            "key": "k",
            "tags": ["t"],
            "id": answer["id"],
        }


def test_publishing_without_an_id_is_answered_only_if_it_fails(
    server: Server, channel: str
) -> None:
    with Socket(server) as socket:
        socket.ask(type="subscribe", channel=channel)
        socket.send({"type": "publish", "event": {"channel": channel, "data": 1}})
        socket.send({"type": "publish", "event": {"channel": "no channel", "data": 2}})
        answer = socket.answer()
        assert (answer["type"], answer["code"], answer["id"]) == ("error", "invalid_channel", None)
        assert socket.event()["data"] == 1


def test_a_publisher_without_echo_hears_only_others(server: Server, channel: str) -> None:
    with Socket(server) as sender, Socket(server) as reader:
        for socket in (sender, reader):
            socket.ask(type="subscribe", channel=channel)
        sender.ask(type="publish", event={"channel": channel, "data": 1}, echo=False)
        sender.ask(type="channel_message", channel=channel, message=2, echo=False)
        sender.ask(
            type="publish", event={"channel": channel, "type": "mine", "data": 3}, echo=False
        )
        sender.ask(type="publish", event={"channel": channel, "data": 4})
        assert [reader.event()["data"] for _ in range(4)] == [1, 2, 3, 4]
        assert sender.event()["data"] == 4


def test_a_channel_is_joined_spoken_to_and_left(server: Server, channel: str) -> None:
    def command(word: str, name: str) -> dict[str, Any]:
        return {"type": "command", "command": word, "data": {"channel": name}}

    second = channel + "/second"
    with Socket(server) as socket, Socket(server) as reader:
        reader.ask(type="subscribe", channels=[channel, second])
        assert socket.ask(**command("join_channel", channel))["channels"] == [channel]
        assert socket.ask(**command("join_channel", second))["channels"] == [second]
        assert socket.ask(type="channel_message", channel=channel, message="named")
        assert socket.ask(type="channel_message", message={"text": "joined last"})
        socket.send("bare text")
        own = [socket.event() for _ in range(3)]  # what is under way when it leaves may be missed
        assert socket.ask(**command("leave_channel", second)) == {"channels": [second]}
        socket.send("bare text again")
        seen = [reader.event() for _ in range(4)]
        assert [(event["type"], event["channel"], event["data"]) for event in seen] == [
            ("channel_message", channel, "named"),
            ("channel_message", second, {"text": "joined last"}),
            ("text", second, "bare text"),
            ("text", channel, "bare text again"),
        ]
        assert [*own, socket.event()] == seen


@pytest.mark.parametrize(
    "text", ["hello", "[1, 2]", '"quoted"', "null", " line\none", "∎ \x00 \x7f", "}", "\U0001f600"]
)
def test_bare_text_goes_to_everybody(server: Server, text: str) -> None:
    with Socket(server) as sender, Socket(server) as reader, Stream(server) as sse:
        sse.opened()
        sender.send(text)
        for reads in (sender, reader, sse):
            event = reads.event()  # type: ignore[attr-defined]
            assert (event["type"], event["channel"], event["data"]) == ("text", "$all", text)


def test_empty_text_is_text_too(server: Server) -> None:
    with Socket(server) as socket:
        socket.send("")
        socket.send("after")
        assert [socket.event()["data"], socket.event()["data"]] == ["", "after"]


def test_an_object_that_is_no_request_is_not_published(server: Server, channel: str) -> None:
    with Socket(server) as socket:
        socket.ask(type="subscribe", channel=channel)
        for message in (
            {"type": "mine", "channel": channel, "data": {"x": 1}},
            {"channel": channel, "data": 1},
        ):
            socket.send(message)
            assert "did you mean" in socket.answer()["message"]
        socket.ask(type="publish", event={"channel": channel, "type": "mine", "data": {"x": 1}})
        event = socket.event()
        assert (event["type"], event["data"]) == ("mine", {"x": 1})


def test_a_ping_is_answered(server: Server) -> None:
    with Socket(server) as socket:
        assert re.fullmatch(TIMESTAMP, socket.ask(type="ping")["timestamp"])
        assert re.fullmatch(TIMESTAMP, socket.ask(type="command", command="ping")["timestamp"])
        socket.send({"type": "ping"})
        assert socket.answer()["id"] is None
        assert socket.ws.ping().wait(PATIENCE)


@pytest.mark.parametrize("id", [0, -7, 2**53 - 1, "", "a-1", "x" * 64, "∎"])
def test_ids_come_back_as_they_were(server: Server, id: object) -> None:
    with Socket(server) as socket:
        socket.send({"type": "ping", "id": id})
        answer = socket.answer()
        assert (answer["type"], answer["id"]) == ("reply", id)
        socket.send({"type": "subscribe", "id": id})
        answer = socket.answer()
        assert (answer["type"], answer["id"], answer["code"]) == ("error", id, "invalid_event")


def test_answers_come_in_the_order_of_the_requests(server: Server, channel: str) -> None:
    with Socket(server) as socket:
        socket.ask(type="subscribe", channel=channel)
        for number in range(300):
            kind = ("ping", "unsubscribe", "publish")[number % 3]
            about = {
                "ping": {},
                "unsubscribe": {"channel": "elsewhere"},
                "publish": {"event": {"channel": channel, "data": number}},
            }
            socket.send({"type": kind, "id": number, **about[kind]})
        answers = [socket.answer() for _ in range(300)]
        assert [answer["id"] for answer in answers] == list(range(300))
        assert [socket.event()["data"] for _ in range(100)] == list(range(2, 300, 3))


def test_subscribing_again_loses_nothing(server: Server, channel: str) -> None:
    with Socket(server) as socket:
        socket.ask(type="subscribe", channel=channel)
        for number in range(100):
            socket.send({"type": "publish", "event": {"channel": channel, "data": number}})
            socket.send({"type": "subscribe", "channel": channel, "id": number})
        for number in range(100):
            assert socket.answer()["id"] == number
        socket.ask(type="publish", event={"channel": channel, "data": "last"})
        heard = []
        while (data := socket.event()["data"]) != "last":
            heard.append(data)
        assert heard == list(range(100))


def test_a_connection_is_addressed_by_its_id(server: Server) -> None:
    with Socket(server) as socket, Socket(server) as other:
        sent = publish(server, "/realtime/send", connection_id=socket.id, type="dm", data="you")
        assert sent["subscribers"] == 1
        publish(server, data="all")
        event = socket.event()
        assert (event["type"], event["data"], event["channel"]) == (
            "dm",
            "you",
            f"$conn:{socket.id}",
        )
        assert "id" not in event
        assert socket.event()["data"] == "all"
        assert other.event()["data"] == "all"


def test_a_close_is_answered_and_counted(server: Server) -> None:
    before = stats(server)["ended"].get("client_closed", 0)
    with Socket(server) as socket:
        socket.ws.close(1000, "bye")
        assert socket.ws.close_code == 1000
    until(lambda: stats(server)["ended"].get("client_closed", 0) == before + 1, "end of the client")


def test_heartbeats_come_as_messages_if_asked_for(beating_server: Server, way: str) -> None:
    with Socket(beating_server, "?heartbeat=event") as socket:
        assert socket.hello["data"]["heartbeat_seconds"] == 0.3
        for _ in range(2):
            beat = socket.heartbeat()
            assert re.fullmatch(TIMESTAMP, beat.pop("timestamp"))
            assert beat == {"type": HEARTBEAT, "data": None, "id": socket.hello["id"]}


def test_without_ping_frames_heartbeats_are_messages(beating_server: Server, way: str) -> None:
    with Socket(beating_server) as socket:
        if way == "taken over":
            # pings show up in no message: the connection outlives several of them, quietly
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    socket.ws.recv(timeout=0.4)
            socket.ask(type="ping")
        else:
            assert socket.heartbeat()["data"] is None
