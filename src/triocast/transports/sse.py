"""Server-Sent Events: how a connection speaks to an ``EventSource``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from triocast.clock import timestamp
from triocast.connection import Connection
from triocast.connections import jittered_retry_ms
from triocast.errors import EndReason, TriocastError, Unauthorized
from triocast.events import Position, Publication, is_connection_channel
from triocast.resume import Backlog, Gap, gap_of
from triocast.subscriptions import EVERYTHING, Filter
from triocast.transports.gaps import gap_text
from triocast.wire import cursor, envelope, sse
from triocast.wire.start import After, Start

if TYPE_CHECKING:
    from triocast.auth import Grant
    from triocast.connections import Connections

MOST_INBOUND_BYTES: Final = 65_536
"""What a client may send behind its request; it is not read for anything."""


@attrs.frozen(eq=False)
class SSEEncoder:
    """Events as blocks; ``named`` adds ``event:``, ``chunked`` the HTTP/1.1 chunk around it."""

    named: bool
    chunked: bool

    def encode(self, publication: Publication) -> bytes:
        event = publication.event
        block = sse.block(
            id=None
            if is_connection_channel(event.channel)
            else cursor.encode(publication.position),
            event=event.type if self.named else None,
            data=envelope.encode_publication(publication),
        )
        return sse.chunk(block) if self.chunked else block

    def encode_gap(self, publication: Publication) -> bytes:
        return self.gap_frame(gap_of(publication))

    def gap_frame(self, gap: Gap) -> bytes:
        """Return the block that tells of a gap."""
        event = "gap" if self.named else None
        block = sse.block(id=cursor.encode(gap.resume_at), event=event, data=gap_text(gap))
        return sse.chunk(block) if self.chunked else block

    def join(self, frames: list[bytes]) -> bytes:
        return b"".join(frames)


ENCODERS: Final = {
    (named, chunked): SSEEncoder(named, chunked)
    for named in (False, True)
    for chunked in (False, True)
}
"""The encoders by (named, chunked): one object each, as the hub groups by it."""


@attrs.frozen
class StreamOptions:
    """What a client asked of its stream."""

    channels: tuple[str, ...] = ()
    filter: Filter = EVERYTHING
    named: bool = False
    heartbeat_events: bool = False
    start: Start | None = None
    """Where it begins; None is now."""


class SSEConnection(Connection):
    """A client that reads ``text/event-stream``."""

    __slots__ = ("_chunked", "_missing", "_options")

    transport = "sse"

    def __init__(
        self,
        connections: Connections,
        options: StreamOptions,
        *,
        id: str,
        grant: Grant,
        address: str | None,
    ) -> None:
        super().__init__(connections, id=id, grant=grant, address=address)
        self._options = options
        self._filter = options.filter
        self._chunked = False
        self._missing: Backlog | None = None
        self.use_framing(chunked=False)

    def use_framing(self, *, chunked: bool) -> None:
        """Set whether frames carry their own chunk headers; before `run`."""
        self._chunked = chunked
        self.encoder = ENCODERS[self._options.named, chunked]

    def _opened(self) -> None:
        options = self._options
        if options.start is not None:
            self._hold()
        live = self._hub.subscribe(self, options.channels, options.filter)
        at: Position | None = live
        if options.start is not None:
            names = self._hub.subscriptions(self)
            self._missing = self._backlog(names, options.filter, options.start, live)
            # It has not got yet what makes the state that it asked for, or fills its gap.
            at = options.start.position if isinstance(options.start, After) else None
        self.seq = live.seq if self._missing is None else 0
        block = sse.block(
            comment=f"triocast {self.id}",
            retry_ms=jittered_retry_ms(),
            id=None if at is None else cursor.encode(at),
        )
        if self._missing is None:
            block += self._first_beat(live)
        self._push_block(block)

    async def _receive(self) -> None:
        if self._missing is not None:
            await self._catch_up(self._missing)
            at = Position(self._missing.live.epoch, self.seq)
            block = sse.block(comment="live", id=cursor.encode(at))
            self._push_block(block + self._first_beat(at))
            self._missing = None
        received = 0
        while (data := await self._link.receive()) is not None:
            received += len(data)
            if received > MOST_INBOUND_BYTES:
                self.end(EndReason.POLICY)

    def _beat(self) -> None:
        if self.queued_bytes or self._missing is not None:
            return  # The client has bytes coming, and the send task its own patience.
        written = self._hub.written
        at = Position(written.epoch, max(written.seq, self.seq))
        if self._options.heartbeat_events:
            self._push_block(self._beat_event(at))
        else:
            self._push_block(sse.block(comment="", id=cursor.encode(at)))

    def _first_beat(self, at: Position) -> bytes:
        """Return a heartbeat for where the stream becomes live, if heartbeats are events.

        Some clients pass over an ``id`` without ``data``, and would have no cursor until the next.
        """
        return self._beat_event(at) if self._options.heartbeat_events else b""

    def _beat_event(self, at: Position) -> bytes:
        event = envelope.HEARTBEAT if self._options.named else None
        data = envelope.encode_heartbeat(timestamp())
        return sse.block(id=cursor.encode(at), event=event, data=data)

    def _gap_frame(self, gap: Gap) -> bytes:
        return ENCODERS[self._options.named, self._chunked].gap_frame(gap)

    def _farewell(self, reason: EndReason) -> Sequence[bytes] | None:
        if reason is EndReason.CLIENT_CLOSED:
            return None
        block = sse.block(retry_ms=self.retry_ms or jittered_retry_ms())
        if reason is EndReason.GRANT_ENDED:
            error = Unauthorized("the token has expired").as_dict()
            block += error_block(error, named=self._options.named)
        return [sse.chunk(block) + sse.LAST_CHUNK] if self._chunked else [block]

    def _push_block(self, block: bytes) -> None:
        self.push(sse.chunk(block) if self._chunked else block)


def error_block(error: dict[str, object], *, named: bool) -> bytes:
    """Return the typed ``ERROR`` event."""
    return sse.block(
        event="ERROR" if named else None, data=envelope.encode_error(timestamp(), error)
    )


def polite_end(error: TriocastError) -> bytes:
    """Return the whole body for an ``EventSource`` that is refused only for now.

    A browser never comes back after a 4xx or 5xx; after this it does, at a time of its own.
    """
    return sse.block(retry_ms=jittered_retry_ms(2 * error.retry_after)) + error_block(
        error.as_dict(), named=False
    )
