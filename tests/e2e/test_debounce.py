"""Events that come too fast, through real servers: on each way in, and over a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from e2e.clients import Socket, Stream
from e2e.rest import call, post, publish, stats
from e2e.servers import Server

TARGET = "/realtime/broadcast"
LONG = ("--event-debounce-ms", "3600000")


def send(server: Server, data: Any, **event: Any) -> Any:
    return publish(server, channel="a", key="k", data=data, **event)


def lines(server: Server, *events: dict[str, Any]) -> Any:
    body = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    return call(server, "POST", TARGET, body, "application/x-ndjson").json


def test_of_a_window_the_first_and_the_last_come(serve: Callable[..., Server]) -> None:
    server = serve("--event-debounce-ms", "100")
    with Stream(server, channel="a") as stream, Socket(server, "?channel=a") as socket:
        stream.opened()
        answer = post(server, TARGET, [{"channel": "a", "key": "k", "data": n} for n in range(4)])
        first, *others = answer.json["positions"]
        assert first["seq"] == 1
        assert others == [{"pending": True, "channel": "a", "subscribers": 2}] * 3
        events = stream.events(2)
        assert [event["data"] for event in events] == [0, 3]
        assert [socket.event(), socket.event()] == events
    assert stats(server)["merged"] == 2
    kept = call(server, "GET", "/realtime/history?channel=a").json["events"]
    assert [event["data"] for event in kept] == [0, 3]


def test_what_is_pending_is_answered_so_everywhere(serve: Callable[..., Server]) -> None:
    server = serve(*LONG)
    assert send(server, 0)["seq"] == 1
    assert send(server, 1) == {"pending": True, "channel": "a", "subscribers": 0}
    event = {"channel": "a", "key": "k", "data": 2}
    told = lines(server, event, {**event, "channel": "b"}, event)
    assert (told["published"], told["pending"], told["error"]) == (3, 2, None)
    assert told["first"] == told["last"] != None  # noqa: E711
    told = lines(server, event)
    assert (told["pending"], told["first"], told["last"]) == (1, None, None)
    with Socket(server) as socket:
        answer = socket.ask(type="publish", event={"channel": "a", "key": "k", "data": 3})
        assert answer == {"channel": "a", "pending": True}
        answer = socket.ask(
            type="publish", event={"channel": "a", "key": "k", "data": 4, "urgent": True}
        )
        assert answer["id"]
    answer = call(
        server, "PUT", "/realtime/documents?channel=a&key=d", b"1", "application/json"
    ).json
    assert "pending" not in answer
    answer = call(
        server, "PUT", "/realtime/documents?channel=a&key=d", b"2", "application/json"
    ).json
    assert (answer["pending"], answer["version"]) == (True, 2)


def test_an_urgent_event_has_the_last_word(serve: Callable[..., Server]) -> None:
    server = serve(*LONG)
    with Stream(server, channel="a") as stream:
        stream.opened()
        for n in range(3):
            send(server, n, type="ON")
        assert send(server, "stop", type="OFF", urgent=True)["seq"] == 2
        send(server, "end", type="other")
        assert [event["data"] for event in stream.events(3)] == [0, "stop", "end"]


def test_what_was_acknowledged_as_pending_comes_after_a_kill(
    serve: Callable[..., Server], tmp_path: Any
) -> None:
    in_file = ("--engine", f"sqlite:///{tmp_path}/events.db")
    server = serve(*in_file, *LONG)
    for n in range(3):
        last = send(server, n)
    assert last["pending"]
    server.process.kill()
    server.process.wait()
    server = serve(*in_file, *LONG)
    send(server, "new", type="other")
    kept = call(server, "GET", "/realtime/history?channel=a").json["events"]
    assert [event["data"] for event in kept] == [0, 2, "new"]


def test_each_namespace_has_its_window(serve: Callable[..., Server]) -> None:
    namespaces = json.dumps({"fast": {"debounce_ms": 0}, "slow": {"debounce_ms": 3_600_000}})
    server = serve("--namespaces", namespaces)
    for channel, pending in (("fast:a", False), ("slow:a", True), ("a", False)):
        publish(server, channel=channel, key="k", data=1)
        assert ("pending" in publish(server, channel=channel, key="k", data=2)) is pending
