"""WebSocket compression: permessage-deflate (RFC 7692), without context takeover either way.

Each message is deflated by itself. So one finished frame serves every client that agreed, and
nothing of zlib stays with a connection between messages.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from websockets.exceptions import (
    InvalidHeaderFormat,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
)
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import BINARY, TEXT, Frame
from websockets.headers import build_extension, parse_extension
from websockets.typing import ExtensionName

NAME: Final = ExtensionName("permessage-deflate")

WINDOW_BITS: Final = 12
"""How far back our frames refer: 4 kB. For events up to 64 kB, 15 bits save less than 1 % more
and take three times the memory to set up; and clients that ask for a small window ask for this.
"""

_LEVEL: Final = 6
_MEMORY_LEVEL: Final = 5
_TAIL: Final = b"\x00\x00\xff\xff"
"""What ends a flushed block; the sender leaves it off and the receiver adds it (section 7.2)."""

_MOST_BEHIND_THE_END: Final = 1
"""Bytes that may follow a block which says it is the last: the empty one of section 7.2.3.4."""

_factory: Final = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True
)


def negotiate(offers: Iterable[str]) -> str | None:
    """Return the ``Sec-WebSocket-Extensions`` to answer with; None to go on without compression.

    ``offers`` are the request's fields of that name. The first offer that can be met is taken;
    others are declined: with parameters that are unknown, invalid or given twice, and those for a
    window smaller than `WINDOW_BITS`.
    """
    try:
        offered = [offer for field in offers for offer in parse_extension(field)]
    except InvalidHeaderFormat:
        return None
    for name, parameters in offered:
        if name != NAME:
            continue
        try:
            answer, agreed = _factory.process_request_params(parameters, [])
        except NegotiationError:
            continue
        if agreed.local_max_window_bits >= WINDOW_BITS:
            return build_extension([(NAME, answer)])
    return None


def deflate(payload: bytes) -> bytes:
    """Return a message's payload compressed, as it stands in a frame with RSV1."""
    # A new one each time: it costs no more than flushing an old one until it forgets all.
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY_LEVEL)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def inflate(payload: bytes | bytearray, *, most: int) -> bytes:
    """Return the payload of a whole compressed message as it was before: ``most`` bytes at most.

    Raises PayloadTooBig for more, without having made more, and ProtocolError for what is not
    compressed data.
    """
    # As large as windows get: what the client may use has no bearing on ours.
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = decompressor.decompress(payload + _TAIL, most + 1)
    except zlib.error as error:
        raise ProtocolError("a message cannot be inflated") from error
    if len(data) > most:
        raise PayloadTooBig(None, most)
    if len(decompressor.unused_data) > len(_TAIL) + _MOST_BEHIND_THE_END:
        raise ProtocolError("there is something behind the end of a compressed message")
    return data


class CompressedFrame(Frame):
    """The first frame, or the only one, of a message that is compressed."""


class Marking(Extension):
    """Lets compressed messages pass the protocol core of `websockets` as they are.

    The core would inflate all frames that came together before any of them is looked at: a
    hundred times the bound of a message from one read. And its own extension keeps what a client
    sends behind a block that says it is the last, without bound.
    """

    name = NAME

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.rsv1 and frame.opcode in (TEXT, BINARY):
            return CompressedFrame(
                frame.opcode, frame.data, frame.fin, False, frame.rsv2, frame.rsv3
            )
        return frame  # RSV1 on others is refused by the core.

    def encode(self, frame: Frame) -> Frame:
        return frame  # What the core sends are control frames.
