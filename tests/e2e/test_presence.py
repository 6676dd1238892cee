"""Who is on a channel, as clients of every transport see it, and over a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from e2e.clients import Socket, Stream
from e2e.conftest import Servers
from e2e.rest import call, until
from e2e.servers import Server
from e2e.tokens import KEY, bearer, token

PATH = "/realtime/presence"
NAMESPACES = json.dumps({"room": {"presence": True}})
GRACE = ("--namespaces", NAMESPACES, "--presence-grace-seconds", "0.2")


@pytest.fixture
def server(servers: Servers, way: str) -> Server:
    return servers.get(
        way,
        namespaces=NAMESPACES,
        presence_grace_seconds="0.2",
        token_key=KEY,
        token_in_query="true",
    )


def members(server: Server, channel: str, **query: Any) -> Any:
    fields = "".join(f"&{name}={value}" for name, value in query.items())
    answer = call(server, "GET", f"{PATH}?channel={channel}{fields}", headers=bearer("looker"))
    assert answer.status == 200, answer
    return answer.json


def users(server: Server, channel: str) -> list[str | None]:
    return [member["user"] for member in members(server, channel)["members"]]


def test_those_who_come_and_go_are_told_of(server: Server, channel: str) -> None:
    there = f"$presence:{channel}"
    with (
        Stream(server, channel=there, token=token("ann")) as stream,
        Socket(server, f"?token={token('bob')}") as socket,
    ):
        stream.opened()
        socket.ask(type="subscribe", channel=there)
        with Stream(server, channel=channel, token=token("carl")) as carl:
            carl.opened()
            joined = stream.event()
            assert joined == socket.event()
            assert (joined["type"], joined["key"]) == ("presence_join", "user:carl")
            assert joined["data"]["user"] == "carl"
            assert joined["channel"] == there
            answer = socket.ask(type="presence", channel=channel)
            (member,) = answer["members"]
            assert (member["user"], member["version"]) == ("carl", joined["version"])
            assert (answer["count"], answer["connections"]) == (1, 1)
            assert answer["version"] >= member["version"]
            assert members(server, channel)["members"] == [member]
        left = stream.event()
        assert left == socket.event()
        assert (left["type"], left["key"]) == ("presence_leave", "user:carl")
        assert left["version"] > joined["version"]
        assert users(server, channel) == []


def test_a_list_and_the_changes_behind_it(server: Server, channel: str) -> None:
    with Socket(server, f"?token={token('ann')}&channel={channel}"):
        until(lambda: users(server, channel) == ["ann"], "ann")
        page = members(server, channel)
        with Socket(server, f"?token={token('bob')}&channel={channel}"):
            until(lambda: users(server, channel) == ["ann", "bob"], "bob")
            query = {"channel": f"$presence:{channel}", "cursor": page["id"]}
            with Stream(server, **query, token=token("looker")) as stream:
                stream.opened()
                assert stream.event()["key"] == "user:bob"
            first = members(server, channel, limit=1)
            assert ([m["user"] for m in first["members"]], first["more"]) == (["ann"], True)
            assert users(server, channel) == ["ann", "bob"]
            rest = members(server, channel, limit=1, after="user:ann")
            assert ([m["user"] for m in rest["members"]], rest["more"]) == (["bob"], False)


def test_a_poll_is_there_too(server: Server, channel: str) -> None:
    with Stream(server, channel=f"$presence:{channel}", token=token("ann")) as stream:
        stream.opened()
        poll = f"/realtime/poll?channel={channel}&token={token('bob')}"
        cursor = call(server, "GET", poll).json["cursor"]
        call(server, "GET", f"{poll}&cursor={cursor}&wait=0.5")
        kinds = [stream.event()["type"], stream.event()["type"]]
    assert kinds == ["presence_join", "presence_leave"]


def test_who_may_know(server: Server, channel: str) -> None:
    other = bearer("x", subscribe=["other:*"])
    answer = call(server, "GET", f"{PATH}?channel={channel}", headers=other)
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert call(server, "GET", f"{PATH}?channel={channel}").status == 401
    with Socket(server, f"?token={token('x', subscribe=['other:*'])}") as socket:
        assert socket.refused(type="presence", channel=channel)["code"] == "forbidden"
        refused = socket.refused(type="subscribe", channel=f"$presence:{channel}")
        assert refused["code"] == "forbidden"
    nobody_can = bearer("y")
    event = {"channel": f"$presence:{channel}", "data": 1}
    body = json.dumps(event).encode()
    answer = call(
        server, "POST", "/realtime/broadcast", body, "application/json", headers=nobody_can
    )
    assert (answer.status, answer.json["code"]) == (400, "invalid_channel")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (f"{PATH}", 400, "bad_request"),
        (f"{PATH}?channel=$all", 400, "invalid_channel"),
        (f"{PATH}?channel=room:*", 400, "invalid_channel"),
        (f"{PATH}?channel=room:a&limit=0", 400, "bad_request"),
        (f"{PATH}?channel=plain", 404, "disabled"),
        ("/realtime/poll?channel=$presence:plain", 404, "disabled"),
        ("/realtime/poll?channel=$presence:room:*", 400, "invalid_channel"),
        ("/realtime/poll?channel=$presence:$all", 400, "invalid_channel"),
        ("/realtime/poll?channel=$presence:", 400, "invalid_channel"),
    ],
)
def test_what_cannot_be_asked(server: Server, target: str, status: int, code: str) -> None:
    answer = call(server, "GET", target, headers=bearer("x"))
    assert (answer.status, answer.json["code"]) == (status, code)


def test_after_a_kill_nobody_is_a_ghost(serve: Callable[..., Server], tmp_path: Any) -> None:
    options = (*GRACE, "--engine", f"sqlite:///{tmp_path}/events.db", "--token-key", KEY)
    server = serve(*options)
    headers = {user: bearer(user) for user in ("ann", "bob")}
    with (
        Socket(server, "?channel=room:a", headers=headers["ann"]),
        Socket(server, "?channel=room:a", headers=headers["bob"]),
    ):
        until(lambda: users(server, "room:a") == ["ann", "bob"], "ann and bob")
        page = members(server, "room:a")
        server.process.kill()
        server.process.wait()
    server = serve(*options)
    # Both may be about to come back, so both are there for now.
    assert users(server, "room:a") == ["ann", "bob"]
    query = {"channel": "$presence:room:a", "cursor": page["id"]}
    with (
        Socket(server, "?channel=room:a", headers=headers["ann"]),
        Socket(server, "?channel=room:a", headers=bearer("carl")),
        Stream(server, headers=bearer("looker"), **query) as stream,
    ):
        stream.opened()
        joined = stream.event()
        assert (joined["type"], joined["key"]) == ("presence_join", "user:carl")
        assert joined["version"] > page["version"]
