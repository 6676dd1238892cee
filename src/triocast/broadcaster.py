"""Events for code that shares the process, which knows nothing of SSE or WebSocket::

broadcaster = EventBroadcaster(node)
await broadcaster.broadcast_event(EventType.APPLICATION_ADDED, {"name": "my-app"})

async with broadcaster.subscribe(["catalog"], types=["STATUS_CHANGED"]) as events:
    async for event in events:
        ...
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import msgspec
import trio

from triocast.auth import EVERYTHING
from triocast.errors import InternalError, SlowConsumer, TriocastError
from triocast.events import (
    BROADCAST,
    Accepted,
    Event,
    EventType,
    Publication,
    parse_channel,
    parse_key,
    parse_pattern,
    parse_tags,
    parse_type,
)
from triocast.node import Node
from triocast.subscriptions import Encoder, Subscriber, make_filter
from triocast.wire import json

_CATALOG_TYPES: Final = frozenset(
    type
    for type in EventType
    if type.startswith(("APPLICATION_", "BOOKMARK_")) or type is EventType.STATUS_CHANGED
)

_OVERHEAD: Final = 600
"""Bytes that a waiting event costs beyond its data."""


class EventBroadcaster:
    """Publishes and subscribes in the process of the server."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def broadcast_event(
        self,
        type: str,
        data: Any = None,
        *,
        channel: str | None = None,
        key: str | None = None,
        tags: Sequence[str] = (),
        urgent: bool = False,
    ) -> Accepted:
        """Publish an event to a channel, or to everybody; return what became of it.

        That is a Publication with its position, or Pending where the channel is debounced and the
        event is held back; ``urgent`` ones never are. ``data`` is anything that msgspec can write
        as JSON. The ``key`` of an event about an application or a bookmark is its
        ``namespace/name``, unless it is given.

        Raises InvalidEvent, InvalidChannel, TooLarge, Overloaded or ShuttingDown.
        """
        publisher = self._node.publisher
        text = json.encode(data)
        event = publisher.event(
            EVERYTHING,
            channel=BROADCAST if channel is None else parse_channel(channel),
            type=parse_type(str(type)),
            data=text,
            key=_catalog_key(str(type), text) if key is None else parse_key(key),
            tags=parse_tags(tuple(tags)),
            urgent=urgent,
        )
        (accepted,) = await publisher.publish([event])
        return accepted

    @asynccontextmanager
    async def subscribe(
        self,
        channels: Iterable[str] = (),
        *,
        types: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> AsyncIterator[EventStream]:
        """Listen to channels and patterns, and to what is for everybody.

        Everything published after the block was entered comes, in order. A reader that falls
        further behind than a client may is cut off: iterating then raises SlowConsumer, once
        what was taken before has been read.
        """
        hub = self._node.hub
        stream = EventStream(bound=self._node.settings.outbox_bytes)
        filter = make_filter([parse_type(value) for value in types], parse_tags(tuple(tags)))
        hub.add(stream, filter)
        try:
            hub.subscribe(stream, [parse_pattern(name) for name in channels], filter)
            yield stream
        finally:
            hub.remove(stream)
            stream.close()


class _Named(msgspec.Struct):
    """What names an entry of the catalog in the data of its events."""

    name: str
    namespace: str = "default"


_named: Final = msgspec.json.Decoder(_Named)


def _catalog_key(type: str, data: bytes) -> str | None:
    """Return the key of an event that is about one entry of the catalog; None for others."""
    if type not in _CATALOG_TYPES:
        return None
    try:
        entry = json.decode(_named, data)
        return parse_key(f"{entry.namespace}/{entry.name}")
    except TriocastError:
        return None  # Its data names no entry.


@attrs.frozen
class _AsTheyAre:
    """Publications for readers in the process need no encoding."""

    def encode(self, publication: Publication) -> Event:
        return publication.event

    encode_gap = encode

    def join(self, frames: list[Event]) -> None:
        return None


_AS_THEY_ARE: Final = _AsTheyAre()


class EventStream(Subscriber):
    """The events of one `EventBroadcaster.subscribe`, as an async iterator."""

    user: str | None = None
    encoder: Encoder = _AS_THEY_ARE
    is_member = False

    def __init__(self, *, bound: int) -> None:
        self.id = f"in-process-{secrets.token_hex(8)}"
        self._bound = bound
        self._waiting = 0
        self._too_slow = False
        self._has_failed = False
        # Unbounded in number because `deliver` bounds it in bytes.
        self._outbox, self._inbox = trio.open_memory_channel[Event](math.inf)

    def deliver(
        self, joined: object, frames: Sequence[Event], publications: Sequence[Publication]
    ) -> None:
        """Take events from the hub."""
        if self._too_slow or self._has_failed:
            return
        for event in frames:
            self._waiting += len(event.data) + _OVERHEAD
            self._outbox.send_nowait(event)
        if self._waiting > self._bound:
            self._too_slow = True
            self._outbox.close()

    def fail(self) -> None:
        self._has_failed = True
        self._outbox.close()

    def close(self) -> None:
        self._outbox.close()
        self._inbox.close()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. Raises SlowConsumer, or InternalError if the node has failed."""
        try:
            event = await self._inbox.receive()
        except trio.EndOfChannel:
            if self._has_failed:
                raise InternalError from None
            raise SlowConsumer("too many events waited for this reader") from None
        self._waiting -= len(event.data) + _OVERHEAD
        return event
