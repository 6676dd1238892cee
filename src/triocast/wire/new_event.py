"""An event that a client asks to publish: one parser for REST, NDJSON and WebSockets.

The body is an object with ``data`` and, if wanted, ``type``, ``channel``, ``key``, ``tags``,
``urgent`` and ``idempotency_key``. Where events go to one user or one connection as well, there
are ``user_id`` and ``connection_id``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from triocast.errors import InvalidEvent
from triocast.events import (
    connection_channel,
    parse_channel,
    parse_idempotency_key,
    parse_key,
    parse_tags,
    parse_type,
    user_channel,
)
from triocast.wire import json

DEFAULT_TYPE: Final = "message"


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an event for a channel, or for everybody."""

    data: msgspec.Raw
    type: str = DEFAULT_TYPE
    channel: str | None = None
    key: str | None = None
    tags: list[str] = msgspec.field(default_factory=list)
    urgent: bool = False
    idempotency_key: str | None = None

    def target(self) -> str | None:
        """Return the canonical channel it is for; None if it names none.

        Raises InvalidChannel, InvalidEvent.
        """
        return None if self.channel is None else parse_channel(self.channel)


class AddressedBody(Body, forbid_unknown_fields=True):
    """The body of an event that may be for one user or one connection instead."""

    user_id: str | int | None = None
    connection_id: str | None = None

    def target(self) -> str | None:
        if self.user_id is None and self.connection_id is None:
            return super().target()
        if (self.user_id is None) + (self.connection_id is None) + (self.channel is None) != 2:
            raise InvalidEvent("name only one of user_id, connection_id and channel")
        if self.user_id is not None:
            return user_channel(str(self.user_id))
        assert self.connection_id is not None
        return connection_channel(self.connection_id)


class NewEvent(msgspec.Struct, frozen=True):
    """What a client said of an event, checked; ``channel`` is None where it named none."""

    type: str
    data: bytes
    channel: str | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()
    urgent: bool = False
    idempotency_key: str | None = None


def read(body: Body) -> NewEvent:
    """Check a body. Raises InvalidChannel, InvalidEvent."""
    key, once = body.key, body.idempotency_key
    return NewEvent(
        parse_type(body.type),
        json.compact(body.data),
        body.target(),
        None if key is None else parse_key(key),
        parse_tags(body.tags),
        body.urgent,
        None if once is None else parse_idempotency_key(once),
    )
