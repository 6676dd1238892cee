"""The native WebSocket protocol ``triocast.v1``: what clients ask, and what they are answered.

Every text frame of a client is one of these:

- a JSON object whose ``type`` is one of `TYPES`;
- text that is neither a JSON object nor an array of them: published as
  ``{"type":"text","data":<the text>}``.

An answer carries the ``id`` of its request. Whatever could have been meant as a request and is
none is refused: an object of another type or without one, several requests in an array, text that
begins like these, also behind a byte order mark or white space that JSON does not know.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs
import msgspec

from triocast.errors import BadRequest, InvalidEvent, InvalidJSON, TriocastError, UnknownCommand
from triocast.events import parse_channel, parse_pattern, parse_tags, parse_type
from triocast.spelling import MAX_NAME, nearest, unknown
from triocast.wire import json, new_event
from triocast.wire.new_event import AddressedBody, NewEvent
from triocast.wire.start import Start, parse_cursor, parse_state

RequestId = str | int | None

LONGEST_ID: Final = 64

TYPES: Final = (
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "ping",
    "command",
    "channel_message",
)
COMMANDS: Final = ("join_channel", "leave_channel", "ping")


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


class Publish(msgspec.Struct, frozen=True):
    """Publish one event; without a channel it goes to the one joined last, else to everybody."""

    id: RequestId
    event: NewEvent
    echo: bool = True


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
    event: AddressedBody
    id: str | int | None = None
    echo: bool = True


class _ChannelMessage(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    message: msgspec.Raw
    channel: str | None = None
    id: str | int | None = None
    echo: bool = True


class _CommandData(msgspec.Struct, forbid_unknown_fields=True):
    channel: str | None = None


class _Command(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    command: str
    data: _CommandData = msgspec.field(default_factory=_CommandData)
    id: str | int | None = None


class _Members(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    channel: str
    id: str | int | None = None
    after: str = ""


class _Ping(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    id: str | int | None = None


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
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_anything = msgspec.json.Decoder(Any)

_IGNORABLE: Final = (
    r"\s\x00-\x20\x7f-\xa0\xad\u061c\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\ufeff\ufffe"
)
"""What may stand in front of JSON unseen: white space, controls, byte order marks."""

_odd_object = re.compile(rf"[{_IGNORABLE}]*\{{")
_array_of_objects = re.compile(rf"[{_IGNORABLE}]*(?:\[[{_IGNORABLE}]*)+\{{")
_array = re.compile(rf"[{_IGNORABLE}]*\[")


def parse(text: str, *, max_depth: int) -> Request:
    """Return what a text frame asks for.

    Raises MessageError; nothing has happened then.
    """
    stripped = text.lstrip(" \t\r\n")
    raw = stripped.encode()
    request_id: RequestId = None
    try:
        if not stripped.startswith("{"):
            _check_is_text(stripped)
            return Publish(None, NewEvent("text", json.encode(text)))
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


def _check_is_text(text: str) -> None:
    """Raise BadRequest if this was meant as a request, or as several."""
    if _odd_object.match(text):
        raise InvalidJSON(
            f"JSON does not begin with U+{ord(text[0]):04X}; did you mean to send it without?"
        )
    array = _array.match(text)
    if array and (_array_of_objects.match(text) or _has_objects(text[array.end() - 1 :])):
        raise InvalidEvent("an array is no request; did you mean to send each object by itself?")


def _has_objects(text: str) -> bool:
    try:
        found = json.decode(_anything, text)
    except BadRequest:
        return False
    return isinstance(found, list) and any(isinstance(each, dict) for each in found)


def _parse_object(kind: Any, raw: bytes) -> Request:
    if kind in ("subscribe", "unsubscribe"):
        return _parse_subscribe(json.decode(_subscribe, raw))
    if kind == "publish":
        message = _decode_publish(raw)
        return Publish(message.id, new_event.read(message.event), message.echo)
    if kind == "channel_message":
        said = json.decode(_channel_message, raw)
        channel = None if said.channel is None else parse_channel(said.channel)
        event = NewEvent("channel_message", json.compact(said.message), channel)
        return Publish(said.id, event, said.echo)
    if kind == "command":
        return _parse_command(json.decode(_command, raw))
    if kind == "presence":
        asked = json.decode(_members, raw)
        return Members(asked.id, parse_channel(asked.channel), asked.after)
    if kind == "ping":
        return Ping(json.decode(_ping, raw).id)
    if isinstance(kind, str):
        parse_type(kind)
        raise UnknownCommand(_unknown_type(kind))
    raise InvalidEvent(_unknown_type(kind))


def _decode_publish(raw: bytes) -> _Publish:
    try:
        return json.decode(_publish, raw)
    except InvalidEvent:
        given = json.decode(_fields, raw)
        misplaced = [name for name in _EVENT_FIELDS if name in given]
        if not misplaced:
            raise
        raise InvalidEvent(
            f"{', '.join(misplaced)}: what REST takes as its body goes under 'event'; did you mean"
            ' {"type":"publish","event":{…}}?'
        ) from None


_EVENT_FIELDS: Final = [
    field.name for field in msgspec.structs.fields(AddressedBody) if field.name != "type"
]


def _unknown_type(kind: Any) -> str:
    """Return what is told of an object whose type is none of ours."""
    if kind is None:
        what, close, event = "a request has a 'type'", None, "{…}"
    elif isinstance(kind, str):
        what, close = f"there is no type {kind[:MAX_NAME]!r}", nearest(kind, TYPES)
        event = f'{{"type":{json.encode(kind[:MAX_NAME]).decode()},…}}'
    else:
        what, close, event = "a 'type' is a text", None, "{…}"
    meant = f'{{"type":"publish","event":{event}}}' if close is None else repr(close)
    return f"{what}; did you mean {meant}? The types are {', '.join(TYPES)}"


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
    if message.command not in COMMANDS:
        raise UnknownCommand(f"the command {unknown(message.command, COMMANDS)}")
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
