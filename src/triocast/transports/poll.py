"""Long poll: one question at a time, for who cannot keep a stream open.

A client asks with the cursor it was given last, and is answered as soon as there is something
new. The promises are those of the streams: what it missed comes first, and gaps are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs
import trio

from triocast.errors import Unavailable
from triocast.events import Position, Publication
from triocast.resume import open_backlog
from triocast.subscriptions import EVERYTHING, Encoder, Filter, Subscriber
from triocast.transports.gaps import gap_text
from triocast.transports.websocket import TEXT_MESSAGES
from triocast.wire import cursor
from triocast.wire.start import Start

if TYPE_CHECKING:
    from triocast.auth import Grant
    from triocast.connections import Connections

MOST_EVENTS: Final = 1_000
"""Missed events in one answer; for the rest the client asks again, and is answered at once."""

MOST_BYTES: Final = 1_048_576
"""The same for their data."""


LONGEST_WAIT_SECONDS: Final = 60.0
"""How long a client may wait for an answer."""


@attrs.frozen
class _AsTheyAre:
    """Publications as they are: an answer's text is made when it is known to be needed."""

    def encode(self, publication: Publication) -> Publication:
        return publication

    encode_gap = encode

    def join(self, frames: list[Publication]) -> None:
        return None


_AS_THEY_ARE: Final = _AsTheyAre()


@attrs.frozen
class PollAnswer:
    """``envelopes`` are JSON texts; ``cursor`` is where the client stands now."""

    envelopes: tuple[bytes, ...]
    cursor: str

    def as_json(self) -> bytes:
        return b'{"events":[%s],"cursor":"%s"}' % (b",".join(self.envelopes), self.cursor.encode())


class Poll(Subscriber):
    """One question of one client."""

    encoder: Encoder = _AS_THEY_ARE

    def __init__(
        self,
        connections: Connections,
        *,
        id: str,
        grant: Grant,
        channels: Sequence[str],
        filter: Filter = EVERYTHING,
        start: Start | None = None,
    ) -> None:
        self.id = id
        self.user = grant.user
        # Without a user nobody could tell that the next question is the same client's.
        self.is_member = grant.user is not None
        self._connections = connections
        self._channels = channels
        self._filter = filter
        self._start = start
        self._got: list[Publication] = []
        self._got_bytes = 0
        self._woken = trio.Event()
        self._has_failed = False

    def deliver(
        self,
        joined: object,
        frames: Sequence[Publication],
        publications: Sequence[Publication],
    ) -> None:
        """Take what is new from the hub; what is too much for one answer is for the next one."""
        if self._got_bytes < MOST_BYTES:
            self._got += frames
            self._got_bytes += sum(len(publication.event.data) for publication in frames)
        self._woken.set()

    def wake(self) -> None:
        """Answer now, also if there is nothing: the server is going away."""
        self._woken.set()

    def fail(self) -> None:
        """Have the client ask again: what was got may be incomplete."""
        self._has_failed = True
        self._woken.set()

    async def ask(self, wait_seconds: float) -> PollAnswer:
        """Return what there is; if that is nothing, wait for something new.

        A client without a cursor is told where it stands at once. Raises TooManyConnections,
        ShuttingDown, and Unavailable if the server fails meanwhile.
        """
        self._connections.enter_poll(self)
        hub = self._connections.hub
        try:
            hub.add(self, self._filter)
            live = hub.subscribe(self, self._channels, self._filter)
            if self._start is None:
                return PollAnswer((), cursor.encode(live))
            missed, at = await self._read_backlog(self._start, live)
            if not missed and at == live:
                with trio.move_on_after(wait_seconds):
                    await self._woken.wait()
            if self._has_failed:
                raise Unavailable("this server failed before it could answer; ask again")
            if at == live:
                missed += (hub.encode(TEXT_MESSAGES, publication) for publication in self._got)
                last = self._got[-1].seq if self._got else hub.written.seq
                at = Position(live.epoch, max(live.seq, last))
            return PollAnswer(tuple(missed), cursor.encode(at))
        finally:
            hub.remove(self)
            self._connections.leave_poll(self)

    async def _read_backlog(self, start: Start, live: Position) -> tuple[list[bytes], Position]:
        """Return what comes before what is live, and how far that is."""
        hub = self._connections.hub
        names = hub.subscriptions(self)
        backlog = open_backlog(self._connections.engine, names, self._filter, start, live=live)
        found: list[bytes] = []
        size = 0
        while (page := await backlog.read()) is not None:
            found += map(gap_text, page.gaps)
            for publication in page.publications:
                found.append(hub.encode(TEXT_MESSAGES, publication))
                size += len(found[-1])
            if len(found) >= MOST_EVENTS or size >= MOST_BYTES:
                return found, Position(live.epoch, page.seq)
        return found, live
