"""WebSocket: the native protocol ``triocast.v1``, over frames of our own or over ASGI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs
import msgspec
import trio

from triocast.clock import timestamp
from triocast.connection import Connection
from triocast.errors import (
    Disabled,
    EndReason,
    Forbidden,
    TooManyChannels,
    TriocastError,
    WrongContentType,
)
from triocast.events import (
    BROADCAST,
    Accepted,
    Event,
    Pending,
    Position,
    Publication,
    parse_channel,
)
from triocast.publisher import Idempotency
from triocast.resume import Gap
from triocast.subscriptions import EVERYTHING, Filter, make_filter
from triocast.transports.deflate import DeflatedTextFrameEncoder
from triocast.transports.links import ASGIReceive, ASGISend, TaskLink
from triocast.wire import cursor, envelope, messages
from triocast.wire import websocket as frames

if TYPE_CHECKING:
    from triocast.auth import Grant
    from triocast.connections import Connections
    from triocast.publisher import Publisher
    from triocast.wire.start import Start

SUBPROTOCOL: Final = "triocast.v1"

MESSAGES_PER_TURN: Final = 64
"""How many of a client's messages are carried out before others get their turn."""

BYTES_PER_TURN: Final = 65_536
"""The same for their data."""

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

    def join(self, parts: list[bytes]) -> bytes:
        return b"".join(parts)


@attrs.frozen
class TextMessageEncoder:
    """Events as message texts, for ASGI servers, which make the frames."""

    def encode(self, publication: Publication) -> bytes:
        return envelope.encode_publication(publication)

    def join(self, parts: list[bytes]) -> bytes:
        return b""  # Messages stay apart; nobody asks for the joined form of this encoder.


TEXT_FRAMES: Final = TextFrameEncoder()
TEXT_MESSAGES: Final = TextMessageEncoder()


class _Outcome(NamedTuple):
    """What becomes of one message that is still to be answered: an event, or an answer."""

    request_id: messages.RequestId
    event: Event | None
    answer: bytes | None
    """None for a publish that succeeds and has no id: nobody waits for it."""


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
    """A client that speaks the native protocol."""

    __slots__ = (
        "_channels",
        "_heard",
        "_heartbeat_events",
        "_joined",
        "_leftover",
        "_max_json_depth",
        "_max_message_bytes",
        "_most_channels",
        "_outcomes",
        "_publisher",
        "_reader",
        "_start",
        "_unpublished_bytes",
    )

    transport = "websocket"

    def __init__(
        self,
        connections: Connections,
        publisher: Publisher,
        *,
        id: str,
        grant: Grant,
        address: str | None,
        most_channels: int,
        max_message_bytes: int,
        max_json_depth: int,
        heartbeat_events: bool = False,
        channels: Sequence[str] = (),
        filter: Filter = EVERYTHING,
        start: Start | None = None,
    ) -> None:
        """Make the connection of a client that begins with these channels.

        ``filter`` and ``start`` are for them, and for what is for all and for its user.
        """
        super().__init__(connections, id=id, grant=grant, address=address)
        self.encoder = TEXT_MESSAGES
        self._filter = filter
        self._channels = channels
        self._start = start
        self._publisher = publisher
        self._most_channels = most_channels
        self._max_message_bytes = max_message_bytes
        self._max_json_depth = max_json_depth
        self._heartbeat_events = heartbeat_events
        self._joined: dict[str, None] = {}  # in the order of joining
        # In the order of their messages: what is published together, and answered together.
        self._outcomes: list[_Outcome] = []
        self._unpublished_bytes = 0
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

    # The life of the connection.

    def _opened(self) -> None:
        hello = {
            "type": "connected",
            "timestamp": timestamp(),
            "data": {
                "connection_id": self.id,
                "user": self.user,
                "heartbeat_seconds": self._heartbeat_seconds,
            },
        }
        if self._start is not None:
            self._hold()
            self.seq = 0
        live = self._hub.subscribe(self, self._channels, self._filter)
        if self._start is None:
            hello["id"] = cursor.encode(live)
        self._push_text(msgspec.json.encode(hello))

    async def _receive(self) -> None:
        if self._start is not None:
            live = self._hub.accepted
            names = self._hub.subscriptions(self)
            await self._catch_up(self._backlog(names, self._filter, self._start, live))
            at = cursor.encode(Position(live.epoch, self.seq))
            told = {"type": "live", "timestamp": timestamp(), "data": None, "id": at}
            self._push_text(msgspec.json.encode(told))
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
                if (
                    len(self._outcomes) == MESSAGES_PER_TURN
                    or self._unpublished_bytes > BYTES_PER_TURN
                ):
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
        if self._heartbeat_events or self._reader is None:
            self._push_text(envelope.encode_heartbeat(timestamp()))
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
        text = envelope.encode_gap(timestamp(), **attrs.asdict(gap, recurse=False))
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

    # What the client asks.

    async def _handle(self, message: str | bytes) -> None:
        """Carry out one message, but for publishing and answering: that is for `_answer`."""
        request_id: messages.RequestId = None
        event: Event | None = None
        answer: bytes | None = None
        try:
            if isinstance(message, bytes):
                raise WrongContentType("binary messages are not taken here; send JSON text")
            request = messages.parse(message, max_depth=self._max_json_depth)
            request_id = request.id
            if isinstance(request, messages.Publish):
                event = self._event(request)
                self._unpublished_bytes += len(event.data)
            else:
                await self._answer()  # Whoever subscribes now does not get what came before.
                answer = messages.encode_reply(request_id, await self._carry_out(request))
        except messages.MessageError as error:
            answer = messages.encode_error(error.id, error.error)
        except TriocastError as error:
            answer = messages.encode_error(request_id, error)
        self._outcomes.append(_Outcome(request_id, event, answer))

    async def _answer(self) -> None:
        """Publish what is to be published, and answer all that has not been answered yet."""
        outcomes, self._outcomes = self._outcomes, []
        self._unpublished_bytes = 0
        events = [outcome.event for outcome in outcomes if outcome.event is not None]
        published = iter(await self._publisher.publish_each(events) if events else ())
        answers = []
        for outcome in outcomes:
            answer = outcome.answer
            if outcome.event is not None:
                result = next(published)
                if isinstance(result, TriocastError):
                    answer = messages.encode_error(outcome.request_id, result)
                else:
                    answer = _acknowledge(outcome.request_id, result)
            if answer is not None:
                answers.append(answer)
        self._push_texts(answers)

    async def _carry_out(
        self,
        request: messages.Subscribe | messages.Unsubscribe | messages.Members | messages.Ping,
    ) -> dict[str, object]:
        match request:
            case messages.Subscribe():
                return await self._subscribe(request)
            case messages.Unsubscribe():
                self._hub.unsubscribe(self, request.channels)
                self._forget_joined(request.channels)
                return {"channels": request.channels}
            case messages.Members():
                return await self._members(request)
            case messages.Ping():
                return {"timestamp": timestamp()}

    async def _members(self, request: messages.Members) -> dict[str, object]:
        if not self.grant.may_subscribe(request.channel):
            raise Forbidden(f"you may not know who is on {request.channel}")
        if self._connections.presence is None:
            raise Disabled("presence is off")
        return await self._connections.presence.members(request.channel, after=request.after)

    async def _subscribe(self, request: messages.Subscribe) -> dict[str, object]:
        for name in request.channels:
            if not self.grant.may_subscribe(name):
                raise Forbidden(f"you may not subscribe to {name}")
        if self._connections.presence is not None:
            self._connections.presence.check_names(request.channels)
        added = sum(not self._hub.is_subscribed(self, name) for name in request.channels)
        if added and self._hub.subscription_count(self) + added > self._most_channels:
            raise TooManyChannels(
                f"a connection subscribes to {self._most_channels} channels at the most"
            )
        if request.start is not None:
            self._hold()
        filter = make_filter(request.types, request.tags)
        live = self._hub.subscribe(self, request.channels, filter)
        if request.join:
            self._forget_joined(request.channels)
            self._joined.update(dict.fromkeys(request.channels))
        if request.start is not None:
            await self._catch_up(self._backlog(request.channels, filter, request.start, live))
            live = Position(live.epoch, self.seq)
        return {"channels": request.channels, "cursor": cursor.encode(live)}

    def _forget_joined(self, names: Iterable[str]) -> None:
        for name in names:
            self._joined.pop(name, None)

    def _event(self, request: messages.Publish) -> Event:
        if request.channel is not None:
            channel = parse_channel(request.channel)
        else:
            channel = next(reversed(self._joined), BROADCAST)
        return self._publisher.event(
            self.grant,
            channel=channel,
            type=request.type,
            data=request.data,
            key=request.key,
            tags=request.tags,
            exclude=None if request.echo else self.id,
            once=None if request.idempotency_key is None else Idempotency(request.idempotency_key),
            urgent=request.urgent,
        )


def _acknowledge(request_id: messages.RequestId, accepted: Accepted) -> bytes | None:
    if request_id is None:
        return None
    channel = accepted.event.channel
    if isinstance(accepted, Pending):
        return messages.encode_reply(request_id, {"channel": channel, "pending": True})
    position = cursor.encode(accepted.position)
    return messages.encode_acknowledgement(request_id, channel, position)
