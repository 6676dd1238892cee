"""A WebSocket server's frames, taken out of the bytes as they come."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from benchmarks.servers import Paths
from benchmarks.wire import Wrong, receive

TEXT, PONG = 0x81, 0x8A
COMPRESSED = 0x40
"""Stands in a frame's first byte where its payload is compressed."""

_SECONDS = 15.0


def frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each whole frame: its first byte, and where its payload starts and ends."""
    at = 0
    while len(data) >= at + 2:
        start, length = at + 2, data[at + 1]
        if length > 125:
            start += 2 if length == 126 else 8
            length = int.from_bytes(data[at + 2 : start], "big")
        if len(data) < start + length:
            return
        yield data[at], start, start + length
        at = start + length


def greeted_websocket(port: int, headers: Sequence[str] = ()) -> tuple[socket.socket, bool]:
    """Open a WebSocket; return it when its greeting is read, and whether it may be compressed.

    Raises Wrong if it is refused, OSError if nothing comes for long.
    """
    stream = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = [f"GET {Paths().websocket} HTTP/1.1", "Host: localhost", "Connection: Upgrade"]
    lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers, "", ""]
    stream.sendall("\r\n".join(lines).encode())
    got = b""
    while b"\r\n\r\n" not in got:
        got += receive(stream)
    head, _, got = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise Wrong(f"the upgrade was answered with {head!r}")
    while not any(end == len(got) for _, _, end in frames(got)):
        got += receive(stream)
    return stream, b"permessage-deflate" in head
