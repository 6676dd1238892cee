"""The native WebSocket protocol ``triocast.v1``: subscribe, publish, ask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs
import trio

from triocast.clock import timestamp
from triocast.errors import Disabled, Forbidden, TooManyChannels, TriocastError, WrongContentType
from triocast.events import (
    BROADCAST,
    Accepted,
    Event,
    Pending,
    Position,
)
from triocast.subscriptions import EVERYTHING, Encoder, Filter, make_filter
from triocast.transports.deflate import DeflatedTextFrameEncoder
from triocast.transports.websocket import (
    TextFrameEncoder,
    TextMessageEncoder,
    WebSocketConnection,
)
from triocast.turns import Turns
from triocast.wire import cursor, envelope, messages
from triocast.wire.start import standing

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


class _Outcome(NamedTuple):
    """What becomes of one message that is still to be answered: an event, or an answer."""

    request_id: messages.RequestId
    event: Event | None
    answer: bytes | None
    """None for a publish that succeeds and has no id: nobody waits for it."""


class NativeConnection(WebSocketConnection):
    """A client that speaks the native protocol."""

    __slots__ = (
        "_channels",
        "_heartbeat_events",
        "_is_opening",
        "_joined",
        "_max_json_depth",
        "_most_channels",
        "_outcomes",
        "_publisher",
        "_stands",
        "_start",
        "_unpublished_bytes",
    )

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
        super().__init__(
            connections, id=id, grant=grant, address=address, max_message_bytes=max_message_bytes
        )
        self._filter = filter
        self._channels = channels
        self._start = start
        self._publisher = publisher
        self._most_channels = most_channels
        self._max_json_depth = max_json_depth
        self._heartbeat_events = heartbeat_events
        self._is_opening = start is not None  # The first backlog is still to be given.
        self._stands = False  # It was given events, or told a cursor, since it came.
        self._joined: dict[str, None] = {}  # in the order of joining
        # In the order of their messages: what is published together, and answered together.
        self._outcomes: list[_Outcome] = []
        self._unpublished_bytes = 0

    # The life of the connection.

    def _opened(self) -> None:
        if self._start is not None:
            self._hold()
            self.seq = 0
        live = self._hub.subscribe(self, self._channels, self._filter)
        self._push_text(self._hello(standing(self._start, live)))

    @property
    def _begins(self) -> bool:
        return self._start is not None

    async def _begin(self) -> None:
        if self._start is None:
            return
        start, self._start = self._start, None
        live = self._hub.accepted
        names = self._hub.subscriptions(self)
        await self._catch_up(self._backlog(names, self._filter, start, live))
        self._is_opening = False
        self._stands = True
        self._push_text(envelope.encode_live(timestamp(), Position(live.epoch, self.seq)))

    def _push_heartbeat(self) -> None:
        """Push a heartbeat if it is asked for, or tells the client that it stands further on.

        So the cursor of a client that gets no events does not grow old.
        """
        at: Position | None = None
        is_news = False
        if self._held is None and not self.queued_bytes:
            written = self._hub.written
            self._stands = True
            is_news = written.seq > self.seq
            self.seq = max(self.seq, written.seq)
            at = Position(written.epoch, self.seq)
        if is_news or self._heartbeat_events or self._reader is None:
            self._push_text(envelope.encode_heartbeat(timestamp(), at))

    def _encoder_behind(self, stands: Position) -> Encoder | None:
        if not self._stands and not self.events and (self._is_opening or not self._held):
            return None  # It was told where it stands when it came, and nothing since.
        assert isinstance(
            self.encoder, TextFrameEncoder | TextMessageEncoder | DeflatedTextFrameEncoder
        )
        return attrs.evolve(self.encoder, behind=stands)

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
                if self.reason is not None:
                    await trio.sleep_forever()  # By that it was ended: for the cancellation.
                answer = messages.encode_reply(request_id, await self._carry_out(request))
        except messages.MessageError as error:
            answer = messages.encode_error(error.id, error.error)
        except TriocastError as error:
            answer = messages.encode_error(request_id, error)
        self._outcomes.append(_Outcome(request_id, event, answer))

    def _has_enough(self, turns: Turns) -> bool:
        # Not by time: what is published together costs less.
        return len(self._outcomes) == MESSAGES_PER_TURN or self._unpublished_bytes > BYTES_PER_TURN

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
        self._hub.check_room(added)
        if request.start is not None:
            self._hold()
        filter = make_filter(request.types, request.tags)
        live = self._hub.subscribe(self, request.channels, filter)
        if request.join:
            self._forget_joined(request.channels)
            self._joined.update(dict.fromkeys(request.channels))
        if request.start is not None:
            backlog = self._backlog(request.channels, filter, request.start, live)
            await self._catch_up(backlog)
        else:
            # What other subscriptions still get of the time before comes before this cursor.
            await self._hub.wait_until_written()
            self.seq = max(self.seq, live.seq)
        self._stands = True
        return {
            "channels": request.channels,
            "cursor": cursor.encode(Position(live.epoch, self.seq)),
        }

    def _forget_joined(self, names: Iterable[str]) -> None:
        for name in names:
            self._joined.pop(name, None)

    def _event(self, request: messages.Publish) -> Event:
        return self._publisher.new_event(
            self.grant,
            request.event,
            otherwise=next(reversed(self._joined), BROADCAST),
            exclude=None if request.echo else self.id,
        )


def _acknowledge(request_id: messages.RequestId, accepted: Accepted) -> bytes | None:
    if request_id is None:
        return None
    channel = accepted.event.channel
    if isinstance(accepted, Pending):
        return messages.encode_reply(request_id, {"channel": channel, "pending": True})
    position = cursor.encode(accepted.position)
    return messages.encode_acknowledgement(request_id, channel, position)
