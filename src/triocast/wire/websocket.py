"""WebSocket frames (RFC 6455), without I/O: written by ourselves, read by `websockets`.

Server frames are never masked, so one frame serves every client. Reading is the business of the
protocol core of the package `websockets`: it checks masks, reserved bits, control frames and
sizes, and makes the pongs and the close handshake.
"""

from __future__ import annotations

import logging
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from triocast.errors import CloseCode

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one whole, unmasked frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126, size >> 8, size & 0xFF)) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def text_frame(payload: bytes) -> bytes:
    return frame(TEXT, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; the reason is cut to the 123 bytes that a control frame can hold."""
    raw = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(CLOSE, code.to_bytes(2, "big") + raw)


class FrameReader:
    """The receiving half of a server's end: bytes in, messages and replies out.

    Messages are whole: text as str, binary as bytes. After a protocol error or the peer's close
    frame nothing more comes out, and `close_code` says why: it is the code of the close frame
    that is among the replies.
    """

    def __init__(self, *, max_message_bytes: int) -> None:
        self._protocol = Protocol(Side.SERVER, max_size=max_message_bytes, logger=_log)
        self._fragments = bytearray()
        self._is_text = False

    @property
    def close_code(self) -> int | None:
        """The code we closed with, or None while the connection is open."""
        if self._protocol.state is OPEN:
            return None
        sent = self._protocol.close_sent
        return CloseCode.NORMAL if sent is None else sent.code

    @property
    def closed_by_peer(self) -> bool:
        """Whether the peer's close frame came before ours."""
        return bool(self._protocol.close_rcvd_then_sent)

    def receive(self, data: bytes) -> tuple[list[str | bytes], bytes]:
        """Take bytes; return the messages that are whole now, and what to send back."""
        self._protocol.receive_data(data)
        messages: list[str | bytes] = []
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._is_text = event.opcode is Opcode.TEXT
                if event.fin:
                    whole = bytes(event.data)
                else:
                    self._fragments = bytearray(event.data)
                    continue
            elif event.opcode is Opcode.CONT:
                self._fragments += event.data
                if not event.fin:
                    continue
                whole, self._fragments = bytes(self._fragments), bytearray()
            else:
                continue  # Control frames: the protocol has made its reply already.
            if not self._is_text:
                messages.append(whole)
                continue
            try:
                messages.append(whole.decode())
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_TEXT, "a text message is not UTF-8")
                break
        return messages, b"".join(self._protocol.data_to_send())


_log = logging.getLogger("triocast.websocket")
