"""Raw HTTP/1.1 over sockets, for what a well-behaved client library refuses to send."""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from e2e.servers import Server

PATIENCE = 20.0
"""Seconds within which a server on a slow machine must have reacted."""

GONE = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError)


@dataclass(frozen=True)
class Ending:
    """All that came until the server closed, and whether it was by a reset."""

    data: bytes
    reset: bool

    @property
    def status(self) -> int | None:
        """The status of the first HTTP answer, None if there was none."""
        return status(self.data)


class Attacker:
    """Opens hostile connections to one server and closes them at the end."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._open = ExitStack()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def connect(
        self, *, clear: bool = False, alpn: str | None = None, receive_buffer: int | None = None
    ) -> socket.socket:
        sock = self.server.connect(
            clear=clear, alpn=alpn, receive_buffer=receive_buffer, patience=PATIENCE
        )
        self._open.callback(sock.close)
        return sock

    def fire(self, data: bytes, *, clear: bool = False) -> Ending:
        """Send `data` and our end of stream on a connection of its own; return what came back
        until the close."""
        sock = self.connect(clear=clear)
        if send(sock, data):
            finish(sock)
        return receive_to_end(sock)


def request(
    server: Server,
    target: bytes = b"/healthz",
    *headers: bytes,
    method: bytes = b"GET",
    body: bytes = b"",
) -> bytes:
    """The bytes of one HTTP/1.1 request; nothing is added but the Host, nothing is checked."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + server.authority.encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def status(data: bytes) -> int | None:
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", data)
    return int(found[1]) if found else None


def statuses(data: bytes) -> list[int]:
    """The statuses of all HTTP answers in `data`, whose bodies hold none of their own."""
    return [int(number) for number in re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)]


def send(sock: socket.socket, data: bytes) -> bool:
    """Send all of `data`; False if the server closed meanwhile."""
    try:
        sock.sendall(data)
    except GONE:
        return False
    except ssl.SSLError as error:
        # OpenSSL's word for it behind a write that was cut short when the server closed.
        if error.reason != "BAD_LENGTH":
            raise
        return False
    return True


def send_while_taken(
    sock: socket.socket, chunk: bytes, total: int, *, stalled_after: float = 1.0
) -> int:
    """Send `chunk` again and again without reading, until `total` bytes went, the server closed,
    or it took no
    byte for `stalled_after` seconds. Returns how many bytes were sent."""
    sent, offset = 0, 0
    sock.settimeout(stalled_after)
    try:
        while sent < total:
            step = sock.send(memoryview(chunk)[offset:])
            sent += step
            offset = (offset + step) % len(chunk)
    except (TimeoutError, *GONE):
        pass
    finally:
        sock.settimeout(PATIENCE)
    return sent


def finish(sock: socket.socket) -> None:
    """Half-close: we have said everything. Under TLS nothing is sent, the server sees an open
    connection."""
    if type(sock) is socket.socket:
        with suppress(OSError):  # reset meanwhile: the reading end tells
            sock.shutdown(socket.SHUT_WR)


def reset(sock: socket.socket) -> None:
    """Close by RST in place of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def receive_until(
    sock: socket.socket, done: Callable[[bytes], object], *, patience: float = PATIENCE
) -> bytes:
    """Read until `done(everything)` is true. Fails at the deadline, or if the server closes
    first."""
    deadline, data = time.monotonic() + patience, b""
    while not done(data):
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            more = sock.recv(65536)
        except TimeoutError:
            pytest.fail(f"still waiting after {patience} s, have {data[-500:]!r}")
        except GONE:
            more = b""
        if not more:
            pytest.fail(f"the server closed after {data[-500:]!r}")
        data += more
    sock.settimeout(PATIENCE)
    return data


def receive_head(sock: socket.socket) -> bytes:
    """Read up to the end of an HTTP head, and whatever came with it."""
    return receive_until(sock, lambda data: b"\r\n\r\n" in data)


def receive_to_end(sock: socket.socket, *, patience: float = PATIENCE, drip: bytes = b"") -> Ending:
    """Read until the server closes, sending one more byte of `drip` about every 50 ms; fails at
    the deadline."""
    deadline, parts, position = time.monotonic() + patience, [], 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            pytest.fail(f"still open after {patience} s, have {b''.join(parts)[-500:]!r}")
        sock.settimeout(min(left, 0.05) if drip else left)
        try:
            more = sock.recv(1 << 20)
        except TimeoutError:
            if drip:
                send(sock, drip[position % len(drip) :][:1])
                position += 1
            continue
        except OSError as error:  # a reset; an EOF in the middle of TLS
            return Ending(b"".join(parts), isinstance(error, GONE))
        if not more:
            return Ending(b"".join(parts), False)
        parts.append(more)


def readable(sock: socket.socket, seconds: float = 0.0) -> bool:
    """Whether a read would not block, or would not after `seconds`."""
    pending = getattr(sock, "pending", None)
    if pending is not None and pending():
        return True
    return bool(select.select([sock], [], [], seconds)[0])
