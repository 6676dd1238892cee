"""WebSocket connections, over frames of our own or over ASGI; what is said is for subclasses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import trio

from triocast.clock import timestamp
from triocast.connection import Connection
from triocast.errors import EndReason
from triocast.events import Position, Publication
from triocast.floods import FloodLimiter
from triocast.resume import Gap
from triocast.transports.deflate import DeflatedTextFrameEncoder
from triocast.transports.gaps import gap_text, loss_text
from triocast.transports.links import ASGIReceive, ASGISend, TaskLink
from triocast.turns import Turns
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


MOST_MESSAGES_AHEAD: Final = 256
"""How many messages of a client are read before the first of them has been handled."""

MOST_BYTES_AHEAD: Final = 65_536
"""The same for their bytes, inflated; one message may go beyond it."""


@attrs.frozen
class TextFrameEncoder:
    """Events as whole WebSocket text frames, for streams of our own.

    ``behind``, here and below, is as for the envelope.
    """

    behind: Position | None = None

    def encode(self, publication: Publication) -> bytes:
        return frames.text_frame(envelope.encode_publication(publication, behind=self.behind))

    def encode_gap(self, publication: Publication) -> bytes:
        return frames.text_frame(loss_text(publication, behind=self.behind))

    def join(self, parts: list[bytes]) -> bytes:
        return b"".join(parts)


@attrs.frozen
class TextMessageEncoder:
    """Events as texts: messages for ASGI servers, which make the frames, and parts of answers."""

    behind: Position | None = None

    def encode(self, publication: Publication) -> bytes:
        return envelope.encode_publication(publication, behind=self.behind)

    def encode_gap(self, publication: Publication) -> bytes:
        return loss_text(publication, behind=self.behind)

    def join(self, parts: list[bytes]) -> bytes:
        return b""  # Messages stay apart; nobody asks for the joined form of this encoder.


TEXT_FRAMES: Final = TextFrameEncoder()
TEXT_MESSAGES: Final = TextMessageEncoder()


@coroutine
def noticing_wait(
    work: Coroutine[Any, Any, None], on_wait: Callable[[], None]
) -> Generator[Any, Any, bool]:
    """Do ``work``, and call ``on_wait`` when it waits for the first time.

    Return whether it has waited.
    """
    try:
        trap = work.send(None)
    except StopIteration:
        return False
    on_wait()
    while True:
        try:
            outcome = yield trap
        except BaseException as error:  # noqa: ASYNC103, BLE001 - for the work to handle
            step = partial(work.throw, error)
        else:
            step = partial(work.send, outcome)
        try:
            trap = step()
        except StopIteration:
            return True


class ASGIWebSocketLink(TaskLink):
    """An accepted ASGI WebSocket: messages rather than bytes, and no control frames."""

    taken_over = False

    def __init__(self, receive: ASGIReceive, send: ASGISend) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self.close_code = 1000
        self.client_close_code: int | None = None
        self.is_flooded = False
        """Whether our server ended it as a flood; other servers have bounds of their own."""

    async def _transmit(self, frames: Sequence[bytes | memoryview]) -> None:
        for frame in frames:
            await self._send({"type": "websocket.send", "text": str(frame, "utf-8")})

    async def receive(self) -> str | bytes | None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self.is_flooded = message.get("reason") == EndReason.FLOOD.word
                self.client_close_code = message.get("code")
                return None
            if message["type"] == "websocket.receive":
                text: str | None = message.get("text")
                return bytes(message.get("bytes") or b"") if text is None else text

    async def finish(
        self, farewell: Sequence[bytes | memoryview], *, abruptly: bool = False
    ) -> None:
        # Messages are whole by themselves, so that this may follow any of them.
        await self._send_last(farewell)
        await self._send({"type": "websocket.close", "code": self.close_code})

    def close(self) -> None:
        """Nothing to do: the WebSocket ends when the application returns."""


class WebSocketConnection(Connection):
    """A client that is sent messages and sends some."""

    __slots__ = (
        "_flood_limiter",
        "_heard",
        "_is_handling",
        "_is_read",
        "_leftover",
        "_max_message_bytes",
        "_parsing",
        "_progress",
        "_reader",
        "_resting",
        "_unhandled",
        "_unhandled_bytes",
    )

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
        # What was read and is not handled yet. A list, as an empty deque has more than 700 bytes.
        self._unhandled: list[str | bytes] = []
        self._unhandled_bytes = 0
        self._parsing: Iterator[str | bytes | None] | None = None
        self._is_handling = False
        self._is_read = False  # to the client's end
        self._resting: trio.Event | None = None  # While one of two tasks rests.
        self._progress: trio.Event | None = None  # While the reader waits for the handler.
        self._flood_limiter: FloodLimiter | None = None  # Once there is something to count.

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

    @property
    def _begins(self) -> bool:
        """Whether `_begin` has something to do."""
        return False

    async def _begin(self) -> None:
        """Do what comes before the client's first message is handled."""

    @abstractmethod
    async def _handle(self, message: str | bytes) -> None:
        """Carry out one message; answering it may be left to `_answer`."""

    async def _answer(self) -> None:
        """Answer what was read in one go and is not answered yet."""

    def _has_enough(self, turns: Turns) -> bool:
        """Say whether what was handled is to be answered, and others should get their turn."""
        return turns.over()

    @property
    def client_close_code(self) -> int | None:
        """The code that the client has closed with; None if it has not."""
        if self._reader is not None:
            return self._reader.peer_close_code
        return getattr(self._link, "client_close_code", None)

    def _push_heartbeat(self) -> None:
        """Push a heartbeat besides the ping; where there are no pings, in their place."""
        if self._reader is None:
            self._push_text(envelope.encode_heartbeat(timestamp()))

    # The life of the connection.

    async def _receive(self) -> None:
        if self._reader is None:
            await self._receive_messages()
        else:
            await self._receive_frames()

    async def _receive_messages(self) -> None:
        """Handle the messages of an ASGI server, which answers pings itself."""
        await self._begin()
        while (message := await self._link.receive()) is not None:
            if self.reason is not None:
                return  # What it still asked for is nobody's any more.
            self._heard = True
            if isinstance(message, str) and len(message.encode()) > self._max_message_bytes:
                self.end(EndReason.MESSAGE_TOO_BIG)
                return
            if not message and self._is_flood(1):
                self.end(EndReason.FLOOD)
                return
            await self._handle(message)
            await self._answer()
        if isinstance(self._link, ASGIWebSocketLink) and self._link.is_flooded:
            self.end(EndReason.FLOOD)

    # One task reads frames, answers pings and handles messages, as long as handling need not wait.
    # When it does, a second task reads on, so that pings are answered meanwhile. From then on the
    # two take turns: one of them reads, the other one handles or rests.

    async def _receive_frames(self) -> None:
        if self._begins and await self._handle_and_pass_on():
            await self._rest()
        await self._take_turns()

    async def _take_turns(self) -> None:
        while True:
            await self._read_some()
            if self._unhandled and not self._is_handling and await self._handle_and_pass_on():
                await self._rest()

    async def _handle_and_pass_on(self) -> bool:
        """Handle what was read; return whether the other task reads by now."""
        return await noticing_wait(self._handle_all(), self._pass_on)

    def _pass_on(self) -> None:
        if self._resting is not None:
            self._resting.set()
            self._resting = None
        elif self._nursery is not None:
            self._nursery.start_soon(self._take_turns)

    async def _rest(self) -> None:
        self._resting = trio.Event()
        await self._resting.wait()

    async def _read_some(self) -> None:
        """Read and parse, as far ahead as the client may be; end the connection at its end."""
        reader = self._reader
        assert reader is not None
        if self._parsing is None:
            data = await self._read_bytes()
            if data is None:
                await self._finish_when_handled()
            self._heard = True
            self._parsing = reader.receive(data)
        turns = Turns()
        for message in self._parsing:
            if message is not None:
                self._unhandled.append(message)
                self._unhandled_bytes += len(message)
                if self._is_ahead:
                    break
            elif turns.over():
                await self._end_flood(reader)
                await turns.give()
        else:
            self._parsing = None
        if reader.close_code is not None and self._parsing is None:
            if not self._is_handling:
                await self._handle_all()
            await self._finish_when_handled()
        await self._end_flood(reader)
        if replies := reader.take_replies():
            self.push_ahead(replies)
        if self._is_handling:
            await self._until(lambda: not self._is_ahead)

    async def _end_flood(self, reader: frames.FrameReader) -> None:
        """End the connection if too much of what was read says nothing."""
        if self._is_flood(reader.take_units()):
            self.end(EndReason.FLOOD)
            await trio.sleep_forever()  # for the cancellation that has begun

    def _is_flood(self, units: int) -> bool:
        """Count what says nothing; say whether that was too much (see `triocast.floods`)."""
        if not units:
            return False
        now = trio.current_time()
        if self._flood_limiter is None:
            self._flood_limiter = FloodLimiter(now)
        return not self._flood_limiter.spend(units, now)

    async def _finish_when_handled(self) -> NoReturn:
        self._is_read = True
        if not self._is_handling:
            self._finish()
        await trio.sleep_forever()  # for the cancellation that comes

    def _finish(self) -> None:
        """End the connection: all that the client sent has been handled."""
        assert self._reader is not None
        code = self._reader.close_code
        if replies := self._reader.take_replies():
            self.push(replies)
        if code is None or self._reader.closed_by_peer:
            self.end(EndReason.CLIENT_CLOSED)
        else:
            self.end(_END_REASONS.get(code, EndReason.PROTOCOL_ERROR))

    async def _read_bytes(self) -> bytes | None:
        """Return what comes next. If this raises, what came before has been handled."""
        if self._leftover:
            data, self._leftover = self._leftover, b""
            return data
        try:
            received = await self._link.receive()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            failure = error
        else:
            assert received is None or isinstance(received, bytes)
            return received
        await self._until(lambda: not self._is_handling)
        raise failure

    @property
    def _is_ahead(self) -> bool:
        """Whether so much is read ahead that the client has to wait."""
        return (
            self._unhandled_bytes >= MOST_BYTES_AHEAD or len(self._unhandled) >= MOST_MESSAGES_AHEAD
        )

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._progress = trio.Event()
            await self._progress.wait()

    async def _handle_all(self) -> None:
        self._is_handling = True
        unhandled = self._unhandled
        turns = Turns()
        if self._begins:
            await self._begin()
        while unhandled:
            if self.reason is not None:
                await trio.sleep_forever()  # What it still asked for is nobody's any more.
            message = unhandled.pop(0)
            self._unhandled_bytes -= len(message)
            await self._handle(message)
            if self._has_enough(turns):
                await self._answer()
                await turns.give()
            if not unhandled:
                await self._answer()
            if self._progress is not None:
                self._progress.set()
        self._is_handling = False
        if self._is_read:
            self._finish()  # In this very step: what was just pushed goes out with the farewell.
        elif self._progress is not None:
            self._progress.set()

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
        if self._reader is None:
            return []
        if self._reader.close_code is not None:
            return [self._reader.take_replies()]
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
