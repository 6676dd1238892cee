"""WebSocket frames (RFC 6455), without I/O: written by ourselves, read by `websockets`.

Server frames are never masked, so one frame serves every client. A frame that is a whole message
is read right here. Everything else is the business of the protocol core of the package
`websockets`: it checks masks, reserved bits, control frames and sizes, and makes the pongs and the
close handshake. Compression is in `triocast.wire.deflate`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from triocast.errors import CloseCode
from triocast.floods import fragment_units
from triocast.wire.deflate import CompressedFrame, Marking, inflate

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its C code
    from websockets.utils import apply_mask

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

_MASKED: Final = 0x80
"""Stands in a frame's second byte, with the size."""

_MIN_FRAME_BYTES: Final = 6
"""A masked frame without a payload."""

_FINAL: Final = 0x80

_PLAIN_HEADS: Final = {_FINAL | TEXT: (True, False), _FINAL | BINARY: (False, False)}
"""The first bytes of frames that are whole messages: whether each is text, and is compressed."""

_COMPRESSED_HEADS: Final = _PLAIN_HEADS | {
    _FINAL | _RSV1 | TEXT: (True, True),
    _FINAL | _RSV1 | BINARY: (False, True),
}
"""The same for clients that may compress their messages."""


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


class FrameBounds:
    """Finds where each frame in a client's bytes ends, however they arrive.

    The protocol core parses all that it is given before anybody sees the first message. Given one
    frame at a time, the first error on the wire is the one that the client is told, and nothing
    behind it is read.
    """

    __slots__ = ("_head", "_remaining")

    def __init__(self) -> None:
        self._head = bytearray()
        self._remaining = 0
        """Bytes of the current frame's mask and payload that are still to come."""

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._remaining and not self._head

    def follow(self, data: bytes, start: int) -> int:
        """Return where the frame that ``data`` goes on with at ``start`` ends, or ``data`` does."""
        position = start
        end = len(data)
        if not self._remaining:
            if not self._head and end - position >= _MOST_HEAD_BYTES:
                position = self._read_head(data, position)
            else:
                while True:
                    if position == end:
                        return end
                    self._head.append(data[position])
                    position += 1
                    if self._is_head_whole():
                        break
        step = min(self._remaining, end - position)
        self._remaining -= step
        return position + step

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
    send compressed ones, also inflated. Frames that say nothing are counted (`take_units`).
    """

    __slots__ = (
        "_bounds",
        "_deflate",
        "_fragment_count",
        "_fragments",
        "_is_compressed",
        "_is_text",
        "_max_message_bytes",
        "_plain_heads",
        "_protocol",
        "_units",
    )

    def __init__(self, *, max_message_bytes: int, deflate: bool = False) -> None:
        self._max_message_bytes = max_message_bytes
        self._deflate = deflate
        self._plain_heads = _COMPRESSED_HEADS if deflate else _PLAIN_HEADS
        # Made for the first bytes: of clients that only listen, the first pong.
        self._protocol: Protocol | None = None
        self._bounds: FrameBounds | None = None
        self._fragments = bytearray()
        self._fragment_count = 0
        self._is_text = False
        self._is_compressed = False
        self._units = 0

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

    @property
    def peer_close_code(self) -> int | None:
        """The code of the peer's close frame, 1005 if it has none; None if none came."""
        received = None if self._protocol is None else self._protocol.close_rcvd
        return None if received is None else received.code

    def receive(self, data: bytes) -> Iterator[str | bytes | None]:
        """Take bytes; return the messages that they complete, and None for each other frame.

        Each is parsed and inflated when it is taken, so that no more than one is in memory. Take
        all of them before the next bytes. `take_replies` may be called at any time.
        """
        if self._protocol is None or self._bounds is None:
            self._protocol, self._bounds = self._make_protocol(), FrameBounds()
        protocol, bounds = self._protocol, self._bounds
        start = 0
        try:
            while start < len(data):
                if protocol.state is not OPEN:
                    return  # What comes after a close frame or an error means nothing.
                if bounds.is_between and not self._fragment_count:
                    while (plain := self._read_plain(data, start)) is not None:
                        payload, start = plain
                        yield self._finish(payload)
                    if start == len(data):
                        return
                stop = bounds.follow(data, start)
                protocol.receive_data(data[start:stop])
                start = stop
                for event in protocol.events_received():
                    assert isinstance(event, Frame)
                    whole = self._assemble(event)
                    yield None if whole is None else self._finish(whole)
        except PayloadTooBig as error:
            protocol.fail(CloseCode.MESSAGE_TOO_BIG, str(error))
        except ProtocolError as error:
            protocol.fail(CloseCode.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError:
            protocol.fail(CloseCode.INVALID_TEXT, "a text message is not UTF-8")

    def _read_plain(self, data: bytes, start: int) -> tuple[bytes, int] | None:
        """Read a frame that is a whole message: return its payload, and where it ends.

        None leaves what begins at ``start`` to the protocol core. Between messages the core need
        not know of such frames, which are nearly all that clients send.
        """
        if len(data) - start < _MIN_FRAME_BYTES:
            return None
        kind = self._plain_heads.get(data[start])
        size = data[start + 1] - _MASKED
        if kind is None or not 0 <= size < 127:
            return None
        payload = start + _MIN_FRAME_BYTES
        if size == 126:
            size = data[start + 2] << 8 | data[start + 3]
            payload += 2
        stop = payload + size
        if stop > len(data) or size > self._max_message_bytes:
            return None
        self._is_text, self._is_compressed = kind
        return apply_mask(data[payload:stop], data[payload - 4 : payload]), stop

    def _finish(self, whole: bytes | bytearray) -> str | bytes:
        """Return the message of this payload. Raises as `inflate` does, and UnicodeDecodeError."""
        if self._is_compressed:
            whole = inflate(whole, most=self._max_message_bytes)
        if not whole:
            self._units += 1
        return whole.decode() if self._is_text else bytes(whole)

    def take_replies(self) -> bytes:
        """Return what is to be sent back."""
        return b"" if self._protocol is None else b"".join(self._protocol.data_to_send())

    def take_units(self) -> int:
        """Return what has been counted since the last call (see `triocast.floods`)."""
        units, self._units = self._units, 0
        return units

    def _make_protocol(self) -> Protocol:
        # In the middle of a message the core applies what is left of its bound to control frames,
        # so it gets that much more, and messages are measured here.
        bound = self._max_message_bytes + _MOST_CONTROL_BYTES
        protocol = _Core(Side.SERVER, max_size=bound, logger=_log)
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
            self._units += 1
            return None  # A control frame: the protocol has made its reply already.
        self._fragment_count = 0 if frame.fin else self._fragment_count + 1
        self._units += fragment_units(self._fragment_count, len(data))
        if len(self._fragments) + len(data) > self._max_message_bytes:
            raise PayloadTooBig(None, self._max_message_bytes)
        if frame.fin and not self._fragments:
            return bytes(data)
        self._fragments += data
        if not frame.fin:
            return None
        whole, self._fragments = self._fragments, bytearray()
        return whole


class _Core(Protocol):
    """The protocol core of `websockets` (checked with versions 15 to 17).

    A close frame between the fragments of a message is an ordinary one (RFC 6455, 5.4 and 5.5.1);
    the core would answer it with a protocol error.
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            with suppress(ProtocolError):  # There is no message to end.
                super().recv_frame(Frame(Opcode.CONT, b"", fin=True))
                self.events.pop()
        super().recv_frame(frame)


_log = logging.getLogger("triocast.websocket")
# What the package notes for debugging are texts of clients, and tokens may be in them.
_log.setLevel(logging.INFO)
