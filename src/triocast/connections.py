"""All connections of this process: how many may come, what became of them, and their drain."""

from __future__ import annotations

import logging
import math
import random
import weakref
from collections import Counter
from typing import Final, Protocol

import trio

from triocast import access
from triocast.connection import Connection
from triocast.engines import Engine
from triocast.errors import EndReason, Flood, ShuttingDown, TooManyConnections, TriocastError
from triocast.hub import Hub
from triocast.outbox import Overflow
from triocast.presence import Presence
from triocast.settings import Namespaces
from triocast.turns import in_turns

log = logging.getLogger("triocast.connection")

RETRY_MS: Final = 2_000
"""When a client whose stream ended comes back, about; each gets its own time around it."""

DRAIN_PER_SECOND: Final = 200
"""How fast clients are sent away at a drain, if that fits into its time."""


class Waiting(Protocol):
    """A client that waits for one answer."""

    def wake(self) -> None:
        """Be answered now."""


class Connections:
    """The registry of live connections. Admits, counts, and sends them away."""

    def __init__(
        self,
        engine: Engine,
        hub: Hub,
        *,
        most: int,
        outbox_bytes: int,
        heartbeat_seconds: float,
        namespaces: Namespaces | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.engine = engine
        self.hub = hub
        self.most = most
        self.outbox_bytes = outbox_bytes
        self.overflow = Overflow(Namespaces() if namespaces is None else namespaces)
        self.presence = presence
        """Who is on which channel, where anybody notes that."""
        self.heartbeat_seconds = heartbeat_seconds
        self.live: set[Connection] = set()
        # Weak, because a handshake can end without its connection ever running.
        self._coming: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._polls: set[Waiting] = set()
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """Requests that were refused because of what this process is or has, by code."""
        self.draining = False
        self._empty = trio.Event()

    def admit(self, connection: Connection) -> None:
        """Keep a place for a connection whose handshake is under way.

        Raises TooManyConnections or ShuttingDown, both temporary.
        """
        self.check_room()
        self._coming.add(connection)

    def enter_poll(self, poll: Waiting) -> None:
        """Count a client in that waits for one answer. Raises as `admit` does."""
        self.check_room()
        self._polls.add(poll)

    def leave_poll(self, poll: Waiting) -> None:
        """Count it out."""
        self._polls.discard(poll)

    def check_room(self) -> None:
        """Raise TooManyConnections or ShuttingDown if nobody can be let in now."""
        if self.draining:
            raise ShuttingDown("this server is going away; come back in a moment")
        if len(self.live) + len(self._coming) + len(self._polls) >= self.most:
            raise TooManyConnections(f"this server has its {self.most} connections")

    def enter(self, connection: Connection) -> bool:
        """Count a connection in; false, and its end, if the drain has begun meanwhile."""
        self._coming.discard(connection)
        if self.draining:
            connection.end(EndReason.SHUTDOWN)
            return False
        self.live.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Count a connection out, under the reason it ended for."""
        self.live.discard(connection)
        if connection.reason is not None:
            self.ended[connection.reason.word] += 1
        if not self.live:
            self._empty.set()

    def note_refusal(self, error: TriocastError, address: str | None) -> None:
        """Count and log that a client was refused before it was a connection."""
        self.refused[error.code] += 1
        access.refused(error.code, address)

    def note_flood(self, address: str | None) -> None:
        """Count and log that a client's HTTP was ended for a flood."""
        self.note_refusal(Flood("too many frames that say nothing"), address)

    async def counts(self) -> dict[str, int]:
        """Return how many connections there are by transport and by way, and what they queue."""
        by: Counter[str] = Counter()
        taken_over = queue_bytes = 0
        everybody = list(self.live)
        async for connection in in_turns(everybody):
            by[connection.transport] += 1
            taken_over += connection.taken_over
            queue_bytes += connection.queued_bytes
        return {
            "websocket_count": by["websocket"],
            "sse_count": by["sse"],
            "signaling_count": by["signaling"],
            "peerjs_count": by["peerjs"],
            "poll_count": len(self._polls),
            "taken_over": taken_over,
            "portable": len(everybody) - taken_over,
            "queue_bytes": queue_bytes,
        }

    def end_all(self, reason: EndReason) -> None:
        """End everybody at once; nobody comes in any more."""
        self.draining = True
        for connection in list(self.live):
            connection.retry_ms = jittered_retry_ms()
            try:
                connection.end(reason)
            except Exception:
                log.exception("connection %s could not be ended", connection.id)

    async def drain(self, seconds: float) -> None:
        """Send everybody away, spread over a part of ``seconds``; return when all have gone.

        Each is told another time to come back at. Whoever is still here after ``seconds`` stays:
        the caller cancels them.
        """
        self.draining = True
        async for poll in in_turns(list(self._polls)):
            poll.wake()
        with trio.move_on_after(seconds):
            leaving = list(self.live)
            random.shuffle(leaving)
            spread = min(seconds / 2, len(leaving) / DRAIN_PER_SECOND)
            began = trio.current_time()
            for index, connection in enumerate(leaving):
                await trio.sleep_until(began + spread * index / len(leaving))
                connection.retry_ms = jittered_retry_ms(seconds)
                connection.end(EndReason.SHUTDOWN)
            if self.live:
                self._empty = trio.Event()
                await self._empty.wait()


def jittered_retry_ms(spread_seconds: float = 0) -> int:
    """Return when to come back: around `RETRY_MS`, later by up to ``spread_seconds``."""
    return math.ceil(
        RETRY_MS * random.uniform(0.5, 1.5)  # noqa: S311
        + 1000 * random.uniform(0, spread_seconds)  # noqa: S311
    )
