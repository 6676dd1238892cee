"""Behind nginx: with the defaults of its `proxy_pass`, and with what its manual advises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest

from e2e.clients import Socket, Stream
from e2e.conftest import Servers
from e2e.nginx import nginx_before
from e2e.rest import Upload, call, post, stats, until
from e2e.servers import Server

pytestmark = pytest.mark.once

KEY = "a key of this test's own, thirty-two bytes and more"
EVERYTHING = {"subscribe": ["*"], "publish": ["*", "$all", "$user:*", "$conn:*"], "admin": True}
TOKEN = jwt.encode({"exp": 4_102_444_800, "triocast": EVERYTHING}, KEY, "HS256")
BEARER = {"Authorization": f"Bearer {TOKEN}"}

DEFAULTS = ""
ADVISED = """
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_read_timeout 1h;
            proxy_request_buffering off;
"""
UPGRADES = """
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
"""


@pytest.fixture
def server(servers: Servers) -> Server:
    """A proxy makes every caller look local, so callers bring tokens."""
    return servers.get("taken over", token_key=KEY, heartbeat_seconds="1")


@pytest.fixture(params=[DEFAULTS, ADVISED], ids=["defaults", "advised"])
def front(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Server]:
    with nginx_before(server, tmp_path / "nginx", request.param) as front:
        yield front


def test_events_come_through_at_once(
    server: Server, front: Server, channel: str, request: pytest.FixtureRequest
) -> None:
    with Stream(front, channel=channel, headers=BEARER) as stream:
        stream.opened()
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"].endswith("must-revalidate, no-transform")
        assert stats(server, headers=BEARER)["taken_over"] == 1
        for number in range(20):
            # each on its own: nothing may wait in a buffer for the next
            event = {"channel": channel, "data": number}
            answer = post(front, "/realtime/broadcast", event, headers=BEARER)
            assert answer.json["subscribers"] == 1
            assert stream.event()["data"] == number
    until(lambda: stats(server, headers=BEARER)["sse_count"] == 0, "end behind the proxy")


@pytest.mark.parametrize("settings", [DEFAULTS, ADVISED], ids=["defaults", "advised"])
def test_the_end_of_a_drain_comes_through_as_a_broken_response(
    serve: Callable[..., Server], tmp_path: Path, settings: str
) -> None:
    """Some clients never come back after a whole one. By default nginx speaks HTTP/1.0 to us."""
    server = serve("--token-key", KEY)
    with (
        nginx_before(server, tmp_path / "nginx", settings) as front,
        Stream(front, headers=BEARER) as stream,
    ):
        stream.opened()
        server.process.terminate()
        last = stream.block()
        assert last is not None
        assert last.data is not None
        assert '"shutting_down"' in last.data
        assert stream.block() is None
        assert stream.is_broken


@pytest.mark.parametrize("settings", [DEFAULTS, ADVISED], ids=["defaults", "advised"])
def test_a_refusal_for_now_comes_through_as_a_broken_response(
    serve: Callable[..., Server], tmp_path: Path, settings: str
) -> None:
    server = serve("--token-key", KEY, "--max-connections", "1")
    with (
        nginx_before(server, tmp_path / "nginx", settings) as front,
        Stream(server, headers=BEARER) as other,
    ):
        other.opened()
        with Stream(front, headers=BEARER) as stream:
            told = stream.block()
            assert told is not None
            assert told.retry is not None
            assert stream.block() is None
            assert stream.is_broken


def test_heartbeats_come_through(front: Server) -> None:
    with Stream(front, heartbeat="event", headers=BEARER) as stream:
        stream.opened()
        for _ in range(2):
            block = stream.block()
            assert block is not None
            assert block.data is not None
            assert '"HEARTBEAT"' in block.data


def test_a_burst_comes_through_whole(server: Server, front: Server, channel: str) -> None:
    count = 2_000
    lines = b"".join(
        b'{"channel":"%b","data":{"n":%d,"x":"%b"}}\n' % (channel.encode(), n, b"x" * 200)
        for n in range(count)
    )
    with Stream(front, channel=channel, headers=BEARER) as stream:
        stream.opened()
        answer = call(
            server, "POST", "/realtime/broadcast", lines, "application/x-ndjson", headers=BEARER
        )
        assert answer.json["published"] == count
        assert [event["data"]["n"] for event in stream.events(count)] == list(range(count))


def test_a_websocket_comes_through(server: Server, channel: str, tmp_path: Path) -> None:
    with (
        nginx_before(server, tmp_path / "nginx", UPGRADES) as front,
        Socket(front, headers=BEARER) as socket,
    ):
        socket.ask(type="subscribe", channel=channel)
        assert stats(server, headers=BEARER)["websocket_count"] == 1
        for number in range(20):
            socket.ask(type="publish", event={"channel": channel, "data": number})
            assert socket.event()["data"] == number
        big = "x" * 60_000
        socket.ask(type="publish", event={"channel": channel, "data": big})
        assert socket.event()["data"] == big
    until(lambda: stats(server, headers=BEARER)["websocket_count"] == 0, "end behind the proxy")


def test_lines_are_published_while_the_body_is_open(
    server: Server, channel: str, tmp_path: Path
) -> None:
    with (
        nginx_before(server, tmp_path / "nginx", ADVISED) as front,
        Stream(front, channel=channel, headers=BEARER) as stream,
        Upload(front, headers=BEARER) as upload,
    ):
        stream.opened()
        for number in range(3):
            upload.line(channel=channel, data=number)
            assert stream.event()["data"] == number
        assert upload.finish().json["published"] == 3


def test_strangers_do_not_look_local_behind_a_proxy(servers: Servers, tmp_path: Path) -> None:
    """Without keys only this machine's own clients come in; a proxy's are somebody else's."""
    forwards = "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Host localhost;"
    with nginx_before(servers.get("taken over"), tmp_path / "nginx", forwards) as front:
        answer = call(front, "GET", "/realtime/events")
        assert (answer.status, answer.json["code"]) == (401, "unauthorized")
