"""The first stage of the flow: checks an event and its publisher, and gives it to the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from triocast.auth import Grant
from triocast.clock import timestamp
from triocast.engines import Engine
from triocast.errors import (
    Forbidden,
    IdempotencyConflict,
    Overloaded,
    ShuttingDown,
    TooLarge,
    TriocastError,
)
from triocast.events import Event, Once, Publication

ENVELOPE_OVERHEAD: Final = 1_024
"""Bytes an event's frame may have beyond its data: names, tags, position, framing."""


SHORTEST_WAIT_SECONDS: Final = 0.001
"""So that a wait of 0 refuses where there is no room, and only there."""


@attrs.frozen
class Idempotency:
    """The idempotency key of a request, or of one event in it.

    ``index`` counts the events of a request under one key, and ``request`` is the whole of it: an
    event that comes with another rest is another one.
    """

    key: str
    index: int = 0
    request: bytes = b""

    def of(
        self,
        user: str | None,
        channel: str,
        type: str,
        data: bytes,
        key: str | None,
        tags: tuple[str, ...],
    ) -> Once:
        """Return what makes an event that a user publishes be accepted once."""
        said = (channel, type, key, tags, len(data))
        digest = hashlib.sha256(b"%r" % (said,) + data + self.request).digest()
        return Once(scope=user or "", key=self.key, index=self.index, digest=digest)


class Publisher:
    """Every event goes through here: from REST, from WebSockets, from code in the process."""

    def __init__(self, engine: Engine, *, max_event_bytes: int, wait_seconds: float) -> None:
        self._engine = engine
        self._max_event_bytes = max_event_bytes
        self._wait_seconds = wait_seconds
        self.most_together = engine.most_together
        """How many events of a stream are best published together."""
        self.closed = False

    def event(
        self,
        grant: Grant,
        *,
        channel: str,
        type: str,
        data: bytes,
        key: str | None = None,
        tags: tuple[str, ...] = (),
        exclude: str | None = None,
        once: Idempotency | None = None,
    ) -> Event:
        """Return the event, stamped with now and its publisher.

        ``channel`` is canonical, ``data`` compact JSON, the rest parsed. Raises Forbidden or
        TooLarge.

        ``once`` says under which idempotency key it is published.
        """
        if not grant.may_publish(channel):
            raise Forbidden(f"you may not publish to {channel}")
        if len(data) > self._max_event_bytes:
            raise TooLarge(
                f"the event's data has {len(data)} bytes; {self._max_event_bytes} are allowed"
            )
        return Event(
            type=type,
            data=data,
            channel=channel,
            timestamp=timestamp(),
            key=key,
            tags=tags,
            user=grant.user,
            exclude=exclude,
            once=None if once is None else once.of(grant.user, channel, type, data, key, tags),
        )

    async def publish_each(self, events: Sequence[Event]) -> Sequence[Publication | TriocastError]:
        """Publish events that have nothing to do with each other; return what became of each."""
        try:
            return await self.publish(events)
        except IdempotencyConflict as conflict:
            if len(events) == 1:
                return [conflict]
        except TriocastError as error:
            return [error] * len(events)
        # One of them has the fault; the others are published all the same.
        return [(await self.publish_each([event]))[0] for event in events]

    async def publish(self, events: Sequence[Event]) -> tuple[Publication, ...]:
        """Publish all of the events or none; return them with their positions.

        Raises Overloaded if the fan-out has no room for longer than the wait, ShuttingDown when
        the server is going away: both are temporary. Raises IdempotencyConflict if a key was used
        for something else.
        """
        if self.closed:
            raise ShuttingDown("this server is going away")
        with trio.move_on_after(max(self._wait_seconds, SHORTEST_WAIT_SECONDS)):
            return await self._engine.publish(events)
        raise Overloaded(f"no room for more events within {self._wait_seconds:g} s")
