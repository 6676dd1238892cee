"""Publishing again under the same key: over REST, NDJSON and WebSocket, and over a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from e2e.clients import Socket, Stream
from e2e.rest import Answer, call, publish
from e2e.servers import Server
from e2e.tokens import KEY, bearer

TARGET = "/realtime/broadcast"


def post(server: Server, value: Any, key: str | None = "k1", **headers: str) -> Answer:
    named = {} if key is None else {"Idempotency-Key": key}
    body = json.dumps(value).encode()
    return call(server, "POST", TARGET, body, "application/json", headers=named | headers)


def kept(server: Server, channel: str) -> list[Any]:
    page = call(server, "GET", f"/realtime/history?channel={channel}").json
    return [event["data"] for event in page["events"]]


def test_the_same_request_gets_the_first_reply(server: Server, channel: str) -> None:
    event = {"channel": channel, "data": 1}
    key = f"{channel}-1"
    with Stream(server, channel=channel) as stream:
        stream.opened()
        first = post(server, event, key).json
        assert post(server, event, key).json == first
        post(server, {"channel": channel, "data": 2}, None)
        assert [event["data"] for event in stream.events(2)] == [1, 2]
    assert kept(server, channel) == [1, 2]


def test_another_body_under_the_same_key_is_refused(server: Server, channel: str) -> None:
    key = f"{channel}-1"
    assert post(server, {"channel": channel, "data": 1}, key).status == 200
    answer = post(server, {"channel": channel, "data": 2}, key)
    assert (answer.status, answer.json["code"]) == (422, "idempotency_conflict")
    assert answer.json["temporary"] is False
    assert kept(server, channel) == [1]


def test_an_array_is_one_request(server: Server, channel: str) -> None:
    events = [{"channel": channel, "data": n} for n in range(3)]
    first = post(server, events, channel).json
    assert post(server, events, channel).json == first
    assert post(server, events[:2], channel).status == 422
    assert post(server, [*events, events[0]], channel).status == 422
    assert kept(server, channel) == [0, 1, 2]


def test_lines_have_keys_of_their_own(server: Server, channel: str) -> None:
    def line(n: int, data: Any = None) -> bytes:
        key = f"{channel}-{n}"
        event = {"channel": channel, "data": n if data is None else data, "idempotency_key": key}
        return json.dumps(event).encode() + b"\n"

    def send(*lines: bytes) -> Any:
        return call(server, "POST", TARGET, b"".join(lines), "application/x-ndjson").json

    first = send(line(1), line(2))
    assert first["published"] == 2
    again = send(line(1), line(2), line(3))
    assert (again["published"], again["first"]) == (3, first["first"])
    stopped = send(line(4), line(1, "other"), line(5))
    assert (stopped["published"], stopped["error"]["line"]) == (1, 2)
    assert stopped["error"]["code"] == "idempotency_conflict"
    assert kept(server, channel) == [1, 2, 3, 4]


def test_a_websocket_is_told_for_each(server: Server, channel: str) -> None:
    with Socket(server) as socket:
        for id, (key, data) in enumerate([("a", 1), ("a", 1), ("a", 2), ("b", 3)]):
            key = f"{channel}-{key}"
            event = {
                "type": "publish",
                "event": {"channel": channel, "data": data, "idempotency_key": key},
            }
            socket.send({**event, "id": id})
        answers = [socket.answer() for _ in range(4)]
    assert [answer["id"] for answer in answers] == [0, 1, 2, 3]
    assert [answer["type"] for answer in answers] == ["reply", "reply", "error", "reply"]
    assert answers[0]["data"] == answers[1]["data"]
    assert answers[2]["code"] == "idempotency_conflict"
    assert kept(server, channel) == [1, 3]


@pytest.mark.parametrize("place", [{"channel": True}, {}, {"user_id": "ann"}])
def test_the_same_words_are_the_same_event_over_rest_and_websocket(
    server: Server, channel: str, place: dict[str, object]
) -> None:
    named = {name: channel if value is True else value for name, value in place.items()}
    path = "/realtime/send" if "user_id" in named else "/realtime/broadcast"
    body = {"data": {"x": 1}, "type": "E", "tags": ["t"], "key": "k", **named}
    with Socket(server) as socket:
        for first in ("rest", "websocket"):
            once = {"idempotency_key": f"{channel}-{first}"}
            answers = {}
            for way in (first, "rest", "websocket"):
                if way == "rest":
                    answers[way] = publish(server, path, **body, **once)["id"]
                else:
                    answers[way] = socket.ask(type="publish", event=body | once)["id"]
            assert len(set(answers.values())) == 1
            socket.send({"type": "publish", "id": 1, "event": body | once | {"urgent": True}})
            assert socket.answer()["code"] == "idempotency_conflict"


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none(server: Server, channel: str, key: str) -> None:
    answer = post(server, {"channel": channel, "data": 1}, key)
    assert (answer.status, answer.json["code"]) == (400, "invalid_event")
    both = post(server, {"channel": channel, "data": 1, "idempotency_key": "a"}, "b")
    assert (both.status, both.json["code"]) == (400, "invalid_event")


def test_each_publisher_has_keys_of_its_own(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    places = []
    for user in ("ann", "bob", "ann"):
        answer = post(server, {"channel": "a", "data": 1}, **bearer(user))
        places.append(answer.json["seq"])
    assert places == [1, 2, 1]


def test_a_key_is_remembered_over_a_kill(serve: Callable[..., Server], tmp_path: Any) -> None:
    in_file = ("--engine", f"sqlite:///{tmp_path}/events.db")
    server = serve(*in_file)
    first = post(server, {"channel": "a", "data": 1}).json
    server.process.kill()
    server.process.wait()
    server = serve(*in_file)
    again = post(server, {"channel": "a", "data": 1}).json
    assert again == first
    assert post(server, {"channel": "a", "data": 2}).status == 422
    assert kept(server, "a") == [1]
