"""The native WebSocket protocol ``triocast.v1``: what clients ask, and what they are answered.

Every text frame of a client is one of these:

- a JSON object whose ``type`` is ``subscribe``, ``unsubscribe``, ``publish``, ``ping``,
  ``command`` or ``channel_message``;
- any other JSON object: published as it is, under its own ``type``;
- any other text: published as ``{"type":"text","data":<the text>}``.

An answer carries the ``id`` of its request. Text that begins like an object and is none is
refused instead of published.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

from triocast.errors import InvalidEvent, TriocastError, UnknownCommand
from triocast.events import (
    parse_channel,
    parse_idempotency_key,
    parse_key,
    parse_pattern,
    parse_tags,
    parse_type,
)
from triocast.wire import json
from triocast.wire.start import Start, parse_cursor, parse_state

RequestId = str | int | None

DEFAULT_TYPE: Final = "message"
LONGEST_ID: Final = 64


@attrs.frozen
class Subscribe:
    """Listen to channels and patterns; ``join`` makes the last one the default for publishing."""

    id: RequestId
    channels: tuple[str, ...]
    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    join: bool = False
    start: Start | None = None


@attrs.frozen
class Unsubscribe:
    id: RequestId
    channels: tuple[str, ...]


@attrs.frozen
class Publish:
    """Publish one event; without a channel it goes to the one joined last, else to everybody."""

    id: RequestId
    channel: str | None
    type: str
    data: bytes
    key: str | None = None
    tags: tuple[str, ...] = ()
    echo: bool = True
    idempotency_key: str | None = None
    urgent: bool = False


@attrs.frozen
class Members:
    """Ask who is on a channel; ``after`` is the key behind which the page begins."""

    id: RequestId
    channel: str
    after: str = ""


@attrs.frozen
class Ping:
    id: RequestId


Request = Subscribe | Unsubscribe | Publish | Members | Ping


class MessageError(Exception):
    """A client's message that cannot be carried out, with the ``id`` to answer it under."""

    def __init__(self, id: RequestId, error: TriocastError) -> None:
        super().__init__(error.message)
        self.id = id
        self.error = error


class _Subscribe(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    id: str | int | None = None
    channel: str | None = None
    channels: list[str] = msgspec.field(default_factory=list)
    types: list[str] = msgspec.field(default_factory=list)
    tags: list[str] = msgspec.field(default_factory=list)
    cursor: str | None = None
    since: str | None = None
    last: int | None = None


class _Publish(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    data: msgspec.Raw
    id: str | int | None = None
    channel: str | None = None
    event: str = DEFAULT_TYPE
    key: str | None = None
    tags: list[str] = msgspec.field(default_factory=list)
    echo: bool = True
    idempotency_key: str | None = None
    urgent: bool = False


class _ChannelMessage(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    message: msgspec.Raw
    channel: str | None = None
    id: str | int | None = None
    echo: bool = True


class _CommandData(msgspec.Struct):
    channel: str | None = None


class _Command(msgspec.Struct):
    type: str
    command: str
    data: _CommandData = msgspec.field(default_factory=_CommandData)
    id: str | int | None = None


class _Members(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    channel: str
    id: str | int | None = None
    after: str = ""


class _Ping(msgspec.Struct):
    type: str
    id: str | int | None = None


class _Anything(msgspec.Struct):
    """The fields that are ours in an object that publishes itself."""

    type: str = DEFAULT_TYPE
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: str | int | None = None
    channel: str | None = None
    key: str | None = None
    tags: list[str] = msgspec.field(default_factory=list)
    echo: bool = True


class _Head(msgspec.Struct):
    type: Any = None
    id: Any = None


_head = msgspec.json.Decoder(_Head)
_subscribe = msgspec.json.Decoder(_Subscribe)
_publish = msgspec.json.Decoder(_Publish)
_channel_message = msgspec.json.Decoder(_ChannelMessage)
_command = msgspec.json.Decoder(_Command)
_members = msgspec.json.Decoder(_Members)
_ping = msgspec.json.Decoder(_Ping)
_anything = msgspec.json.Decoder(_Anything)


def parse(text: str, *, max_depth: int) -> Request:
    """Return what a text frame asks for.

    Raises MessageError; nothing has happened then.
    """
    stripped = text.lstrip(" \t\r\n")
    if not stripped.startswith("{"):
        return Publish(None, None, "text", json.encode(text))
    raw = stripped.encode()
    request_id: RequestId = None
    try:
        json.check(raw, max_depth=max_depth)
        head = json.decode(_head, raw)
        request_id = _request_id(head.id)
        return _parse_object(head.type, raw)
    except TriocastError as error:
        raise MessageError(request_id, error) from None


def _request_id(value: Any) -> RequestId:
    if value is None or (isinstance(value, str) and len(value) <= LONGEST_ID):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return value
    raise InvalidEvent(f"an id is a whole number or a text of at most {LONGEST_ID} characters")


def _parse_object(kind: Any, raw: bytes) -> Request:
    if kind in ("subscribe", "unsubscribe"):
        return _parse_subscribe(json.decode(_subscribe, raw))
    if kind == "publish":
        message = json.decode(_publish, raw)
        return Publish(
            message.id,
            message.channel,
            parse_type(message.event),
            json.compact(message.data),
            None if message.key is None else parse_key(message.key),
            parse_tags(message.tags),
            message.echo,
            None
            if message.idempotency_key is None
            else parse_idempotency_key(message.idempotency_key),
            message.urgent,
        )
    if kind == "channel_message":
        said = json.decode(_channel_message, raw)
        return Publish(
            said.id, said.channel, "channel_message", json.compact(said.message), echo=said.echo
        )
    if kind == "command":
        return _parse_command(json.decode(_command, raw))
    if kind == "presence":
        asked = json.decode(_members, raw)
        return Members(asked.id, parse_channel(asked.channel), asked.after)
    if kind == "ping":
        return Ping(json.decode(_ping, raw).id)
    thing = json.decode(_anything, raw)
    return Publish(
        thing.id,
        thing.channel,
        parse_type(thing.type),
        json.compact(raw if isinstance(thing.data, msgspec.UnsetType) else thing.data),
        None if thing.key is None else parse_key(thing.key),
        parse_tags(thing.tags),
        thing.echo,
    )


def _parse_subscribe(message: _Subscribe) -> Subscribe | Unsubscribe:
    names = message.channels if message.channel is None else [message.channel, *message.channels]
    if not names:
        raise InvalidEvent("name a 'channel' or 'channels'")
    channels = tuple(dict.fromkeys(parse_pattern(name) for name in names))
    if message.type == "unsubscribe":
        return Unsubscribe(message.id, channels)
    types = tuple(parse_type(value) for value in message.types)
    state = parse_state(message.since, message.last)
    start = state if message.cursor is None else parse_cursor(message.cursor)
    return Subscribe(message.id, channels, types, parse_tags(message.tags), start=start)


def _parse_command(message: _Command) -> Request:
    if message.command == "ping":
        return Ping(message.id)
    if message.command not in ("join_channel", "leave_channel"):
        raise UnknownCommand(
            f"there is no command {message.command[:64]!r}; there are join_channel, leave_channel"
            " and ping"
        )
    if message.data.channel is None:
        raise InvalidEvent(f"{message.command} needs data.channel")
    channels = (parse_channel(message.data.channel),)
    if message.command == "leave_channel":
        return Unsubscribe(message.id, channels)
    return Subscribe(message.id, channels, join=True)


class _Published(msgspec.Struct):
    channel: str
    id: str


class _Acknowledgement(msgspec.Struct, tag_field="type", tag="reply"):
    id: RequestId
    data: _Published


def encode_acknowledgement(id: RequestId, channel: str, cursor: str) -> bytes:
    """Return the answer to a publish that was carried out: where its event stands."""
    return msgspec.json.encode(_Acknowledgement(id, _Published(channel, cursor)))


def encode_reply(id: RequestId, data: dict[str, Any]) -> bytes:
    """Return the answer to a request that was carried out."""
    return msgspec.json.encode({"type": "reply", "id": id, "data": data})


def encode_error(id: RequestId, error: TriocastError) -> bytes:
    """Return the answer to a request that was not."""
    return msgspec.json.encode({"type": "error", "id": id, **error.as_dict()})
