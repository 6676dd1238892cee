"""Many raw connections at once, read by one thread as they have something to say."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from e2e.rest import PATIENCE
from e2e.servers import Server

NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Member:
    """One connection and all that came over it."""

    sock: socket.socket
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: bool = False

    @property
    def body(self) -> bytes:
        """What came behind the HTTP head."""
        return bytes(self.data.partition(b"\r\n\r\n")[2])

    def close(self, *, reset: bool = False) -> None:
        """Close it; by RST in place of FIN if asked for."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.sock.close()


def sse_request(server: Server, query: str = "") -> bytes:
    return (
        f"GET /realtime/events?{query} HTTP/1.1\r\nHost: {server.authority}\r\n"
        "Accept: text/event-stream\r\n\r\n"
    ).encode()


def ws_request(server: Server) -> bytes:
    return (
        f"GET /realtime/ws HTTP/1.1\r\nHost: {server.authority}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def ws_frame(payload: bytes, *, opcode: int = 1) -> bytes:
    """One masked frame with a payload of up to 65 535 bytes; the mask is zero."""
    short = len(payload) < 126
    size = (
        struct.pack(">B", 0x80 | len(payload)) if short else struct.pack(">BH", 0xFE, len(payload))
    )
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


class Crowd:
    """Connections to one server. Members whose stream ended are closed at once."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.members: list[Member] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for member in self.members:
            member.sock.close()
        self._selector.close()

    def join(self, count: int, request: bytes, **options: int) -> list[Member]:
        """Connect, send the request, and begin to read; options as of `Server.connect`."""
        joined = []
        for _ in range(count):
            sock = self.server.connect(**options)
            sock.sendall(request)
            sock.setblocking(False)
            member = Member(sock)
            self._selector.register(sock, selectors.EVENT_READ, member)
            joined.append(member)
        self.members += joined
        return joined

    def ignore(self, member: Member) -> None:
        """Read this one no longer."""
        self._selector.unregister(member.sock)

    def leave(self, member: Member, *, reset: bool = False) -> None:
        self.ignore(member)
        self.members.remove(member)
        member.close(reset=reset)

    def pump(self, done: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        """Read until `done()`; fails at the deadline."""
        deadline = time.monotonic() + patience
        while not done():
            assert time.monotonic() < deadline, f"in {patience} s there was no {what}"
            self.read(0.05)

    def read(self, seconds: float = 0.0) -> None:
        """Take what is there, waiting up to `seconds` for the first."""
        for key, _ in self._selector.select(seconds):
            member = key.data
            try:
                data = member.sock.recv(1 << 18)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data, member.reset = b"", True
            member.data += data
            if not data:
                member.ended = True
                self._selector.unregister(member.sock)
                member.sock.close()
