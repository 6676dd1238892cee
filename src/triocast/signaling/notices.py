"""The messages of ``triocast.webrtc.v1`` that the server sends; `messages` has the clients'."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from triocast.signaling.errors import SignalingError
from triocast.signaling.ice import IceServer
from triocast.signaling.messages import (
    Answer,
    Candidate,
    Description,
    EndOfCandidates,
    IceCandidate,
    MessageError,
    Offer,
    Renegotiate,
    RequestId,
    Signal,
)


class Told(msgspec.Struct, rename="camel", kw_only=True):
    """Whatever the server sends. ``seq`` numbers what a peer can have again after a break."""

    seq: int | UnsetType = UNSET


class ServerMessage(Told, tag_field="type"):
    pass


class PeerInfo(Told, kw_only=True):
    """Another peer, as one peer is told of it: ``initiator`` and ``polite`` speak of the one that
    is told, ``strict`` of the pair.
    """

    peer: str
    role: str
    capabilities: tuple[str, ...]
    metadata: msgspec.Raw | None
    session: int
    initiator: bool
    polite: bool
    strict: bool
    state: Literal["connected", "suspended"]


class Heartbeat(msgspec.Struct):
    interval: float
    timeout: float


class LimitsTold(msgspec.Struct, rename="camel"):
    max_message_bytes: int
    rate: float | None


class ResumeTold(msgspec.Struct):
    """``received`` is the client's last ``seq`` that came through, ``seq`` where the server's
    numbering stands before what follows.
    """

    token: str
    ttl: float
    resumed: bool
    gap: bool
    seq: int
    received: int

    def __repr__(self) -> str:
        return f"ResumeTold(resumed={self.resumed}, gap={self.gap}, seq={self.seq})"


class Joined(ServerMessage, tag="joined", kw_only=True):
    re: str | int | UnsetType = UNSET
    room: str
    peer: str
    role: str
    peers: list[PeerInfo] | UnsetType = UNSET
    ice_servers: tuple[IceServer, ...]
    ice_servers_ttl: int | None
    token_ttl: int | None
    heartbeat: Heartbeat
    limits: LimitsTold
    resume: ResumeTold


class PeerJoined(PeerInfo, tag_field="type", tag="peer-joined"):
    pass


PeerLeftReason = Literal["left", "timeout", "kicked", "replaced"]


class PeerLeft(ServerMessage, tag="peer-left", kw_only=True):
    peer: str
    reason: PeerLeftReason


class PeerState(ServerMessage, tag="peer-state", kw_only=True):
    peer: str
    state: Literal["connected", "suspended"]


class Relayed(ServerMessage, kw_only=True):
    sender: str = msgspec.field(name="from")
    session: int


class OfferFrom(Relayed, tag="offer", kw_only=True):
    description: Description
    offer_id: int | UnsetType = UNSET


class AnswerFrom(Relayed, tag="answer", kw_only=True):
    description: Description
    offer_id: int | UnsetType = UNSET


class CandidateFrom(Relayed, tag="candidate", kw_only=True):
    candidate: IceCandidate


class EndOfCandidatesFrom(Relayed, tag="end-of-candidates", kw_only=True):
    username_fragment: str | UnsetType | None = UNSET


class RenegotiateFrom(Relayed, tag="renegotiate", kw_only=True):
    ice_restart: bool
    reason: str | UnsetType = UNSET


class DataFrom(ServerMessage, tag="data", kw_only=True):
    sender: str = msgspec.field(name="from")
    payload: msgspec.Raw


class IceServersMessage(ServerMessage, tag="ice-servers", kw_only=True):
    re: str | int | UnsetType = UNSET
    ice_servers: tuple[IceServer, ...]
    ice_servers_ttl: int | None


class Ping(ServerMessage, tag="ping", kw_only=True):
    """``received`` is the client's last ``seq`` that came through: it need not keep those."""

    t: float
    received: int | UnsetType = UNSET


class ErrorMessage(ServerMessage, tag="error", kw_only=True):
    code: str
    message: str
    temporary: bool
    fatal: bool
    re: str | int | UnsetType = UNSET
    to: str | UnsetType = UNSET
    session: int | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


def optional(value: str | int | None) -> str | int | UnsetType:
    """Return a field that is left out where there is nothing to say."""
    return UNSET if value is None else value


def error_message(
    error: SignalingError,
    *,
    re: RequestId = None,
    to: str | None = None,
    session: int | None = None,
) -> ErrorMessage:
    """Return how a client is told of an error, and of which of its messages."""
    return ErrorMessage(
        code=error.code,
        message=error.message,
        temporary=error.temporary,
        fatal=error.fatal,
        re=optional(re),
        to=UNSET if to is None else to,
        session=UNSET if session is None else session,
        retry_after=UNSET if error.wait is None else error.wait,
    )


def refusal(refused: MessageError) -> ErrorMessage:
    """Return how a client is told of a message that could not be read."""
    return error_message(refused.error, re=refused.re, to=refused.to)


def relayed(message: Signal, sender: str) -> Relayed:
    """Return a peer's message as the other peer gets it; its sender is the server's word."""
    session = message.session
    match message:
        case Offer():
            return OfferFrom(
                sender=sender,
                session=session,
                description=message.description,
                offer_id=message.offer_id,
            )
        case Answer():
            return AnswerFrom(
                sender=sender,
                session=session,
                description=message.description,
                offer_id=message.offer_id,
            )
        case Candidate():
            return CandidateFrom(sender=sender, session=session, candidate=message.candidate)
        case EndOfCandidates():
            return EndOfCandidatesFrom(
                sender=sender, session=session, username_fragment=message.username_fragment
            )
        case Renegotiate():
            return RenegotiateFrom(
                sender=sender,
                session=session,
                ice_restart=message.ice_restart,
                reason=message.reason,
            )


_encoder = msgspec.json.Encoder()


def encode(message: Told) -> bytes:
    """Return a message as the text of one frame, in UTF-8."""
    return _encoder.encode(message)
