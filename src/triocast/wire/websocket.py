"""WebSocket frames (RFC 6455), without I/O: written by ourselves, read by `websockets`.

Server frames are never masked, so one frame serves every client. Reading is the business of the
protocol core of the package `websockets`: it checks masks, reserved bits, control frames and
sizes, and makes the pongs and the close handshake. Compression is in `triocast.wire.deflate`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from triocast.errors import CloseCode
from triocast.wire.deflate import CompressedFrame, Marking, inflate

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_RSV1: Final = 0x40
"""Marks the first frame of a compressed message."""

_MOST_CONTROL_BYTES: Final = 125

_MOST_HEAD_BYTES: Final = 10
"""What comes before the mask of a frame."""


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


def deflated_text_frame(payload: bytes) -> bytes:
    """Return the frame of a compressed text, for clients that agreed on compression."""
    return frame(_RSV1 | TEXT, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; the reason is cut to the 123 bytes that a control frame can hold."""
    raw = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(CLOSE, code.to_bytes(2, "big") + raw)


class FrameSplitter:
    """Splits a client's bytes after each frame, however they arrive.

    The protocol core parses all that it is given before anybody sees the first message. Given one
    frame at a time, the first error on the wire is the one that the client is told, and nothing
    behind it is read.
    """

    __slots__ = ("_head", "_remaining")

    def __init__(self) -> None:
        self._head = bytearray()
        self._remaining = 0
        """Bytes of the current frame's mask and payload that are still to come."""

    def split(self, data: bytes) -> Iterator[bytes]:
        """Yield ``data`` in pieces, none of which reaches past the end of a frame."""
        start = position = 0
        end = len(data)
        while position < end:
            if not self._remaining:
                if not self._head and end - position >= _MOST_HEAD_BYTES:
                    position = self._read_head(data, position)
                else:
                    self._head.append(data[position])
                    position += 1
                    if not self._is_head_whole():
                        continue
            step = min(self._remaining, end - position)
            self._remaining -= step
            position += step
            if not self._remaining:
                yield data[start:position]
                start = position
        if start < end:
            yield data[start:]

    def _read_head(self, data: bytes, position: int) -> int:
        """Read a head that is there as a whole; return where it ends (RFC 6455, 5.2)."""
        second = data[position + 1]
        size = second & 0x7F
        position += 2
        if size > 125:
            extended = 2 if size == 126 else 8
            size = int.from_bytes(data[position : position + extended], "big")
            position += extended
        self._remaining = size + 4 if second & 0x80 else size
        return position

    def _is_head_whole(self) -> bool:
        """Say whether the head came byte by byte to its end; if so, it has been read."""
        head = self._head
        if len(head) < 2:
            return False
        size = head[1] & 0x7F
        if size > 125 and len(head) < (4 if size == 126 else 10):
            return False
        self._read_head(bytes(head), 0)
        head.clear()
        return True


class FrameReader:
    """The receiving half of a server's end: bytes in, messages and replies out.

    Messages are whole: text as str, binary as bytes. After a protocol error or the peer's close
    frame nothing more comes out, and `close_code` says why: it is the code of the close frame
    that is among the replies.

    ``max_message_bytes`` bounds a message on its way and, with ``deflate``, where the client may
    send compressed ones, also inflated.
    """

    __slots__ = (
        "_deflate",
        "_fragments",
        "_is_compressed",
        "_is_text",
        "_max_message_bytes",
        "_protocol",
        "_splitter",
    )

    def __init__(self, *, max_message_bytes: int, deflate: bool = False) -> None:
        self._max_message_bytes = max_message_bytes
        self._deflate = deflate
        # Made for the first bytes: of clients that only listen, the first pong.
        self._protocol: Protocol | None = None
        self._splitter: FrameSplitter | None = None
        self._fragments = bytearray()
        self._is_text = False
        self._is_compressed = False

    @property
    def close_code(self) -> int | None:
        """The code we closed with, or None while the connection is open."""
        if self._protocol is None or self._protocol.state is OPEN:
            return None
        sent = self._protocol.close_sent
        return CloseCode.NORMAL if sent is None else sent.code

    @property
    def closed_by_peer(self) -> bool:
        """Whether the peer's close frame came before ours."""
        return self._protocol is not None and bool(self._protocol.close_rcvd_then_sent)

    def receive(self, data: bytes) -> Iterator[str | bytes]:
        """Take bytes; return the messages that they complete.

        Each is parsed and inflated when it is taken, so that no more than one is in memory. Take
        all of them, then `take_replies`, before the next bytes.
        """
        if self._protocol is None or self._splitter is None:
            self._protocol, self._splitter = self._make_protocol(), FrameSplitter()
        protocol = self._protocol
        try:
            for piece in self._splitter.split(data):
                if protocol.state is not OPEN:
                    return  # What comes after a close frame or an error means nothing.
                protocol.receive_data(piece)
                for event in protocol.events_received():
                    assert isinstance(event, Frame)
                    whole = self._assemble(event)
                    if whole is None:
                        continue
                    if self._is_compressed:
                        whole = inflate(whole, most=self._max_message_bytes)
                    yield whole.decode() if self._is_text else bytes(whole)
        except PayloadTooBig as error:
            protocol.fail(CloseCode.MESSAGE_TOO_BIG, str(error))
        except ProtocolError as error:
            protocol.fail(CloseCode.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError:
            protocol.fail(CloseCode.INVALID_TEXT, "a text message is not UTF-8")

    def take_replies(self) -> bytes:
        """Return what is to be sent back."""
        return b"" if self._protocol is None else b"".join(self._protocol.data_to_send())

    def _make_protocol(self) -> Protocol:
        # In the middle of a message the core applies what is left of its bound to control frames,
        # so it gets that much more, and messages are measured here.
        bound = self._max_message_bytes + _MOST_CONTROL_BYTES
        protocol = Protocol(Side.SERVER, max_size=bound, logger=_log)
        if self._deflate:
            protocol.extensions = [Marking()]
        return protocol

    def _assemble(self, frame: Frame) -> bytes | bytearray | None:
        """Return the message that this frame makes whole. Raises PayloadTooBig."""
        data = frame.data
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text = frame.opcode is Opcode.TEXT
            self._is_compressed = isinstance(frame, CompressedFrame)
        elif frame.opcode is not Opcode.CONT:
            return None  # A control frame: the protocol has made its reply already.
        if len(self._fragments) + len(data) > self._max_message_bytes:
            raise PayloadTooBig(None, self._max_message_bytes)
        if frame.fin and not self._fragments:
            return bytes(data)
        self._fragments += data
        if not frame.fin:
            return None
        whole, self._fragments = self._fragments, bytearray()
        return whole


_log = logging.getLogger("triocast.websocket")
# What the package notes for debugging are texts of clients, and tokens may be in them.
_log.setLevel(logging.INFO)
