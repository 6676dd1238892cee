"""Documents over REST: read, listed, written and removed, with an event for each change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from e2e.clients import Socket, Stream
from e2e.rest import Answer, call
from e2e.servers import Server
from e2e.tokens import KEY, bearer

PATH = "/realtime/documents"


def ask(server: Server, method: str, channel: str, key: str | None = None, **query: Any) -> Answer:
    headers = query.pop("headers", {})
    body = query.pop("body", None)
    named = {"channel": channel} | ({} if key is None else {"key": key}) | query
    content_type = "application/json" if method == "PUT" else None
    target = f"{PATH}?{urlencode(named, doseq=True)}"
    return call(server, method, target, body, content_type, headers=headers)


def put(server: Server, channel: str, key: str, value: Any, **query: Any) -> Answer:
    return ask(server, "PUT", channel, key, body=json.dumps(value).encode(), **query)


def test_a_change_is_kept_and_told(server: Server, channel: str) -> None:
    with Stream(server, channel=channel) as stream, Socket(server) as socket:
        stream.opened()
        socket.ask(type="subscribe", channel=channel)
        written = put(server, channel, "a/b?", {"on": True}, tag=["x", "y"])
        assert written.status == 200
        changed = stream.event()
        assert changed == socket.event()
        assert (changed["type"], changed["key"]) == ("document_changed", "a/b?")
        assert (changed["data"], changed["tags"]) == ({"on": True}, ["x", "y"])
        assert changed["version"] == written.json["version"]
        assert changed["id"] == written.json["id"]

        there = ask(server, "GET", channel, "a/b?")
        assert (there.status, there.json) == (200, {"on": True})
        assert there.headers["etag"] == written.headers["etag"]

        removed = ask(server, "DELETE", channel, "a/b?", type="gone")
        gone = stream.event()
        assert (gone["type"], gone["key"], gone["data"]) == ("gone", "a/b?", None)
        assert gone["version"] == removed.json["version"] > changed["version"]
        assert "etag" not in removed.headers
    for method in ("GET", "DELETE"):
        answer = ask(server, method, channel, "a/b?")
        assert (answer.status, answer.json["code"]) == (404, "not_found")


def test_no_update_is_lost(server: Server, channel: str) -> None:
    first = put(server, channel, "k", 1, headers={"If-None-Match": "*"})
    assert first.status == 200
    tag = first.headers["etag"]
    assert put(server, channel, "k", 2, headers={"If-Match": tag}).status == 200
    for stale in ({"If-Match": tag}, {"If-None-Match": "*"}, {"If-Match": '"other.1"'}):
        answer = put(server, channel, "k", 3, headers=stale)
        assert (answer.status, answer.json["code"]) == (412, "version_conflict"), stale
        assert answer.json["temporary"] is False
    assert ask(server, "DELETE", channel, "k", headers={"If-Match": tag}).status == 412
    assert ask(server, "GET", channel, "k").json == 2
    assert put(server, channel, "k", 4, headers={"If-Match": "*"}).status == 200
    assert put(server, channel, "new", 4, headers={"If-Match": "*"}).status == 412
    assert ask(server, "DELETE", channel, "k", headers={"If-Match": "*"}).status == 200
    events = call(server, "GET", f"/realtime/history?channel={channel}").json["events"]
    assert [event["data"] for event in events] == [1, 2, 4, None]


def test_a_reader_that_has_it_is_told_so(server: Server, channel: str) -> None:
    tag = put(server, channel, "k", 1).headers["etag"]
    for known in (tag, f"W/{tag}", f'"else", {tag}'):
        answer = ask(server, "GET", channel, "k", headers={"If-None-Match": known})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == tag
    put(server, channel, "k", 2)
    assert ask(server, "GET", channel, "k", headers={"If-None-Match": tag}).json == 2


def test_a_list_and_what_comes_after_it(server: Server, channel: str) -> None:
    for key in ("b", "a", "c"):
        put(server, channel, key, key.upper())
    page = ask(server, "GET", channel, limit=2).json
    assert [(d["key"], d["data"]) for d in page["documents"]] == [("a", "A"), ("b", "B")]
    assert page["more"] is True
    rest = ask(server, "GET", channel, limit=2, after="b").json
    assert [d["key"] for d in rest["documents"]] == ["c"]
    assert rest["more"] is False
    assert rest["documents"][0]["version"] > 0
    put(server, channel, "d", "D")
    with Stream(server, channel=channel, cursor=rest["id"]) as stream:
        stream.opened()
        assert stream.event()["key"] == "d"


def test_a_repeated_write_is_answered_as_the_first(server: Server, channel: str) -> None:
    headers = {"Idempotency-Key": f"{channel}-k", "If-None-Match": "*"}
    first = put(server, channel, "k", 1, headers=headers)
    again = put(server, channel, "k", 1, headers=headers)
    assert (again.status, again.json) == (200, first.json)
    assert again.headers["etag"] == first.headers["etag"]
    assert put(server, channel, "k", 2, headers=headers).status == 422


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"channel": ""}, 400, "bad_request"),
        ({"channel": "$all"}, 400, "invalid_channel"),
        ({"channel": "news*"}, 400, "invalid_channel"),
        ({"key": ""}, 400, "invalid_event"),
        ({"key": "x" * 256}, 400, "invalid_event"),
        ({"key": "a\nb"}, 400, "invalid_event"),
        ({"type": "a\nb"}, 400, "invalid_event"),
        ({"tag": "x" * 65}, 400, "invalid_event"),
        ({"body": b""}, 400, "bad_request"),
        ({"body": b"{"}, 400, "invalid_json"),
        ({"body": b"1 2"}, 400, "invalid_json"),
        ({"body": b'"\xff"'}, 400, "invalid_json"),
        ({"body": b"[" * 100 + b"]" * 100}, 400, "invalid_json"),
        ({"body": b'"' + b"x" * 70_000 + b'"'}, 413, "too_large"),
        ({"headers": {"If-Match": "abc"}}, 400, "bad_request"),
        ({"headers": {"If-Match": '"a.1", "a.2"'}}, 412, "version_conflict"),
        ({"headers": {"If-Match": '"x.' + "9" * 30 + '"'}}, 412, "version_conflict"),
        ({"headers": {"If-None-Match": "a.1"}}, 400, "bad_request"),
        ({"headers": {"If-None-Match": "*", "If-Match": "*"}}, 412, "version_conflict"),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "wrong_content_type"),
    ],
)
def test_what_is_wrong_changes_nothing(
    server: Server, channel: str, change: dict[str, Any], status: int, code: str
) -> None:
    asked = {"channel": channel, "key": "k", "body": b"1"} | change
    body, headers = asked.pop("body"), asked.pop("headers", {})
    target = f"{PATH}?{urlencode(asked)}"
    headers = {"Content-Type": "application/json"} | headers
    answer = call(server, "PUT", target, body, headers=headers)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert ask(server, "GET", channel).json["documents"] == []


@pytest.mark.parametrize("query", ["", "channel=a&limit=0", "channel=a&limit=1001", "channel=*"])
def test_a_wrong_list(server: Server, query: str) -> None:
    assert call(server, "GET", f"{PATH}?{query}").status == 400


def test_who_may_read_and_write(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    writer = bearer("w", publish=["docs:*"])
    reader = bearer("r", subscribe=["docs:*"])

    def status(method: str, channel: str, headers: dict[str, str]) -> int:
        body = b"1" if method == "PUT" else None
        return ask(server, method, channel, "k", body=body, headers=headers).status

    assert status("PUT", "docs:a", {}) == 401
    assert status("PUT", "docs:a", reader) == 403
    assert status("DELETE", "docs:a", reader) == 403
    assert status("PUT", "other:a", writer) == 403
    assert status("PUT", "docs:a", writer) == 200
    assert status("GET", "docs:a", writer) == 403
    assert status("GET", "docs:a", reader) == 200
    assert ask(server, "GET", "docs:a", headers=writer).status == 403
    page = ask(server, "GET", "docs:a", headers=reader).json
    assert page["documents"][0]["user"] == "w"
    assert status("DELETE", "docs:a", writer) == 200


def test_there_are_so_many_at_the_most(serve: Callable[..., Server]) -> None:
    server = serve("--max-documents", "1")
    assert put(server, "a", "k", 1).status == 200
    answer = put(server, "a", "l", 1)
    assert (answer.status, answer.json["code"]) == (507, "too_many_documents")
    assert put(server, "a", "k", 2).status == 200


def test_they_are_there_after_a_kill(serve: Callable[..., Server], tmp_path: Any) -> None:
    in_file = ("--engine", f"sqlite:///{tmp_path}/events.db")
    server = serve(*in_file)
    tag = put(server, "a", "k", 1).headers["etag"]
    server.process.kill()
    server.process.wait()
    server = serve(*in_file)
    there = ask(server, "GET", "a", "k")
    assert (there.json, there.headers["etag"]) == (1, tag)
    assert put(server, "a", "k", 2, headers={"If-Match": tag}).status == 200
