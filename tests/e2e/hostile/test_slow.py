"""Clients that take their time: nothing said, half said, never read."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable

import pytest
from hyperframe.frame import HeadersFrame, PingFrame, SettingsFrame

from e2e.rest import stats
from e2e.servers import Certificate, Server

from .attacker import (
    PATIENCE,
    Attacker,
    receive_head,
    receive_to_end,
    request,
    status,
    statuses,
)
from .bystanders import publish, unharmed
from .raw_http2 import PREFACE, RawHttp2
from .raw_websocket import upgrade

Serve = Callable[..., Server]
PATIENT = ("--keep-alive-seconds", "60", "--handshake-seconds", "60")
LARGE = ("--history-bytes", "100000", "--max-event-bytes", "100000")
EVENT_BYTES = 32_000
OUTBOX_BYTES = 200_000
SSE = b"/realtime/events"
GREETING = PREFACE + SettingsFrame(0).serialize()


# What is said at first, then what is said in single bytes, on and on
SILENCES: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a line": (b"GET /heal", b""),
    "half a head": (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b""),
    "a head in drips": (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"X-A: b\r\n"),
    "a line in drips": (b"GET /", b"abc"),
    "empty lines in drips": (b"", b"\r\n"),
    "half an upgrade in drips": (
        b"GET /realtime/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n",
        b"X-A: b\r\n",
    ),
    "half a preface": (PREFACE[:16], b""),
    "a preface": (PREFACE, b""),
    "a preface and settings": (GREETING, b""),
    "half a header block": (GREETING + HeadersFrame(1, b"\x82").serialize(), b""),
    "a frame in drips": (GREETING + b"\0\x10\0\x06\0\0\0\0\0", b"a"),
    "pings in drips": (GREETING, PingFrame(0, b"12345678").serialize()),
}


def test_silence_is_closed(hasty_server: Server) -> None:
    """All at once, one after the other would take a second each."""
    with unharmed(hasty_server) as scene:
        socks = {name: scene.attacker.connect() for name in SILENCES}
        for name, (first, _) in SILENCES.items():
            socks[name].sendall(first)
        failed = {}
        for name, (_, drip) in sorted(SILENCES.items(), key=lambda item: not item[1][1]):
            try:
                receive_to_end(socks[name], drip=drip)
            except pytest.fail.Exception as failure:
                failed[name] = str(failure)
        assert sorted(failed) == []


def test_an_idle_connection_is_closed_also_after_requests(hasty_server: Server) -> None:
    """It is kept alive from one to the next."""
    with unharmed(hasty_server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(hasty_server) * 3)
        assert statuses(receive_to_end(sock).data) == [200] * 3


def test_an_idle_http2_connection_is_closed_after_a_request(hasty_server: Server) -> None:
    with unharmed(hasty_server) as scene:
        client = RawHttp2(scene.attacker)
        client.send(client.get(1))
        client.until(lambda: 1 in client.ended)
        client.until_closed()


@pytest.mark.parametrize("head", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_body_that_never_comes(hasty_server: Server, head: bytes) -> None:
    with unharmed(hasty_server) as scene:
        sock = scene.attacker.connect()
        headers = (b"Content-Type: application/json", head)
        sock.sendall(request(hasty_server, b"/realtime/broadcast", *headers, method=b"POST"))
        ending = receive_to_end(sock)
    assert ending.status in (400, 408, None)


def test_a_body_in_drips(hasty_server: Server) -> None:
    """Each byte comes in time, the whole does not."""
    event = json.dumps(
        {"type": "hostile", "data": {"mark": "dripped", "filler": "x" * 1000}}
    ).encode()
    with unharmed(hasty_server) as scene:
        sock = scene.attacker.connect()
        headers = (b"Content-Type: application/json", b"Content-Length: %d" % len(event))
        sock.sendall(request(hasty_server, b"/realtime/broadcast", *headers, method=b"POST"))
        ending = receive_to_end(sock, drip=event)
    assert ending.status in (400, 408, None)
    assert "dripped" not in scene.bystanders[0].marks


def test_live_streams_are_not_taken_for_idle(hasty_server: Server) -> None:
    """The deadlines above are for handshakes: quiet streams outlive them."""
    with unharmed(hasty_server) as scene:
        sock = scene.attacker.connect()
        receive_to_end(sock)  # a silent stranger is closed...
        scene.everybody_has(scene.publish(1, 0))  # ...the bystanders, silent for longer, are not


def test_more_streams_than_allowed_are_turned_away(serve: Serve) -> None:
    """And those inside stay inside; there is room again when they go."""
    server = serve("--max-connections", "20")
    with unharmed(server) as scene:
        crowd = [scene.attacker.connect() for _ in range(60)]
        for sock in crowd:
            sock.sendall(request(server, SSE))
        inside = [sock for sock in crowd if status(receive_head(sock)) == 200]
        assert len(inside) == 18  # and the two bystanders
        for sock in crowd:
            if sock not in inside:
                sock.close()
        scene.everybody_has(scene.publish(1, 0))
        for sock in inside:
            sock.close()
        scene.hostile_ones_are_forgotten()


def test_more_sockets_than_there_is_room_for_are_turned_away(serve: Serve) -> None:
    """Silent connections count too: they are closed, with a 503 or without a word."""
    server = serve("--max-connections", "20", *PATIENT)
    with unharmed(server) as scene:
        crowd = [scene.attacker.connect() for _ in range(800)]
        assert receive_to_end(crowd[-1]).status in (503, None)
        for sock in crowd:
            sock.close()
        scene.hostile_ones_are_forgotten()


def _stalled(attacker: Attacker, kind: str) -> socket.socket:
    """A connection whose head was read, and nothing more will be."""
    sock = attacker.connect(receive_buffer=4096)
    sock.sendall(request(attacker.server, SSE) if kind == "stream" else upgrade(attacker.server))
    assert status(receive_head(sock)) in (101, 200)
    return sock


@pytest.mark.parametrize("kind", ["stream", "websocket"])
def test_a_stalled_reader_is_disconnected_alone(serve: Serve, kind: str) -> None:
    """It reads nothing of what is published, and is ended at its bound; the others get all, in
    order."""
    server = serve("--outbox-bytes", f"{OUTBOX_BYTES}", *LARGE)
    with unharmed(server) as scene:
        stalled = _stalled(scene.attacker, kind)
        marks = scene.publish_until(lambda: scene.ended("slow_consumer"), EVENT_BYTES)
        scene.everybody_has(marks)
        got = receive_to_end(stalled).data
    assert got.count(b'"mark"') < len(marks)


def test_many_stalled_readers_cost_their_bound(serve: Serve) -> None:
    server = serve("--outbox-bytes", f"{OUTBOX_BYTES}", *LARGE)
    count = 20
    with unharmed(server) as scene:
        stalled = [
            _stalled(scene.attacker, "stream" if number % 2 else "websocket")
            for number in range(count)
        ]

        def all_are_ended() -> bool:
            # Each may have the event that was too much for it.
            most = (count + len(scene.bystanders)) * (OUTBOX_BYTES + EVENT_BYTES + 1_000)
            assert stats(server)["queue_bytes"] <= most
            return scene.ended("slow_consumer") == count

        scene.everybody_has(scene.publish_until(all_are_ended, EVENT_BYTES))
        for sock in stalled:
            receive_to_end(sock)


@pytest.mark.parametrize("kind", ["stream", "websocket", "both, and TLS"])
def test_stalled_readers_do_not_hold_up_the_end(
    serve: Serve, certificate: Certificate, kind: str
) -> None:
    """SIGTERM with clients that never take their goodbye: the server ends although they stay."""
    options = ["--drain-seconds", "0.5", "--outbox-bytes", "50000000", *LARGE]
    if kind == "both, and TLS":
        server = serve(*options, *certificate.options(), trust=certificate.trust())
    else:
        server = serve(*options)
    with Attacker(server) as attacker:
        for each in ("stream", "websocket"):
            if each == kind or "both" in kind:
                _stalled(attacker, each)
        while stats(server)["queue_bytes"] < 2_000_000:
            publish(server, [str(number) for number in range(10)], EVENT_BYTES)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
