"""Looks at one event on the wire, so that the C loop can send the very same bytes."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Sequence

import attrs

PATIENCE = 10.0
QUIET = 0.3
"""Seconds without a byte after which a stream has said what it says at its beginning."""

LEAST_DATA_BYTES = 40
_MARK = "@0probe:0123456789"


class ProbeFailed(Exception):
    """A server did not do what the benchmark needs of it."""


@attrs.frozen
class Frame:
    """One event as it was sent; its data stands at ``offset`` and has ``length`` bytes."""

    raw: bytes
    offset: int
    length: int


def event_data(size: int) -> str:
    """Return data of ``size`` bytes, of the form that the load client publishes."""
    head, tail = f'{{"n":"{_MARK}","pad":"', '"}'
    return head + "x" * (size - len(head) - len(tail)) + tail


def probe(
    address: tuple[str, int],
    transport: str,
    path: str,
    publish_path: str,
    headers: Sequence[str],
    data_bytes: int,
) -> Frame:
    """Publish one event to one client and return what that client got. Raises ProbeFailed."""
    data = event_data(data_bytes)
    with socket.create_connection(address, timeout=PATIENCE) as stream:
        stream.sendall(_request(address, transport, path, headers))
        head = _read_until(stream, b"\r\n\r\n")
        wanted = b"101" if transport == "websocket" else b"200"
        if head.split(b" ")[1] != wanted:
            raise ProbeFailed(f"GET {path} was answered with {head[:200]!r}")
        _read_until_quiet(stream)
        _publish(address, publish_path, headers, data)
        raw = _read_until(stream, data.encode())
        raw += _read_until_quiet(stream)
    if raw.count(data.encode()) != 1:
        raise ProbeFailed(f"one event was published, but {transport} got {raw[:1000]!r}")
    return Frame(raw, raw.index(data.encode()), len(data))


def _request(address: tuple[str, int], transport: str, path: str, headers: Sequence[str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", *headers]
    if transport == "websocket":
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    else:
        lines += ["Accept: text/event-stream"]
    return "\r\n".join([*lines, "", ""]).encode()


def _publish(address: tuple[str, int], path: str, headers: Sequence[str], data: str) -> None:
    fields = dict(line.split(": ", 1) for line in headers)
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    with contextlib.closing(connection):
        body = f'{{"type":"bench","data":{data}}}'
        connection.request("POST", path, body, {"Content-Type": "application/json", **fields})
        reply = connection.getresponse()
        if not 200 <= reply.status < 300:
            raise ProbeFailed(f"POST {path} was answered with {reply.status}: {reply.read()!r}")


def _read_until(stream: socket.socket, end: bytes) -> bytes:
    got = b""
    deadline = time.monotonic() + PATIENCE
    while end not in got:
        try:
            piece = stream.recv(65536)
        except TimeoutError:
            piece = b""
        got += piece
        if not piece or time.monotonic() > deadline:
            raise ProbeFailed(f"waited for {end!r}, got {got[:1000]!r}")
    return got


def _read_until_quiet(stream: socket.socket) -> bytes:
    got = b""
    stream.settimeout(QUIET)
    try:
        while piece := stream.recv(65536):
            got += piece
    except TimeoutError:
        pass
    stream.settimeout(PATIENCE)
    return got
