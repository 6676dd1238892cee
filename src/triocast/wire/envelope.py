"""The native envelope: the JSON object that SSE ``data:`` and WebSocket text carry alike.

Events have a ``channel``; the server's own messages, by which it speaks of the stream, have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from triocast.events import EventType, Position, Publication, is_connection_channel
from triocast.wire import cursor

_encode = msgspec.json.encode

CONNECTED: Final = "connected"
LIVE: Final = "live"
GAP: Final = "gap"
HEARTBEAT: Final = EventType.HEARTBEAT.value
ERROR: Final = EventType.ERROR.value


def encode_publication(publication: Publication, *, behind: Position | None = None) -> bytes:
    """Return the envelope of an event: one line of JSON in UTF-8.

    Events to one connection (``$conn:<id>``) carry no ``id``: they cannot be resumed. ``behind``
    is where a connection stands that is further on already: the ``id`` does not take it back, and
    ``position`` is the event's own.
    """
    event = publication.event
    parts = [
        b'{"type":',
        _encode(event.type),
        b',"timestamp":"',
        event.timestamp.encode(),
        b'","data":',
        event.data,
        b',"channel":',
        _encode(event.channel),
    ]
    if event.key is not None:
        parts += (b',"key":', _encode(event.key))
    if event.tags:
        parts += (b',"tags":', _encode(event.tags))
    if event.user is not None:
        parts += (b',"user":', _encode(event.user))
    if event.version is not None:
        parts.append(b',"version":%d' % event.version)
    if is_connection_channel(event.channel):
        parts.append(b"}")
    else:
        id = at = cursor.encode(publication.position)
        if behind is not None:
            parts += (b',"position":"', at.encode(), b'"')
            id = cursor.encode_behind(behind, publication.position)
        parts += (b',"id":"', id.encode(), b'"}')
    return b"".join(parts)


def encode_connected(
    timestamp: str,
    *,
    connection_id: str,
    user: str | None,
    heartbeat_seconds: float,
    at: Position | None,
) -> bytes:
    """Return the first message of a stream; ``at`` is where the client stands, if that is known."""
    data = {"connection_id": connection_id, "user": user, "heartbeat_seconds": heartbeat_seconds}
    message = {"type": CONNECTED, "timestamp": timestamp, "data": data}
    if at is not None:
        message["id"] = cursor.encode(at)
    return _encode(message)


def encode_live(timestamp: str, at: Position) -> bytes:
    """Return the message that says that a client has got all that it missed, or asked for."""
    return _encode({"type": LIVE, "timestamp": timestamp, "data": None, "id": cursor.encode(at)})


def encode_heartbeat(timestamp: str, at: Position | None = None) -> bytes:
    """Return a heartbeat; ``at`` is where the client stands, if that is known."""
    id = b"" if at is None else b',"id":"%s"' % cursor.encode(at).encode()
    return b'{"type":"HEARTBEAT","timestamp":"%s","data":null%s}' % (timestamp.encode(), id)


def encode_gap(
    timestamp: str,
    *,
    reason: str,
    channels: Sequence[str],
    start: Position | None,
    end: Position,
    resume_at: Position,
) -> bytes:
    """Return the event that says what a client does not get; ``id`` is where it goes on from."""
    gap = {
        "reason": reason,
        "channels": channels,
        "from": None if start is None else cursor.encode(start),
        "to": cursor.encode(end),
    }
    id = cursor.encode(resume_at)
    return _encode({"type": GAP, "timestamp": timestamp, "data": gap, "id": id})


def encode_error(timestamp: str, error: dict[str, object]) -> bytes:
    """Return the message that says why a stream ends."""
    return b'{"type":"ERROR","timestamp":"%s","data":%s}' % (timestamp.encode(), _encode(error))
