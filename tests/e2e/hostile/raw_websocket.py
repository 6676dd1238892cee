"""A WebSocket client (RFC 6455) that can break every rule of its protocol."""

from __future__ import annotations

import socket
import struct

import pytest

from e2e.servers import Server

from .attacker import (
    Ending,
    finish,
    readable,
    receive_head,
    receive_to_end,
    receive_until,
    request,
    send,
    status,
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
UPGRADE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def upgrade(server: Server, *headers: bytes, target: bytes = b"/realtime/ws") -> bytes:
    """The bytes of an upgrade request, with `headers` added."""
    return request(server, target, *UPGRADE, *headers)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    claimed: int | None = None,
) -> bytes:
    """A client frame. The mask is of zeros, which is allowed. `reserved` are RSV1-3 as bits 4,
    2, 1;
    `claimed` is the length told in place of the payload's own."""
    length = len(payload) if claimed is None else claimed
    head = bytes([fin << 7 | reserved << 4 | opcode])
    mask = masked << 7
    if length < 126:
        head += bytes([mask | length])
    elif length < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", length)
    return head + (bytes(4) if masked else b"") + payload


def parse(data: bytes) -> tuple[int, bytes, bytes] | None:
    """The first server frame of `data` as opcode, payload, rest; None while it is incomplete."""
    if len(data) < 2:
        return None
    assert not data[1] & 0x80, "a server frame is masked"
    assert not data[0] & 0x70, "reserved bits are set although no extension was agreed on"
    length, start = data[1] & 0x7F, 2
    if length == 126:
        if len(data) < 4:
            return None
        length, start = struct.unpack_from("!H", data, 2)[0], 4
    elif length == 127:
        if len(data) < 10:
            return None
        length, start = struct.unpack_from("!Q", data, 2)[0], 10
    if len(data) < start + length:
        return None
    return data[0] & 0x0F, data[start : start + length], data[start + length :]


def close_code(data: bytes) -> int | None:
    """The code of the close frame among the frames in `data`; None if there is no close frame,
    1005 if it has none."""
    while (found := parse(data)) is not None:
        opcode, payload, data = found
        if opcode == CLOSE:
            return struct.unpack_from("!H", payload)[0] if payload else 1005
    return None


class RawWebSocket:
    """An upgraded connection. `head` is the response's head, without what followed it."""

    def __init__(
        self, server: Server, sock: socket.socket, *headers: bytes, trailing: bytes = b""
    ) -> None:
        self.sock = sock
        sock.sendall(upgrade(server, *headers) + trailing)
        data = receive_head(sock)
        assert status(data) == 101, data
        self.head, _, self._data = data.partition(b"\r\n\r\n")

    def send(self, data: bytes) -> bool:
        return send(self.sock, data)

    def receive(self, opcode: int) -> bytes:
        """The payload of the next frame with `opcode`; others are passed over."""
        while True:
            while (found := parse(self._data)) is not None:
                kind, payload, self._data = found
                if kind == opcode:
                    return payload
                if kind == CLOSE:
                    pytest.fail(f"closed with {payload!r}")
            self._data += receive_until(self.sock, bool)

    def answers(self, ping: bytes) -> bool:
        """Whether the pong to `ping` comes within two seconds."""
        while readable(self.sock, 2.0):
            self._data += receive_until(self.sock, bool)
            if bytes([0x80 | PONG, len(ping)]) + ping in self._data:
                return True
        return False

    def ending(self) -> tuple[int | None, Ending]:
        """Wait for the server to close; its close code, if it got through, and all it sent.

        A close frame may be lost when the server closes while it has unread bytes of ours: the
        kernel then
        answers with a reset. So None together with `reset` is no fault of the server.
        """
        ending = receive_to_end(self.sock)
        ending = Ending(self._data + ending.data, ending.reset)
        return close_code(ending.data), ending

    def finish(self) -> None:
        finish(self.sock)
