"""The wrong protocol on the right port, and hostile TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import pytest

from e2e.servers import Certificate, Server

from .attacker import receive_head, receive_to_end, request, reset, status
from .bystanders import unharmed
from .raw_http2 import PREFACE


def client_hello(server_name: str = "127.0.0.1") -> bytes:
    """The first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()


def test_tls_on_the_clear_port(server: Server) -> None:
    with unharmed(server) as scene:
        ending = scene.attacker.fire(client_hello())
    assert ending.status in (400, None)


HELLO = client_hello()
CLEAR = {
    "HTTP/1.1": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2": PREFACE,
    "garbage": bytes(range(256)) * 40,
    "half a hello": HELLO[:100],
    "a hello with a wrong length": HELLO[:3] + b"\xff\xff" + HELLO[5:],
    "a hello twice": HELLO + HELLO,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "nothing": b"",
}


@pytest.mark.parametrize("name", CLEAR)
def test_nonsense_on_the_tls_port_closes(tls_server: Server, name: str) -> None:
    with unharmed(tls_server) as scene:
        ending = scene.attacker.fire(CLEAR[name], clear=True)
    assert ending.status in (400, None)


@pytest.mark.parametrize("size", [0, 1, 100, len(HELLO)])
def test_a_hundred_resets_in_the_tls_handshake(tls_server: Server, size: int) -> None:
    with unharmed(tls_server) as scene:
        for _ in range(100):
            sock = scene.attacker.connect(clear=True)
            sock.sendall(HELLO[:size])
            reset(sock)


def test_resets_behind_the_tls_handshake(tls_server: Server) -> None:
    with unharmed(tls_server) as scene:
        for number in range(30):
            sock = scene.attacker.connect(alpn="h2" if number % 2 else "http/1.1")
            if number % 3:
                sock.sendall(request(tls_server, b"/realtime/events"))
            reset(sock)


def test_garbage_inside_an_established_session(tls_server: Server) -> None:
    """A record that does not decrypt, in the middle of an event stream."""
    with unharmed(tls_server) as scene:
        sock = scene.attacker.connect(alpn="http/1.1")
        sock.sendall(request(tls_server, b"/realtime/events"))
        assert status(receive_head(sock)) == 200
        with socket.socket(fileno=sock.detach()) as clear:
            clear.settimeout(10)
            clear.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            receive_to_end(clear)


def test_a_protocol_we_do_not_speak(tls_server: Server) -> None:
    with unharmed(tls_server) as scene:
        try:
            sock = scene.attacker.connect(alpn="spdy/1")
        except (ssl.SSLError, ConnectionResetError):
            return
        sock.sendall(request(tls_server))
        assert status(receive_head(sock)) == 200


def test_a_tls_handshake_that_never_ends(
    serve: Callable[..., Server], certificate: Certificate
) -> None:
    server = serve("--handshake-seconds", "2", *certificate.options(), trust=certificate.trust())
    with unharmed(server) as scene:
        silent, begun, dripping = (scene.attacker.connect(clear=True) for _ in range(3))
        begun.sendall(HELLO[:100])
        receive_to_end(dripping, drip=HELLO[:200])
        receive_to_end(begun)
        receive_to_end(silent)
