"""Server-Sent Events: how a connection speaks to an ``EventSource``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from triocast.clock import timestamp
from triocast.connection import Connection
from triocast.connections import jittered_retry_ms
from triocast.errors import (
    BadRequest,
    EndReason,
    ShuttingDown,
    SlowConsumer,
    TriocastError,
    Unauthorized,
    Unavailable,
)
from triocast.events import Position, Publication, is_connection_channel
from triocast.resume import Backlog, Gap, gap_of
from triocast.subscriptions import EVERYTHING, Filter
from triocast.transports.gaps import gap_text
from triocast.wire import cursor, envelope, sse
from triocast.wire.start import Start, standing

if TYPE_CHECKING:
    from triocast.auth import Grant
    from triocast.connections import Connections

MOST_INBOUND_BYTES: Final = 65_536
"""What a client may send behind its request; it is not read for anything."""

_ENDS: Final[dict[EndReason, TriocastError]] = {
    EndReason.SHUTDOWN: ShuttingDown("this server is going away; come back in a moment"),
    EndReason.SLOW_CONSUMER: SlowConsumer(
        "you did not read fast enough; come back, and you get what you missed"
    ),
    EndReason.SERVER_ERROR: Unavailable("an error of ours ended this stream; come back"),
    EndReason.GRANT_ENDED: Unauthorized("the token has expired"),
    EndReason.POLICY: BadRequest(
        f"a client sends at most {MOST_INBOUND_BYTES} bytes behind its request"
    ),
}
"""What clients are told at the end of a stream; where nobody is told, nobody is there."""


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
            event=event.type if self.named and event.type not in sse.UNNAMED else None,
            data=envelope.encode_publication(publication),
        )
        return sse.chunk(block) if self.chunked else block

    def encode_gap(self, publication: Publication) -> bytes:
        return self.gap_frame(gap_of(publication))

    def gap_frame(self, gap: Gap) -> bytes:
        """Return the block that tells of a gap."""
        event = envelope.GAP if self.named else None
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
        if options.start is not None:
            names = self._hub.subscriptions(self)
            self._missing = self._backlog(names, options.filter, options.start, live)
        self.seq = live.seq if self._missing is None else 0
        at = standing(options.start, live)
        block = self._message(
            envelope.CONNECTED,
            self._hello(at),
            comment=f"triocast {self.id}",
            retry_ms=jittered_retry_ms(),
            id=None if at is None else cursor.encode(at),
        )
        self._push_block(block)

    async def _receive(self) -> None:
        if self._missing is not None:
            await self._catch_up(self._missing)
            at = Position(self._missing.live.epoch, self.seq)
            live = envelope.encode_live(timestamp(), at)
            self._push_block(
                self._message(envelope.LIVE, live, comment="live", id=cursor.encode(at))
            )
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
        id = cursor.encode(at)
        if self._options.heartbeat_events:
            beat = envelope.encode_heartbeat(timestamp(), at)
            self._push_block(self._message(envelope.HEARTBEAT, beat, id=id))
        else:
            self._push_block(sse.block(comment="", id=id))

    def _message(
        self,
        type: str,
        data: bytes,
        *,
        comment: str | None = None,
        id: str | None = None,
        retry_ms: int | None = None,
    ) -> bytes:
        """Return the block of one of the server's own messages."""
        event = type if self._options.named else None
        return sse.block(comment=comment, event=event, id=id, retry_ms=retry_ms, data=data)

    def _gap_frame(self, gap: Gap) -> bytes:
        return ENCODERS[self._options.named, self._chunked].gap_frame(gap)

    def _farewell(self, reason: EndReason) -> Sequence[bytes] | None:
        error = _ENDS.get(reason)
        if error is None:
            return None
        block = self._message(
            envelope.ERROR,
            envelope.encode_error(timestamp(), error.as_dict()),
            retry_ms=self.retry_ms or jittered_retry_ms(),
        )
        if not self._chunked:
            return [block]
        last = b"" if reason.close_code.reconnect else sse.LAST_CHUNK
        return [sse.chunk(block) + last]

    def _ends_abruptly(self) -> bool:
        # After a whole response @microsoft/fetch-event-source, for one, never comes back.
        comes_back = self.reason is not None and self.reason.close_code.reconnect
        return comes_back and not self._chunked

    def _push_block(self, block: bytes) -> None:
        self.push(sse.chunk(block) if self._chunked else block)


def polite_end(error: TriocastError) -> bytes:
    """Return the body for an ``EventSource`` that is refused only for now.

    A browser never comes back after a 4xx or 5xx; after this it does, at a time of its own.
    """
    return sse.block(
        retry_ms=jittered_retry_ms(2 * error.retry_after),
        data=envelope.encode_error(timestamp(), error.as_dict()),
    )
