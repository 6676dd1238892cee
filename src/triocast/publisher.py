"""The first stage of the flow: checks an event and its publisher, and gives it to the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from triocast.auth import Grant
from triocast.clock import timestamp
from triocast.documents import Write
from triocast.engines import Engine
from triocast.errors import (
    Forbidden,
    InvalidEvent,
    Overloaded,
    ReservedType,
    ShuttingDown,
    TooLarge,
    TriocastError,
    Unavailable,
)
from triocast.events import RESERVED_TYPES, Accepted, Event, Once
from triocast.wire.new_event import NewEvent

ENVELOPE_OVERHEAD: Final = 1_024
"""Bytes an event's frame may have beyond its data: names, tags, position, framing."""


MIN_WAIT_SECONDS: Final = 0.001
"""How long a publisher waits at the least where there is no room."""

MIN_STORE_SECONDS: Final = 5.0
"""How long it waits at the least where there is room, and the store is still at work on others."""


@attrs.frozen
class Idempotency:
    """The idempotency key of a request, or of one event in it.

    ``index`` counts the events of a request under one key. ``request`` is what else the client
    said, or its digest: an event that comes with another rest is another one. ``names_channel`` is
    false where the server chose the channel.
    """

    key: str
    index: int = 0
    request: bytes = b""
    names_channel: bool = True

    def of(self, event: Event) -> Once:
        """Return what makes an event be accepted once."""
        # What the client said, not what the server made of it: that may be another thing later.
        channel = event.channel if self.names_channel else None
        write = event.write and ("removed" if event.write.data is None else "written")
        said = (channel, event.type, event.key, event.tags, event.urgent, write)
        digest = hashlib.sha256(b"%r" % (said,) + event.data + self.request).digest()
        return Once(event.user or "", self.key, self.index, digest, chosen=channel is None)


class Publisher:
    """Every event goes through here: from REST, from WebSockets, from code in the process."""

    def __init__(self, engine: Engine, *, max_event_bytes: int, wait_seconds: float) -> None:
        self._engine = engine
        self._max_event_bytes = max_event_bytes
        self._wait_seconds = wait_seconds
        self.most_together = engine.most_together
        """How many events of a stream are best published together."""
        self.closed = False

    def new_event(
        self,
        grant: Grant,
        said: NewEvent,
        *,
        otherwise: str,
        exclude: str | None = None,
        once: Idempotency | None = None,
    ) -> Event:
        """Return the event that a client asks to publish; to ``otherwise`` if it names no channel.

        ``once`` comes from the header of its request. Raises as `event` does, and InvalidEvent for
        two idempotency keys.
        """
        if said.idempotency_key is not None:
            if once is not None:
                raise InvalidEvent("give idempotency_key or the header Idempotency-Key, not both")
            once = Idempotency(said.idempotency_key)
        if once is not None and said.channel is None:
            once = attrs.evolve(once, names_channel=False)
        return self.event(
            grant,
            channel=otherwise if said.channel is None else said.channel,
            type=said.type,
            data=said.data,
            key=said.key,
            tags=said.tags,
            exclude=exclude,
            once=once,
            urgent=said.urgent,
        )

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
        write: Write | None = None,
        urgent: bool = False,
    ) -> Event:
        """Return the event, stamped with now and its publisher.

        ``channel`` is canonical, ``data`` compact JSON, the rest parsed. Raises ReservedType,
        Forbidden or TooLarge.

        ``once`` says under which idempotency key it is published, ``write`` what it does to the
        document under its key, and ``urgent`` that it is not held back.
        """
        if type in RESERVED_TYPES:
            raise ReservedType(f"the type {type} is for the server's own messages: take another")
        if not grant.may_publish(channel):
            raise Forbidden(f"you may not publish to {channel}")
        size = max(len(data), 0 if write is None or write.data is None else len(write.data))
        if size > self._max_event_bytes:
            raise TooLarge(
                f"the event's data has {size} bytes; {self._max_event_bytes} are allowed"
            )
        if write is not None and key is None:
            raise InvalidEvent("an event that writes a document has its key")
        event = Event(
            type=type,
            data=data,
            channel=channel,
            timestamp=timestamp(),
            key=key,
            tags=tags,
            user=grant.user,
            exclude=exclude,
            write=write,
            urgent=urgent,
        )
        return event if once is None else attrs.evolve(event, once=once.of(event))

    async def publish_each(self, events: Sequence[Event]) -> Sequence[Accepted | TriocastError]:
        """Publish events that have nothing to do with each other; return what became of each."""
        try:
            return await self.publish(events)
        except Unavailable as error:
            return [error] * len(events)
        except TriocastError as error:
            if len(events) == 1:
                return [error]
        # One of them has the fault; the others are published all the same. It is found by halves:
        # each publish may take a commit.
        half = len(events) // 2
        return [
            outcome
            for some in (events[:half], events[half:])
            for outcome in await self.publish_each(some)
        ]

    async def publish(self, events: Sequence[Event]) -> tuple[Accepted, ...]:
        """Publish all of the events or none; return what became of them.

        Raises Overloaded if the fan-out has no room for longer than the wait, ShuttingDown when
        the server is going away: both are temporary. Raises IdempotencyConflict if a key was used
        for something else, and VersionConflict or TooManyDocuments if a document cannot be written.
        """
        if self.closed:
            raise ShuttingDown("this server is going away")
        least = MIN_STORE_SECONDS if self._engine.has_room else MIN_WAIT_SECONDS
        with trio.move_on_after(max(self._wait_seconds, least)):
            return await self._engine.publish(events)
        raise Overloaded(f"no room for more events within {self._wait_seconds:g} s")
