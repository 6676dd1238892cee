"""Connections that vanish by RST at the worst moments."""

from __future__ import annotations

import pytest

from e2e.servers import Server

from .attacker import receive_head, receive_until, request, reset
from .bystanders import unharmed
from .raw_http2 import PREFACE, RawHttp2
from .raw_websocket import TEXT, frame, upgrade

SSE = b"/realtime/events"


def _moments(server: Server) -> dict[str, bytes]:
    return {
        "after connect": b"",
        "in the first line": b"GET /hea",
        "in the head": request(server)[:-2],
        "behind a request": request(server),
        "in a body": request(
            server, b"/realtime/broadcast", b"Content-Length: 100", method=b"POST", body=b"{"
        ),
        "in a WebSocket handshake": upgrade(server)[:-2],
        "behind a WebSocket handshake": upgrade(server),
        "behind a WebSocket handshake and half a frame": upgrade(server)
        + frame(TEXT, b"hello")[:3],
        "in an event stream's head": request(server, SSE)[:-2],
        "behind an event stream's head": request(server, SSE),
        "behind two event streams' heads": request(server, SSE) * 2,
        "behind a preface": PREFACE,
        "in a preface": PREFACE[:-4],
    }


@pytest.mark.parametrize(
    "moment",
    [
        "after connect",
        "in the first line",
        "in the head",
        "behind a request",
        "in a body",
        "in a WebSocket handshake",
        "behind a WebSocket handshake",
        "behind a WebSocket handshake and half a frame",
        "in an event stream's head",
        "behind an event stream's head",
        "behind two event streams' heads",
        "behind a preface",
        "in a preface",
    ],
)
def test_a_hundred_resets(server: Server, moment: str) -> None:
    data = _moments(server)[moment]
    with unharmed(server) as scene:
        for _ in range(100):
            sock = scene.attacker.connect()
            sock.sendall(data)
            reset(sock)


@pytest.mark.parametrize("data", ["stream", "websocket"])
def test_resets_as_soon_as_the_head_is_here(server: Server, data: str) -> None:
    """The moment of the hand-over from HTTP to the stream."""
    with unharmed(server) as scene:
        for _ in range(50):
            sock = scene.attacker.connect()
            sock.sendall(request(server, SSE) if data == "stream" else upgrade(server))
            receive_until(sock, bool)
            reset(sock)


def test_resets_while_events_are_written(server: Server) -> None:
    with unharmed(server) as scene:
        socks = []
        for number in range(40):
            sock = scene.attacker.connect()
            sock.sendall(request(server, SSE) if number % 2 else upgrade(server))
            receive_head(sock)
            socks.append(sock)
        for sock in socks:
            reset(sock)
            scene.publish(1, 1000)


def test_resets_of_http2_connections_with_open_streams(server: Server) -> None:
    with unharmed(server) as scene:
        for _ in range(20):
            client = RawHttp2(scene.attacker)
            client.send(client.get(1, SSE), client.get(3), client.websocket(5))
            client.until_told_off(1)
            reset(client.sock)
