"""Who gets in, what a token opens, and how long: over the wire, on each way to the client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from e2e.clients import Socket, Stream
from e2e.conftest import Servers
from e2e.raw import Wire
from e2e.rest import Answer, call, post, publish, stats, until
from e2e.servers import Server, start
from triocast.auth import LEEWAY_SECONDS

KEY = "a key of these tests alone, thirty-two bytes and more"
OTHER_KEY = "another key, which the server has never seen or heard of"
ADMIN = {"subscribe": ["*"], "publish": ["*", "$all", "$user:*", "$conn:*"], "admin": True}

LIFE_SECONDS = 3
"""How long a token lives whose end is looked at: expiry counts in whole seconds."""


def token(
    grant: dict[str, Any] | None = None, *, sub: str | None = None, seconds: float = 3600
) -> str:
    claims: dict[str, Any] = {"exp": int(time.time() + seconds) - LEEWAY_SECONDS}
    if grant is not None:
        claims["triocast"] = grant
    if sub is not None:
        claims["sub"] = sub
    return jwt.encode(claims, KEY, "HS256")


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def keyed(servers: Servers, way: str) -> Server:
    """A server that wants tokens."""
    return servers.get(way, token_key=KEY)


def refused_socket(server: Server, query: str = "", **options: Any) -> Answer:
    """Open a WebSocket that must be refused; return what was answered."""
    with pytest.raises(InvalidStatus) as refused, Socket(server, query, **options):
        pass
    response = refused.value.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return Answer(response.status_code, headers, bytes(response.body or b""))


def check_unauthorized(answer: Answer) -> str:
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json["code"] == "unauthorized"
    assert answer.json["temporary"] is False
    return str(answer.json["message"])


def everywhere(
    server: Server, query: str = "", headers: dict[str, str] | None = None
) -> list[Answer]:
    """What each entry says to a caller that none of them lets in."""
    return [
        call(server, "GET", f"/realtime/events{query}", headers=headers),
        call(
            server,
            "GET",
            f"/realtime/events{query}",
            headers={"Accept": "text/event-stream", **(headers or {})},
        ),
        call(server, "GET", f"/realtime/stats{query}", headers=headers),
        post(server, f"/realtime/broadcast{query}", {"data": 1}, headers=headers),
        post(server, f"/realtime/send{query}", {"channel": "a", "data": 1}, headers=headers),
        refused_socket(server, query, headers=headers),
    ]


# Getting in


def test_nobody_comes_in_without_a_token(keyed: Server) -> None:
    admin = bearer(token(ADMIN))
    before = stats(keyed, headers=admin)["seq"]
    for answer in everywhere(keyed):
        check_unauthorized(answer)
    assert stats(keyed, headers=admin)["seq"] == before
    assert call(keyed, "GET", "/healthz").status == 200


def _signed(claims: dict[str, Any], key: str = KEY, algorithm: str = "HS256") -> str:
    return f"Bearer {jwt.encode(claims, key, algorithm)}"


SOON = 4_102_444_800
EVERYTHING = {"exp": SOON, "triocast": ADMIN}
BAD: dict[str, str] = {
    "expired": _signed({**EVERYTHING, "exp": 1_000_000_000}),
    "signed by somebody else": _signed(EVERYTHING, OTHER_KEY),
    "another algorithm of the same key": _signed(EVERYTHING, KEY + "x" * 64, "HS512"),
    "not signed": f"Bearer {jwt.encode(EVERYTHING, None, 'none')}",
    "without exp": _signed({"triocast": ADMIN}),
    "not valid yet": _signed({**EVERYTHING, "nbf": SOON - 1}),
    "for another audience": _signed({**EVERYTHING, "aud": "another server"}),
    "with a grant of an unknown kind": _signed({"exp": SOON, "triocast": {"all": True}}),
    "with a grant that is no list": _signed({"exp": SOON, "triocast": {"subscribe": "*"}}),
    "with a user of two lines": _signed({**EVERYTHING, "sub": "a\nb"}),
    "no token at all": "Bearer not.a.token",
    "empty": "Bearer",
    "of another scheme": "Basic YTpi",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_opens_nothing(keyed: Server, name: str) -> None:
    for answer in everywhere(keyed, headers={"Authorization": BAD[name]}):
        message = check_unauthorized(answer)
        assert name == "empty" or BAD[name].split()[-1] not in message
        if name == "expired":
            assert "expired" in message


def test_a_changed_token_opens_nothing(keyed: Server) -> None:
    head, body, signature = token({"subscribe": ["news:*"]}, sub="alice").split(".")
    other_body = token(ADMIN, sub="alice").split(".")[1]
    for text in (f"{head}.{other_body}.{signature}", f"{head}.{body}.", f"{head}.{body}"):
        for answer in everywhere(keyed, headers=bearer(text)):
            check_unauthorized(answer)


def test_a_token_of_the_command_line_opens_what_it_says(
    keyed: Server, channel: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "triocast", "token", "--sub", "alice"]
    command += ["--subscribe", "room:*", "--publish", channel, "--ttl", "5m"]
    made = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        env={**os.environ, "TRIOCAST_TOKEN_KEY": KEY},
    )
    headers = bearer(made.stdout.strip())
    with (
        Stream(keyed, channel=channel, headers=headers) as stream,
        Socket(keyed, headers=headers) as socket,
    ):
        stream.opened()
        assert socket.hello["data"]["user"] == "alice"
        socket.ask(type="subscribe", channel="room:*")
        publish_as(keyed, headers, channel=channel, data="mine")
        for client in (stream, socket):
            event = client.event()
            assert (event["data"], event["user"]) == ("mine", "alice")
    assert call(keyed, "GET", "/realtime/stats", headers=headers).status == 403


def publish_as(server: Server, headers: dict[str, str], **event: Any) -> dict[str, Any]:
    answer = post(server, "/realtime/send", event, headers=headers)
    assert answer.status == 200, answer
    return dict(answer.json)


def test_an_audience_has_to_be_named(servers: Servers, way: str) -> None:
    server = servers.get(way, token_key=KEY, token_audience="triocast.test")
    for claims in (EVERYTHING, {**EVERYTHING, "aud": "another"}):
        headers = {"Authorization": _signed(claims)}
        check_unauthorized(call(server, "GET", "/realtime/stats", headers=headers))
    stats(server, headers={"Authorization": _signed({**EVERYTHING, "aud": "triocast.test"})})


# Tokens in the query


@pytest.mark.parametrize("takeover", ["--takeover", "--no-takeover"])
@pytest.mark.parametrize("format", ["text", "json"])
def test_no_token_in_the_query_where_it_is_not_switched_on(
    serve: Callable[..., Server], takeover: str, format: str
) -> None:
    server = serve(
        takeover,
        "--log-level=debug",
        f"--log-format={format}",
        environment={"TRIOCAST_TOKEN_KEY": KEY},
    )
    mine = token(ADMIN, sub="alice")
    for answer in everywhere(server, f"?token={mine}"):
        assert "token_in_query" in check_unauthorized(answer)
    check_log(server, mine)


@pytest.mark.parametrize("takeover", ["--takeover", "--no-takeover"])
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_token_in_the_query_is_never_logged(
    serve: Callable[..., Server], takeover: str, format: str
) -> None:
    server = serve(
        takeover,
        "--log-level=debug",
        f"--log-format={format}",
        "--token-in-query",
        environment={"TRIOCAST_TOKEN_KEY": KEY},
    )
    mine, old = token(ADMIN, sub="alice"), token(ADMIN, sub="alice", seconds=-60)
    with Stream(server, channel="a", token=mine) as stream, Socket(server, f"?token={mine}") as ws:
        stream.opened()
        ws.ask(type="subscribe", channel="a")
        answer = post(server, f"/realtime/broadcast?token={mine}", {"channel": "a", "data": 1})
        assert answer.status == 200
        assert stream.event()["user"] == ws.event()["user"] == "alice"
    for answer in everywhere(server, f"?token={old}"):
        check_unauthorized(answer)
    assert call(server, "GET", f"/realtime/events?channel=a%20b&token={mine}").status == 400
    assert call(server, "GET", f"/nothing?token={mine}").status == 404
    with Wire(server.connect()) as wire:  # what the parser refuses, too
        wire.send(f"GET /realtime/events?token={mine} HTTP/1.1", "Host: a", "Host: b")
        wire.end()
    with Wire(server.connect()) as wire:
        wire.send(f"GET /realtime/events?token={mine} HTTP/1.1", "no header at all")
        wire.end()
    check_log(server, mine, old)


def check_log(server: Server, *tokens: str) -> None:
    """What the server said until its very end has no part of a token, and not the key."""
    if "--takeover" in server.process.args:  # type: ignore[operator]
        until(
            lambda: (
                server.stderr.read_text().count("close id=")
                == server.stderr.read_text().count("open id=")
            ),
            "line for each end",
        )
    assert server.stop() == 0
    log = server.stderr.read_text() + server.stdout.read_text()
    assert KEY not in log
    assert "Traceback" not in log
    for text in tokens:
        for part in (text, text.split(".")[1], text.split(".")[2]):
            assert part not in log


# What a token opens


def test_events_for_a_user_reach_no_one_else(keyed: Server, channel: str) -> None:
    admin = bearer(token(ADMIN, sub="root"))
    grant = {"subscribe": ["*"]}
    alice, bob, nobody = (
        bearer(token(grant, sub="alice")),
        bearer(token(grant, sub="bob")),
        bearer(token(grant)),
    )
    with (
        Stream(keyed, headers=alice) as first,
        Stream(keyed, channel="*", headers=alice) as second,
        Socket(keyed, headers=alice) as third,
        Stream(keyed, channel="*", headers=bob) as other,
        Socket(keyed, headers=bob) as other_socket,
        Stream(keyed, channel="*", headers=nobody) as unnamed,
        Stream(keyed, channel="*", headers=admin) as root,
    ):
        other_socket.ask(type="subscribe", channel="*")
        for stream in (first, second, other, unnamed, root):
            stream.opened()
        assert publish_as(keyed, admin, user_id="alice", data="for alice")["subscribers"] == 3
        assert publish_as(keyed, admin, user_id="alic", data="for nobody")["subscribers"] == 0
        answer = post(keyed, "/realtime/broadcast", {"data": "for all"}, headers=admin)
        assert answer.status == 200
        for client in (first, second, third):
            event = client.event()
            assert (event["data"], event["channel"]) == ("for alice", "$user:alice")
            assert client.event()["data"] == "for all"
        for client in (other, other_socket, unnamed, root):
            assert client.event()["data"] == "for all"


@pytest.mark.parametrize("pattern", ["*", "{}*", "{}:*"])
def test_a_user_with_a_name_like_a_pattern_is_one_user(
    keyed: Server, channel: str, pattern: str
) -> None:
    user, other = pattern.format(channel), f"{channel}:bob"
    own, admin = bearer(token(ADMIN, sub=user)), bearer(token(ADMIN))
    with (
        Stream(keyed, headers=own) as stream,
        Socket(keyed, headers=own) as socket,
        Socket(keyed, headers=bearer(token(ADMIN, sub=other))) as bob,
    ):
        stream.opened()
        sent = {"user_id": user, "data": "for one"}
        answer = post(keyed, "/realtime/send", sent, headers=admin)
        assert answer.json["subscribers"] == 2
        assert stream.event()["data"] == socket.event()["data"] == "for one"
        answer = post(keyed, "/realtime/send", {"user_id": other, "data": "b"}, headers=admin)
        assert answer.json["subscribers"] == 1
        assert bob.event()["data"] == "b"
        post(keyed, "/realtime/broadcast", {"data": "for all"}, headers=admin)
        assert stream.event()["data"] == socket.event()["data"] == "for all"


@pytest.mark.parametrize("query", ["?chanel=a", "?channel[]=a", "?channels=a"])
def test_a_misspelt_name_in_a_query_is_refused_on_every_way(keyed: Server, query: str) -> None:
    headers = bearer(token(ADMIN))
    for path in ("/realtime/events", "/realtime/poll", "/realtime/history"):
        answer = call(keyed, "GET", path + query, headers=headers)
        assert (answer.status, answer.json["code"]) == (400, "unknown_parameter")
        assert "did you mean 'channel'?" in answer.json["message"]
    answer = post(keyed, f"/realtime/broadcast{query}", {"data": 1}, headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "unknown_parameter")
    answer = refused_socket(keyed, query, headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "unknown_parameter")


def test_nobody_subscribes_to_a_users_channel(keyed: Server) -> None:
    headers = bearer(token(ADMIN, sub="bob"))
    for name in ("$user:alice", "$user:bob", "$user:*", "$*"):
        answer = call(keyed, "GET", f"/realtime/events?channel={name}", headers=headers)
        assert (answer.status, answer.json["code"]) == (400, "invalid_channel")
    with Socket(keyed, headers=headers) as socket:
        refused = socket.refused(type="subscribe", channel="$user:alice")
        assert refused["code"] == "invalid_channel"


FORBIDDEN = ["secret", "news:*", "new*", "*", "newsx:a", "default:secret"]


def test_channels_beyond_the_grant_are_forbidden(keyed: Server) -> None:
    headers = bearer(token({"subscribe": ["news:a*", "open"], "publish": ["chat:*"]}, sub="alice"))
    with Socket(keyed, headers=headers) as socket:
        for name in FORBIDDEN:
            answer = call(
                keyed, "GET", f"/realtime/events?channel=open&channel={name}", headers=headers
            )
            assert (answer.status, answer.json["code"]) == (403, "forbidden"), name
            assert answer.json["temporary"] is False
            assert socket.refused(type="subscribe", channel=name)["code"] == "forbidden", name
            refused = socket.refused(type="subscribe", channels=["open", name])
            assert refused["code"] == "forbidden", name
        # A refused request subscribed to nothing at all.
        admin = bearer(token(ADMIN))
        assert publish_as(keyed, admin, channel="open", data=1)["subscribers"] == 0
        for name in ("news:a", "news:abc", "news:ab*", "open", "default:open"):
            socket.ask(type="subscribe", channel=name)
            with Stream(keyed, channel=name, headers=headers) as stream:
                stream.opened()


def test_publishing_beyond_the_grant_is_forbidden(keyed: Server) -> None:
    headers = bearer(token({"subscribe": ["*"], "publish": ["chat:*", "$user:bob"]}, sub="alice"))
    admin = bearer(token(ADMIN))
    with Socket(keyed, headers=headers) as socket:
        before = stats(keyed, headers=admin)["seq"]
        bad = [
            ("broadcast", {"data": 1}),
            ("broadcast", {"channel": "news:a", "data": 1}),
            ("send", {"channel": "news:a", "data": 1}),
            ("send", {"user_id": "alice", "data": 1}),
            ("send", {"user_id": "bobby", "data": 1}),
            ("send", {"connection_id": socket.id, "data": 1}),
            ("broadcast", [{"channel": "chat:a", "data": 1}, {"channel": "news:a", "data": 1}]),
        ]
        for target, event in bad:
            answer = post(keyed, f"/realtime/{target}", event, headers=headers)
            assert (answer.status, answer.json["code"]) == (403, "forbidden"), event
        for request in (
            {"type": "publish", "event": {"data": 1}},
            {"type": "publish", "event": {"channel": "news:a", "data": 1}},
            {"type": "channel_message", "channel": "news:a", "message": 1},
        ):
            assert socket.refused(**request)["code"] == "forbidden", request
        socket.send("a text that is no object")
        assert socket.answer()["code"] == "forbidden"
        assert stats(keyed, headers=admin)["seq"] == before
        socket.ask(type="publish", event={"channel": "chat:a", "data": 1})
        publish_as(keyed, headers, user_id="bob", data=1)
        assert stats(keyed, headers=admin)["seq"] > before


def test_the_numbers_are_for_administrators(keyed: Server) -> None:
    many = {**ADMIN, "admin": False}
    for grant in (many, {"subscribe": ["*"]}, None):
        answer = call(keyed, "GET", "/realtime/stats", headers=bearer(token(grant, sub="root")))
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
    only = bearer(token({"admin": True}))
    assert stats(keyed, headers=only)["max_connections"] == 10_000
    refused = call(keyed, "GET", "/realtime/events?channel=a", headers=only)
    assert refused.status == 403


# The end of a token


def test_a_stream_ends_with_its_token(keyed: Server, channel: str) -> None:
    admin = bearer(token(ADMIN))
    before = stats(keyed, headers=admin)["ended"].get("grant_ended", 0)
    short = token({"subscribe": [channel]}, sub="alice", seconds=LIFE_SECONDS)
    with (
        Stream(keyed, channel=channel, headers=bearer(short)) as stream,
        Stream(keyed, channel=channel, headers=admin) as long,
    ):
        stream.opened()
        long.opened()
        publish_as(keyed, admin, channel=channel, data="before")
        assert stream.event()["data"] == "before"
        error = stream.event()
        assert error["type"] == "ERROR"
        assert error["data"]["code"] == "unauthorized"
        assert error["data"]["temporary"] is False
        assert stream.block() is None
        assert not stream.is_broken, "it should stay away until it has another token"
        until(
            lambda: stats(keyed, headers=admin)["ended"].get("grant_ended", 0) == before + 1,
            "end of the stream",
        )
        assert publish_as(keyed, admin, channel=channel, data="after")["subscribers"] == 1
        assert [event["data"] for event in long.events(2)] == ["before", "after"]
    for answer in everywhere(keyed, headers=bearer(short)):
        assert "expired" in check_unauthorized(answer)


def test_a_websocket_ends_with_its_token(keyed: Server, channel: str) -> None:
    admin = bearer(token(ADMIN))
    short = token({"subscribe": [channel]}, sub="alice", seconds=LIFE_SECONDS)
    with Socket(keyed, headers=bearer(short)) as socket:
        socket.ask(type="subscribe", channel=channel)
        publish_as(keyed, admin, channel=channel, data="before")
        assert socket.event()["data"] == "before"
        with pytest.raises(ConnectionClosed) as closed:
            socket.event()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4500
    assert publish_as(keyed, admin, channel=channel, data="after")["subscribers"] == 0


# Without tokens


FOREIGN: dict[str, dict[str, str]] = {
    "another name": {"Host": "evil.example"},
    "another name and a port": {"Host": "evil.example:8000"},
    "a name that begins like ours": {"Host": "localhost.evil.example"},
    "an address of the network": {"Host": "192.168.0.10"},
    "no name": {"Host": ""},
    "a proxy": {"X-Forwarded-For": "203.0.113.9"},
    "a proxy of the standard": {"Forwarded": "for=203.0.113.9"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_anonymous_clients_from_elsewhere_are_refused(server: Server, name: str) -> None:
    fields = {"Host": server.authority, **FOREIGN[name]}
    lines = [f"{field}: {value}" for field, value in fields.items()]
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    upgrade += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    body = json.dumps({"data": 1}).encode()
    json_body = ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    before = stats(server)["seq"]
    for request, more, rest in (
        ("GET /realtime/events", [], b""),
        ("GET /realtime/stats", [], b""),
        ("GET /realtime/ws", upgrade, b""),
        ("POST /realtime/broadcast", json_body, body),
    ):
        with Wire(server.connect()) as wire:
            wire.send(f"{request} HTTP/1.1", *lines, *more, body=rest)
            data = wire.until(b"}")
            assert data.split(b" ", 2)[1] in (b"401", b"403"), data
            assert b'"code":"unauthorized"' in data or b'"code":"forbidden"' in data
    assert stats(server)["seq"] == before


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:80", "[::1]:8000", "LocalHost:1", "[::1]"]
)
def test_anonymous_clients_of_this_machine_come_in(server: Server, host: str) -> None:
    with Stream(server, headers={"Host": host}) as stream:
        stream.opened()
    stats(server, headers={"Host": host})


@pytest.mark.parametrize("header", ["Basic c2l0ZTpwdw==", "Bearer", f"Bearer {token(ADMIN)}"])
def test_a_server_without_a_key_looks_at_no_credentials(server: Server, header: str) -> None:
    headers = {"Authorization": header}
    stats(server, headers=headers)
    assert call(server, "GET", "/realtime/stats?token=x", headers=headers).status == 200
    with Stream(server, headers=headers) as stream:
        stream.opened()
    with Socket(server, headers=headers):
        pass


def test_insecure_anonymous_lets_everybody_in(servers: Servers, way: str) -> None:
    server = servers.get(way, insecure_anonymous="true")
    headers = {"Host": "anything.example", "X-Forwarded-For": "203.0.113.9"}
    with Stream(server, headers=headers) as stream:
        stream.opened()
        publish(server, data=1)
        assert stream.event()["data"] == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_nobody_listens_to_the_network_without_a_key(host: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "triocast", "serve", "--host", host, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("TRIOCAST_")},
    )
    assert done.returncode == 2
    for word in ("host", host, "--host", "token_key", "insecure_anonymous"):
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "listens" not in done.stdout


def test_a_short_key_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="exit code 2") as failed:
        start(tmp_path, environment={"TRIOCAST_TOKEN_KEY": "too-short-a-key"})
    assert "TRIOCAST_TOKEN_KEY" in str(failed.value)
    assert "too-short-a-key" not in str(failed.value)
