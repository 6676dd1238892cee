"""A descriptor that changes hands in the midst of a fan-out brings no stranger a byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from e2e.crowd import Crowd, sse_request, ws_frame, ws_request
from e2e.rest import call, stats, until
from e2e.servers import Server

CLIENTS = 200  # over each transport
ROUNDS = 6
STAY = 20
SECRET = b"this is nobody else's business"


@pytest.fixture
def publisher(serve: Callable[..., Server]) -> Iterator[tuple[Server, Callable[[], int]]]:
    """A server, and a fan-out that never pauses. What is yielded stops it: how much it was."""
    server = serve("--log-level", "warning", "--outbox-bytes", "64000000")
    stop, published = threading.Event(), 0
    lines = b'{"channel":"secret","data":"%b"}\n' % (SECRET + b"x" * 300) * 20

    def publish() -> None:
        nonlocal published
        while not stop.is_set():
            answer = call(server, "POST", "/realtime/broadcast", lines, "application/x-ndjson")
            published += answer.json["published"]

    thread = threading.Thread(target=publish)

    def end() -> int:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
        return published

    thread.start()
    try:
        yield server, end
    finally:
        end()


def test_strangers_get_no_byte(publisher: tuple[Server, Callable[[], int]]) -> None:
    server, end = publisher
    subscribe = ws_frame(b'{"type":"subscribe","channel":"secret","id":1}')
    strangers: list[socket.socket] = []
    with ExitStack() as stack, Crowd(server) as crowd:
        for _ in range(ROUNDS):
            members = crowd.join(CLIENTS // ROUNDS, sse_request(server, "channel=secret"))
            sockets = crowd.join(CLIENTS // ROUNDS, ws_request(server))
            for member in sockets:
                member.sock.sendall(subscribe)
            members += sockets
            crowd.pump(
                lambda: all(SECRET in member.data for member in members),  # noqa: B023
                "event at everybody",
            )
            # Some leave by a reset, while they are written to; strangers take their place at once.
            for member in members[STAY // ROUNDS + 1 :]:
                crowd.leave(member, reset=True)
                stranger = server.connect()
                stack.callback(stranger.close)
                stranger.setblocking(False)
                strangers.append(stranger)
            crowd.read()
        assert end() >= ROUNDS
        until(
            lambda: (
                stats(server)["sse_count"] + stats(server)["websocket_count"] == len(crowd.members)
            ),
            "end of those who left",
        )
        assert len(strangers) > CLIENTS
        for stranger in strangers:
            with pytest.raises(BlockingIOError):
                stranger.recv(1 << 16)
        # They were really connected, and to this very server.
        for stranger in strangers[::40]:
            stranger.setblocking(True)
            stranger.settimeout(10)
            stranger.sendall(f"GET /healthz HTTP/1.1\r\nHost: {server.authority}\r\n\r\n".encode())
            assert stranger.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
