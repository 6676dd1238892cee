"""The messages of ``triocast.webrtc.v1`` that clients send; `notices` has the server's.

Every message is a JSON object with a ``type``. Unknown fields are dropped, a ``from`` of the
client's among them: what is passed on is written anew from the fields that are known. SDP is
looked at no further than its first line and its size. ``docs/reference/signaling.md`` is the
specification.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import attrs
import msgspec
from msgspec import UNSET, Meta, UnsetType

from triocast.errors import InvalidEvent, InvalidJSON
from triocast.signaling.errors import (
    BadDescription,
    BadJSON,
    BadMessage,
    MessageTooLarge,
    SignalingError,
    UnknownType,
)
from triocast.wire import json

SUBPROTOCOL: Final = "triocast.webrtc.v1"
VERSION: Final = 1
CAPABILITIES: Final = frozenset({"trickle", "rollback", "ice-restart", "data-relay"})
"""What a client may say that it can do; others are passed over."""

LONGEST_ID: Final = 64
_MOST_SEQ: Final = 2**53 - 1

RequestId = str | int | None

_ROOM: Final = r"^[A-Za-z0-9_.:/@#=+~%-]{1,128}\Z"
_PEER: Final = r"^[A-Za-z0-9_.@-]{1,64}\Z"
_peer_id = re.compile(_PEER)
_room = re.compile(_ROOM)

Room = Annotated[str, Meta(pattern=_ROOM)]
PeerId = Annotated[str, Meta(pattern=_PEER)]
Seq = Annotated[int, Meta(ge=0, le=_MOST_SEQ)]
Session = Annotated[int, Meta(ge=1, le=_MOST_SEQ)]
OfferId = Annotated[int, Meta(ge=0, le=_MOST_SEQ)]
Short = Annotated[str, Meta(max_length=256)]


def is_peer_id(text: str) -> bool:
    """Whether this can be the id of a peer."""
    return _peer_id.match(text) is not None


def is_room(text: str) -> bool:
    """Whether this can be the name of a room."""
    return _room.match(text) is not None


class Description(msgspec.Struct, frozen=True):
    """An ``RTCSessionDescriptionInit``."""

    type: Literal["offer", "answer"]
    sdp: str


class IceCandidate(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An ``RTCIceCandidateInit``."""

    candidate: Annotated[str, Meta(max_length=2048)]
    sdp_mid: Short | UnsetType | None = msgspec.field(name="sdpMid", default=UNSET)
    sdp_m_line_index: Annotated[int, Meta(ge=0, le=65535)] | UnsetType | None = msgspec.field(
        name="sdpMLineIndex", default=UNSET
    )
    username_fragment: Short | UnsetType | None = UNSET


class Message(msgspec.Struct, frozen=True, rename="camel", tag_field="type", kw_only=True):
    """What a client sends. ``id`` comes back as ``re``; ``seq`` grows with each message that is
    passed on, so that one sent twice is passed on once.
    """

    id: str | int | None = None


class Resume(msgspec.Struct, frozen=True, rename="camel"):
    token: Annotated[str, Meta(min_length=1, max_length=256)]
    last_seq: Seq

    def __repr__(self) -> str:
        return f"Resume(last_seq={self.last_seq})"


class Join(Message, frozen=True, kw_only=True, tag="join"):
    room: Room
    token: Annotated[str, Meta(max_length=8192)] | None = None
    peer: PeerId | None = None
    version: int = VERSION
    metadata: msgspec.Raw | UnsetType = UNSET
    capabilities: Annotated[list[Short], Meta(max_length=32)] = msgspec.field(default_factory=list)
    resume: Resume | None = None

    @property
    def metadata_text(self) -> bytes:
        """The metadata as compact JSON; empty if there are none."""
        if isinstance(self.metadata, UnsetType) or bytes(self.metadata) == b"null":
            return b""
        return json.compact(self.metadata)

    def __repr__(self) -> str:
        return f"Join(room={self.room!r}, peer={self.peer!r}, resume={self.resume!r})"


class Leave(Message, frozen=True, tag="leave"):
    reason: Short | None = None


class GetIceServers(Message, frozen=True, tag="get-ice-servers"):
    pass


class Pong(Message, frozen=True, tag="pong"):
    """The answer to a ping; ``seq`` is the last one that the client has."""

    t: float | None = None
    seq: Seq | None = None


class Directed(Message, frozen=True, kw_only=True):
    """A message for the other peer of a pair."""

    to: PeerId
    session: Session
    seq: Session | None = None


class Offer(Directed, frozen=True, kw_only=True, tag="offer"):
    description: Description
    offer_id: OfferId | UnsetType = UNSET


class Answer(Directed, frozen=True, kw_only=True, tag="answer"):
    description: Description
    offer_id: OfferId | UnsetType = UNSET


class Candidate(Directed, frozen=True, kw_only=True, tag="candidate"):
    candidate: IceCandidate


class EndOfCandidates(Directed, frozen=True, kw_only=True, tag="end-of-candidates"):
    username_fragment: Short | UnsetType | None = UNSET


class Renegotiate(Directed, frozen=True, kw_only=True, tag="renegotiate"):
    ice_restart: bool = False
    reason: Short | UnsetType = UNSET


class Data(Message, frozen=True, kw_only=True, tag="data"):
    """Relayed data, to one peer or, without ``to``, to everybody in the room who takes it."""

    payload: msgspec.Raw
    to: PeerId | None = None
    seq: Session | None = None


Signal = Offer | Answer | Candidate | EndOfCandidates | Renegotiate
Request = Join | Leave | GetIceServers | Pong | Signal | Data


class MessageError(Exception):
    """A client's message that is refused, and what is known of it.

    Answer with `notices.error_message`.
    """

    def __init__(self, error: SignalingError, re: RequestId = None, to: str | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.re = re
        self.to = to


@attrs.frozen
class Sizes:
    """How large and how deep a message may be: bytes, bytes, levels."""

    message_bytes: int = 65_536
    metadata_bytes: int = 4_096
    max_depth: int = 16


class _Head(msgspec.Struct):
    type: Any = None
    id: Any = None
    to: Any = None


_head = msgspec.json.Decoder(_Head)
_anything: Final = msgspec.json.Decoder(Any)
_DECODERS: Final[dict[str, msgspec.json.Decoder[Request]]] = {
    str(kind.__struct_config__.tag): msgspec.json.Decoder(kind)
    for kind in (
        Join,
        Leave,
        GetIceServers,
        Pong,
        Offer,
        Answer,
        Candidate,
        EndOfCandidates,
        Renegotiate,
        Data,
    )
}


def parse(text: str | bytes, sizes: Sizes) -> Request:
    """Return what a text frame says.

    Raises MessageError; nothing has happened then.
    """
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    re_: RequestId = None
    to: str | None = None
    try:
        if len(raw) > sizes.message_bytes:
            raise MessageTooLarge(f"a message has at most {sizes.message_bytes} bytes")
        head = _read_head(raw, sizes.max_depth)
        re_ = _request_id(head.id)
        to = head.to if isinstance(head.to, str) and is_peer_id(head.to) else None
        return _read(head.type, raw, sizes)
    except SignalingError as error:
        raise MessageError(error, re_, to) from None


def _read_head(raw: bytes, max_depth: int) -> _Head:
    try:
        json.check(raw, max_depth=max_depth)
        return json.decode(_head, raw)
    except InvalidJSON as error:
        raise BadJSON(error.message) from None
    except InvalidEvent as error:
        raise BadMessage(f"a message is a JSON object: {error.message}") from None


def _request_id(value: Any) -> RequestId:
    if value is None or (isinstance(value, str) and len(value) <= LONGEST_ID):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MOST_SEQ:
        return value
    raise BadMessage(f"an id is a whole number or a text of at most {LONGEST_ID} characters")


def _read(kind: Any, raw: bytes, sizes: Sizes) -> Request:
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        raise UnknownType(f"the types are {', '.join(_DECODERS)}")
    try:
        message = json.decode(decoder, raw)
        if isinstance(message, Join):
            # Everybody in the room is told of them, and 1e999 is no number to many parsers.
            json.decode(_anything, message.metadata_text or b"null")
    except InvalidEvent as error:
        if "$.description" in error.message:
            raise BadDescription(error.message) from None
        raise BadMessage(error.message) from None
    except InvalidJSON as error:
        raise BadJSON(error.message) from None
    if isinstance(message, Offer | Answer):
        _check_description(kind, message.description)
    elif isinstance(message, Join) and len(message.metadata_text) > sizes.metadata_bytes:
        raise MessageTooLarge(f"metadata have at most {sizes.metadata_bytes} bytes")
    return message


def _check_description(kind: str, description: Description) -> None:
    if description.type != kind:
        raise BadDescription(f"an {kind} has a description of the type {kind!r}")
    if not description.sdp.startswith("v=0"):
        raise BadDescription("an SDP begins with 'v=0'")
