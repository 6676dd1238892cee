"""WebSocket connections, over frames of our own or over ASGI; what is said is for subclasses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs
import trio

from triocast.clock import timestamp
from triocast.connection import Connection
from triocast.errors import EndReason
from triocast.events import Publication
from triocast.resume import Gap
from triocast.transports.deflate import DeflatedTextFrameEncoder
from triocast.transports.gaps import gap_text, loss_text
from triocast.transports.links import ASGIReceive, ASGISend, TaskLink
from triocast.wire import envelope
from triocast.wire import websocket as frames

if TYPE_CHECKING:
    from triocast.auth import Grant
    from triocast.connections import Connections

_END_REASONS: Final = {
    1002: EndReason.PROTOCOL_ERROR,
    1007: EndReason.INVALID_TEXT,
    1009: EndReason.MESSAGE_TOO_BIG,
}


@attrs.frozen
class TextFrameEncoder:
    """Events as whole WebSocket text frames, for streams of our own."""

    def encode(self, publication: Publication) -> bytes:
        return frames.text_frame(envelope.encode_publication(publication))

    def encode_gap(self, publication: Publication) -> bytes:
        return frames.text_frame(loss_text(publication))

    def join(self, parts: list[bytes]) -> bytes:
        return b"".join(parts)


@attrs.frozen
class TextMessageEncoder:
    """Events as texts: messages for ASGI servers, which make the frames, and parts of answers."""

    def encode(self, publication: Publication) -> bytes:
        return envelope.encode_publication(publication)

    def encode_gap(self, publication: Publication) -> bytes:
        return loss_text(publication)

    def join(self, parts: list[bytes]) -> bytes:
        return b""  # Messages stay apart; nobody asks for the joined form of this encoder.


TEXT_FRAMES: Final = TextFrameEncoder()
TEXT_MESSAGES: Final = TextMessageEncoder()


class ASGIWebSocketLink(TaskLink):
    """An accepted ASGI WebSocket: messages rather than bytes, and no control frames."""

    taken_over = False

    def __init__(self, receive: ASGIReceive, send: ASGISend) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self.close_code = 1000

    async def _transmit(self, frames: Sequence[bytes | memoryview]) -> None:
        for frame in frames:
            await self._send({"type": "websocket.send", "text": str(frame, "utf-8")})

    async def receive(self) -> str | bytes | None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return None
            if message["type"] == "websocket.receive":
                text: str | None = message.get("text")
                return bytes(message.get("bytes") or b"") if text is None else text

    async def finish(self, farewell: Sequence[bytes | memoryview]) -> None:
        # Messages are whole by themselves, so that this may follow any of them.
        await self._send_last(farewell)
        await self._send({"type": "websocket.close", "code": self.close_code})

    def close(self) -> None:
        """Nothing to do: the WebSocket ends when the application returns."""


class WebSocketConnection(Connection):
    """A client that is sent messages and sends some."""

    __slots__ = ("_heard", "_leftover", "_max_message_bytes", "_reader")

    transport = "websocket"

    def __init__(
        self,
        connections: Connections,
        *,
        id: str,
        grant: Grant,
        address: str | None,
        max_message_bytes: int,
    ) -> None:
        super().__init__(connections, id=id, grant=grant, address=address)
        self.encoder = TEXT_MESSAGES
        self._max_message_bytes = max_message_bytes
        self._heard = True
        self._reader: frames.FrameReader | None = None
        self._leftover = b""

    def use_frames(
        self, leftover: bytes, *, deflate: DeflatedTextFrameEncoder | None = None
    ) -> None:
        """Speak frames over a stream of our own that begins with ``leftover``; before `run`.

        ``deflate`` is given if compression was agreed on.
        """
        self.encoder = TEXT_FRAMES if deflate is None else deflate
        self._reader = frames.FrameReader(
            max_message_bytes=self._max_message_bytes, deflate=deflate is not None
        )
        self._leftover = leftover

    # What a protocol decides.

    async def _begin(self) -> None:
        """Do what comes before the client's first message is read."""

    @abstractmethod
    async def _handle(self, message: str | bytes) -> None:
        """Carry out one message; answering it may be left to `_answer`."""

    async def _answer(self) -> None:
        """Answer what was read in one go and is not answered yet."""

    @property
    def _has_enough(self) -> bool:
        """Whether so much waits for its answer that others should get their turn."""
        return False

    def _push_heartbeat(self) -> None:
        """Push a heartbeat besides the ping; where there are no pings, in their place."""
        if self._reader is None:
            self._push_text(envelope.encode_heartbeat(timestamp()))

    # The life of the connection.

    async def _receive(self) -> None:
        await self._begin()
        if self._reader is None:
            while (message := await self._link.receive()) is not None:
                if self.reason is not None:
                    return  # What it still asked for is nobody's any more.
                self._heard = True
                if isinstance(message, str) and len(message.encode()) > self._max_message_bytes:
                    self.end(EndReason.MESSAGE_TOO_BIG)
                    return
                await self._handle(message)
                await self._answer()
            return
        data = self._leftover or await self._link.receive()
        self._leftover = b""
        while data is not None:
            assert isinstance(data, bytes)
            self._heard = True
            for message in self._reader.receive(data):
                if self.reason is not None:
                    return  # What it still asked for is nobody's any more.
                await self._handle(message)
                if self._has_enough:
                    await self._answer()
                    await trio.lowlevel.checkpoint()
            await self._answer()
            if replies := self._reader.take_replies():
                self.push(replies)
            code = self._reader.close_code
            if code is not None:
                by_peer = self._reader.closed_by_peer
                self.end(
                    EndReason.CLIENT_CLOSED
                    if by_peer
                    else _END_REASONS.get(code, EndReason.PROTOCOL_ERROR)
                )
                return
            data = await self._link.receive()

    def _beat(self) -> None:
        if not self._heard and self._reader is not None:
            self.end(EndReason.PEER_LOST)
            return
        self._heard = False
        self._push_heartbeat()
        if self._reader is not None:
            self.push(frames.frame(frames.PING, b""))

    def _farewell(self, reason: EndReason) -> Sequence[bytes] | None:
        if isinstance(self._link, ASGIWebSocketLink):
            self._link.close_code = reason.close_code
            return None if reason is EndReason.CLIENT_CLOSED else []
        if self._reader is None or self._reader.close_code is not None:
            return []
        return [frames.close_frame(reason.close_code, reason.word)]

    def _gap_frame(self, gap: Gap) -> bytes:
        text = gap_text(gap)
        return text if self._reader is None else frames.text_frame(text)

    def _progressed(self) -> None:
        self._heard = True

    def _push_text(self, text: bytes) -> None:
        self.push(text if self._reader is None else frames.text_frame(text))

    def _push_texts(self, texts: list[bytes]) -> None:
        if self._reader is None:
            for text in texts:
                self.push(text)
        elif texts:
            self.push(b"".join(frames.text_frame(text) for text in texts))
