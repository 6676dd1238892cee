"""Clients that come and go leave nothing behind: no descriptor, no subscription, no queue."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from e2e.crowd import Crowd, sse_request, ws_frame, ws_request
from e2e.rest import publish, stats, until
from e2e.servers import Server

CLIENTS = 200
AT_ONCE = 10

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="another process is looked at through /proc"
)

KINDS = ("sse", "sse reset", "websocket", "websocket reset")


def come_and_go(server: Server) -> None:
    """Connect and disconnect, in turn in each of the four ways; most of them get an event."""
    requests = {"sse": sse_request(server, "channel=leak"), "websocket": ws_request(server)}
    subscribe = ws_frame(b'{"type":"subscribe","channel":"leak","id":1}')
    for number in range(CLIENTS // AT_ONCE):
        kind, _, reset = KINDS[number % len(KINDS)].partition(" ")
        with Crowd(server) as crowd:
            members = crowd.join(AT_ONCE, requests[kind])
            crowd.pump(
                lambda: all(b"retry" in m.data or b"connection_id" in m.data for m in members),  # noqa: B023
                "greeting",
            )
            if kind == "websocket":
                for member in members:
                    member.sock.sendall(subscribe)
                crowd.pump(lambda: all(b'"reply"' in m.data for m in members), "reply")  # noqa: B023
            if number % 5:
                publish(server, channel="leak", data=number)
                crowd.pump(lambda: all(b'"timestamp"' in m.data for m in members), "event")  # noqa: B023
            for member in members:
                if kind == "websocket" and not reset:
                    member.sock.sendall(ws_frame(b"\x03\xe8", opcode=8))
                crowd.leave(member, reset=bool(reset))
    until(lambda: _connections(server) == 0, "end of all connections")


def _connections(server: Server) -> int:
    counts = stats(server)
    return int(counts["sse_count"]) + int(counts["websocket_count"])


@pytest.mark.parametrize("takeover", ["--takeover", "--no-takeover"])
def test_clients_that_come_and_go_leave_nothing_behind(
    serve: Callable[..., Server], takeover: str
) -> None:
    server = serve(takeover, "--log-level", "warning")
    before = _open_files_at_rest(server)
    come_and_go(server)
    until(lambda: server.open_files() <= before, "return of the descriptors")
    counts = stats(server)
    assert counts["taken_over"] == counts["portable"] == counts["queue_bytes"] == 0
    assert counts["channels"] == {}
    assert counts["channel_count"] == 0
    ended = counts["ended"]
    assert sum(ended.values()) == CLIENTS
    assert set(ended) <= {"client_closed", "peer_lost"}
    if takeover == "--takeover":  # ASGI does not tell a reset from an end
        assert ended["peer_lost"] >= CLIENTS // 4


def _open_files_at_rest(server: Server) -> int:
    """How many descriptors it holds when the connections of earlier requests are gone."""
    stats(server)  # what is opened for the first request stays
    return min(server.open_files() for _ in range(200))


@pytest.mark.parametrize("takeover", ["--takeover", "--no-takeover"])
def test_channels_of_a_client_are_forgotten_with_it(
    serve: Callable[..., Server], takeover: str
) -> None:
    server = serve(takeover)
    names = [f"leak:{number}" for number in range(900)]
    query = "&".join(f"channel={name}" for name in names[:200])
    request = json.dumps({"type": "subscribe", "id": 1, "channels": names})
    with Crowd(server) as crowd:
        (stream,) = crowd.join(1, sse_request(server, query))
        (socket,) = crowd.join(1, ws_request(server))
        crowd.pump(lambda: b"connection_id" in socket.data, "greeting")
        socket.sock.sendall(ws_frame(request.encode()))
        crowd.pump(lambda: b'"reply"' in socket.data and b"retry" in stream.data, "reply")
        assert stats(server)["channel_count"] == 900 + 1  # and $all
        assert stats(server)["channels"]["leak:7"] == 2
    until(lambda: stats(server)["channel_count"] == 0, "end of the subscriptions")
