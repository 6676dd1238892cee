"""HTTP and WebSocket, just as far as the clients in Python need it to measure and to ask."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.servers import Paths, Running

PIECE = 1 << 16
PATIENCE = 60.0

JSON = "application/json"
NDJSON = "application/x-ndjson"

PONG = 10
_PING = 9
_TEXT = 1


class Wrong(Exception):
    """An answer that is not what it has to be."""


def connect(server: Running) -> socket.socket:
    stream = socket.create_connection((server.host, server.port), timeout=PATIENCE)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def post_request(path: str, body: bytes, content_type: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}"]
    lines += [f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def receive(stream: socket.socket, size: int = PIECE) -> bytes:
    """Return what comes next. Raises Wrong at the end."""
    data = stream.recv(size)
    if not data:
        raise Wrong("the connection ended early")
    return data


def read_reply(stream: socket.socket) -> bytes:
    """Return the body of a response with a length. Raises Wrong unless its status is 200."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += receive(stream)
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if b"content-length" in line
    )
    while len(body) < length:
        body += receive(stream)
    if b" 200 " not in head.split(b"\r\n")[0] + b" ":
        raise Wrong(f"answered with {head!r} {body!r}")
    return body


def publish_stream(stream: socket.socket, lines: bytes, events: int) -> None:
    """Publish NDJSON in one request. Raises Wrong unless all of it was."""
    stream.sendall(post_request(Paths().publish, lines, NDJSON))
    reply = json.loads(read_reply(stream))
    if reply["published"] != events or reply["error"]:
        raise Wrong(f"{events} lines were sent, and the reply is {reply}")


def publish_singly(stream: socket.socket, bodies: Sequence[bytes]) -> None:
    """Publish one event after the other. Raises Wrong."""
    for request in [post_request(Paths().publish, body, JSON) for body in bodies]:
        stream.sendall(request)
        read_reply(stream)


def get_json(server: Running, path: str) -> dict[str, Any]:
    """Ask once. Raises Wrong."""
    with connect(server) as stream:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        stream.sendall(f"{head}Connection: close\r\n\r\n".encode())
        found: dict[str, Any] = json.loads(read_reply(stream))
        return found


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame, masked with zeros."""
    length, head = len(payload), bytes((0x80 | opcode,))
    if length < 126:
        head += bytes((0x80 | length,))
    elif length < 1 << 16:
        head += b"\xfe" + length.to_bytes(2, "big")
    else:
        head += b"\xff" + length.to_bytes(8, "big")
    return head + bytes(4) + payload


class WebSocket:
    """A client that asks, and reads what it is answered."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._got = bytearray()

    def send(self, payload: bytes, opcode: int = 1) -> None:
        self.stream.sendall(frame(payload, opcode))

    def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame; pings are answered on the way.

        Raises Wrong at the end.
        """
        while True:
            opcode, payload = self._next()
            if opcode != _PING:
                return opcode, payload
            self.send(payload, PONG)

    def arrived(self) -> list[bytes]:
        """Read once; return the texts that are complete. Raises Wrong at the end.

        For a connection that has something to read; pings are answered on the way.
        """
        self._got += receive(self.stream)
        texts, start, size = [], 0, len(self._got)
        while size - start >= 2:
            length, begin = self._got[start + 1] & 0x7F, start + 2
            if length > 125:
                begin += 2 if length == 126 else 8
                if size < begin:
                    break
                length = int.from_bytes(self._got[start + 2 : begin], "big")
            if size < begin + length:
                break
            opcode, payload = self._got[start] & 0x0F, bytes(self._got[begin : begin + length])
            start = begin + length
            if opcode == _TEXT:
                texts.append(payload)
            elif opcode == _PING:
                self.send(payload, PONG)
            else:
                raise Wrong(f"a frame of the kind {opcode} came: {payload!r}")
        del self._got[:start]
        return texts

    def answers(self, count: int) -> list[dict[str, Any]]:
        """Return so many replies. Raises Wrong for an error among them."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            message = json.loads(self.receive()[1])
            if message["type"] == "error":
                raise Wrong(f"answered with {message}")
            if message["type"] == "reply":
                found.append(message)
        return found

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its reply. Raises Wrong."""
        self.send(json.dumps(request).encode())
        return self.answers(1)[0]

    def _next(self) -> tuple[int, bytes]:
        self._need(2)
        length, start = self._got[1] & 0x7F, 2
        if length > 125:
            start += 2 if length == 126 else 8
            self._need(start)
            length = int.from_bytes(self._got[2:start], "big")
        self._need(start + length)
        opcode, payload = self._got[0] & 0x0F, bytes(self._got[start : start + length])
        del self._got[: start + length]
        return opcode, payload

    def _need(self, size: int) -> None:
        while len(self._got) < size:
            self._got += receive(self.stream)


def upgrade(stream: socket.socket, path: str, *headers: str) -> WebSocket:
    """Make a connection a WebSocket, of which nothing has been read yet. Raises Wrong."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: Upgrade"]
    lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers, "", ""]
    stream.sendall("\r\n".join(lines).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(stream, 1)
    if not head.startswith(b"HTTP/1.1 101"):
        raise Wrong(f"the upgrade was answered with {head!r}")
    return WebSocket(stream)


@contextlib.contextmanager
def websocket(server: Running) -> Iterator[WebSocket]:
    """Open a WebSocket for the time of the block; its greeting has been read. Raises Wrong."""
    with connect(server) as stream:
        opened = upgrade(stream, Paths().websocket)
        opened.receive()
        yield opened
