"""The first stage of the flow: checks an event and its publisher, and gives it to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from triocast.auth import Grant
from triocast.clock import timestamp
from triocast.engines import Engine
from triocast.errors import Forbidden, Overloaded, ShuttingDown, TooLarge
from triocast.events import Event, Publication

ENVELOPE_OVERHEAD: Final = 1_024
"""Bytes an event's frame may have beyond its data: names, tags, position, framing."""


SHORTEST_WAIT_SECONDS: Final = 0.001
"""So that a wait of 0 refuses where there is no room, and only there."""


class Publisher:
    """Every event goes through here: from REST, from WebSockets, from code in the process."""

    def __init__(self, engine: Engine, *, max_event_bytes: int, wait_seconds: float) -> None:
        self._engine = engine
        self._max_event_bytes = max_event_bytes
        self._wait_seconds = wait_seconds
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
    ) -> Event:
        """Return the event, stamped with now and its publisher.

        ``channel`` is canonical, ``data`` compact JSON, the rest parsed. Raises Forbidden or
        TooLarge.
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
        )

    async def publish(self, events: Sequence[Event]) -> tuple[Publication, ...]:
        """Publish all of the events or none; return them with their positions.

        Raises Overloaded if the fan-out has no room for longer than the wait, ShuttingDown when
        the server is going away. Both are temporary.
        """
        if self.closed:
            raise ShuttingDown("this server is going away")
        with trio.move_on_after(max(self._wait_seconds, SHORTEST_WAIT_SECONDS)):
            return await self._engine.publish(events)
        raise Overloaded(f"no room for more events within {self._wait_seconds:g} s")
