"""The messages of PeerJS (client 1.5): JSON objects with ``type``, ``src``, ``dst``, ``payload``.

What is passed on is written anew from the fields that are known; ``src`` is always the server's
word. Of a payload only the shape is looked at: applications' metadata are in it.
"""

from __future__ import annotations

import re
from json import loads
from typing import Annotated, Any, ClassVar, Final, Literal

import attrs
import msgspec
from msgspec import Meta

from triocast.errors import InvalidEvent
from triocast.signaling.messages import Description, IceCandidate
from triocast.wire import json

MAX_DEPTH: Final = 32
LONGEST_ID: Final = 128
MAX_SECRET: Final = 8_192
"""Characters of a client's ``token``, as of all tokens: some applications have a JWT there."""


NOT_ALL_GIVEN: Final = "No id, token, or key supplied to websocket server"
INVALID_KEY: Final = "Invalid key provided"

_ID: Final = r"^[A-Za-z0-9]+(?:[ _-][A-Za-z0-9]+)*\Z"
_id = re.compile(_ID)

Id = Annotated[str, Meta(max_length=LONGEST_ID, pattern=_ID)]
ConnectionId = Annotated[str, Meta(min_length=1, max_length=256)]


def is_id(text: str) -> bool:
    """Whether this can be the id of a client."""
    return len(text) <= LONGEST_ID and _id.match(text) is not None


# From the server.


def encode(type: str, **fields: Any) -> bytes:
    """Return a message of the server's."""
    return msgspec.json.encode({"type": type, **fields})


OPEN: Final = encode("OPEN")
ID_TAKEN: Final = encode("ID-TAKEN", payload={"msg": "ID is taken"})


def error(message: str) -> bytes:
    """Return what tells a client that it is sent away."""
    return encode("ERROR", payload={"msg": message})


def expire(*, src: str, dst: str) -> bytes:
    """Return what tells ``dst`` that what it sent to ``src`` was not delivered."""
    return encode("EXPIRE", src=src, dst=dst)


# From clients.


class _Described(msgspec.Struct):
    """The payload of an ``OFFER`` or ``ANSWER``, as far as it is looked at."""

    sdp: Description
    type: Literal["data", "media"]
    connection_id: ConnectionId = msgspec.field(name="connectionId")


class _Trickled(msgspec.Struct):
    candidate: IceCandidate
    type: Literal["data", "media"]
    connection_id: ConnectionId = msgspec.field(name="connectionId")


class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="HEARTBEAT"):
    pass


class Leave(msgspec.Struct, frozen=True, tag_field="type", tag="LEAVE"):
    """Close all connections with me. Clients send it when they mean it, the server never does."""

    waits: ClassVar[bool] = False
    dst: Id

    def relayed(self, src: str) -> bytes:
        return encode("LEAVE", src=src, dst=self.dst)


class _WithPayload(msgspec.Struct, frozen=True, tag_field="type"):
    waits: ClassVar[bool] = True
    dst: Id
    payload: msgspec.Raw

    def relayed(self, src: str) -> bytes:
        """Return the message as its receiver gets it."""
        return encode(str(self.__struct_config__.tag), src=src, dst=self.dst, payload=self.payload)


class Offer(_WithPayload, frozen=True, tag="OFFER"):
    pass


class Answer(_WithPayload, frozen=True, tag="ANSWER"):
    pass


class Candidate(_WithPayload, frozen=True, tag="CANDIDATE"):
    pass


Relayed = Offer | Answer | Candidate | Leave
Request = Relayed | Heartbeat


class _Head(msgspec.Struct):
    type: str


_head = msgspec.json.Decoder(_Head)
_KINDS: Final[dict[str, msgspec.json.Decoder[Request]]] = {
    str(kind.__struct_config__.tag): msgspec.json.Decoder(kind)
    for kind in (Offer, Answer, Candidate, Leave, Heartbeat)
}
_CALLS: Final = frozenset(str(kind.__struct_config__.tag) for kind in (Offer, Answer))
_described = msgspec.json.Decoder(_Described)
_trickled = msgspec.json.Decoder(_Trickled)


def parse(text: str | bytes) -> Request | None:
    """Return what a client says; None if it is of a type that means nothing here.

    Raises BadRequest (InvalidJSON, InvalidEvent) for what is no message.
    """
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    json.check(raw, max_depth=MAX_DEPTH)
    decoder = _KINDS.get(json.decode(_head, raw).type)
    if decoder is None:
        return None
    message: Request = json.decode(decoder, raw)
    if isinstance(message, Offer):
        _check_sdp(json.decode(_described, message.payload).sdp, "offer")
    elif isinstance(message, Answer):
        _check_sdp(json.decode(_described, message.payload).sdp, "answer")
    elif isinstance(message, Candidate):
        json.decode(_trickled, message.payload)
    return message


@attrs.frozen
class Refused:
    """A message that `parse` refused.

    ``dst`` is the other end of the call that fails because of it. A call without one of its
    candidates may well succeed, and a ``LEAVE`` is the end of one: with those it is None.
    """

    dst: str | None = None


def read_refused(text: str) -> Refused | None:
    """Return what can be told of a message that `parse` refused; None if it is no message at all.

    A message is a JSON object with a ``type``. It is read with Python's own parser, which takes
    what msgspec does not: half a surrogate pair, as JavaScript's ``slice`` leaves it in a text.
    """
    try:
        found = loads(text, parse_int=float)  # An int of that many digits is an error.
    except RecursionError:
        return Refused()
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        return None
    dst = found.get("dst")
    if found["type"] not in _CALLS or not isinstance(dst, str) or not _is_unicode(dst):
        return Refused()
    return Refused(dst)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_sdp(description: Description, kind: str) -> None:
    if description.type != kind or not description.sdp.startswith("v=0"):
        raise InvalidEvent(f"payload.sdp is not an {kind}")
