"""Rooms and peers, as they are remembered."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import attrs
import msgspec

from triocast.signaling.comings import Comings
from triocast.signaling.mailbox import Mailbox
from triocast.signaling.notices import PeerInfo, PeerJoined
from triocast.signaling.pairing import Pair

_Info = TypeVar("_Info", bound=PeerInfo)


@attrs.define(eq=False)
class Peer:
    """One participant of a room, from its join until it has left for good.

    ``connection`` is None while it is suspended, since ``suspended_at``. ``received`` is the last
    of its own numbers that came through. ``told_suspended`` are the ids of those who know that it
    is suspended, ``all_told_suspended`` says that everybody in the room does. ``grant_ends_at`` is
    None for never.
    """

    id: str
    room: Room = attrs.field(repr=False)
    connection: str | None
    subject: str | None
    role: str
    may_send_data: bool
    capabilities: frozenset[str]
    metadata: bytes
    token_digest: bytes = attrs.field(repr=False)
    mailbox: Mailbox = attrs.field(repr=False)
    received: int = 0
    suspended_at: float = 0.0
    pairs: dict[str, Pair] = attrs.field(factory=dict, repr=False)
    told_suspended: set[str] = attrs.field(factory=set, repr=False)
    all_told_suspended: bool = False
    grant_ends_at: float | None = None

    def grant_seconds(self, now: float) -> float | None:
        """Return for how long its grant holds yet, None for ever."""
        return None if self.grant_ends_at is None else self.grant_ends_at - now

    @property
    def is_connected(self) -> bool:
        return self.connection is not None

    def others(self) -> list[Peer]:
        """Return the room's other peers, in the order in which they joined."""
        return [peer for peer in self.room.peers.values() if peer is not self]


@attrs.define(eq=False)
class Room:
    name: str
    peers: dict[str, Peer] = attrs.field(factory=dict)
    is_locked: bool = False
    comings: Comings = attrs.field(factory=Comings, repr=False)


@attrs.frozen
class PeerView:
    """A peer, as administrators see it."""

    id: str
    role: str
    subject: str | None
    is_connected: bool
    queued_messages: int
    queued_bytes: int


def view(peer: Peer) -> PeerView:
    return PeerView(
        peer.id,
        peer.role,
        peer.subject,
        peer.is_connected,
        len(peer.mailbox),
        peer.mailbox.size,
    )


def introduce(peer: Peer, to: Peer) -> PeerInfo:
    """Return what ``to`` is told of ``peer`` in a list."""
    return _fill(PeerInfo, peer, to)


def announce(peer: Peer, to: Peer) -> PeerJoined:
    """Return what ``to`` is told of ``peer`` when it joins."""
    return _fill(PeerJoined, peer, to)


def _fill(kind: type[_Info], peer: Peer, to: Peer) -> _Info:
    pair = to.pairs[peer.id]
    return kind(
        peer=peer.id,
        role=peer.role,
        capabilities=tuple(sorted(peer.capabilities)),
        metadata=msgspec.Raw(peer.metadata) if peer.metadata else None,
        session=pair.session,
        initiator=pair.initiator == to.id,
        polite=pair.polite == to.id,
        strict=pair.strict,
        state="connected" if peer.is_connected else "suspended",
    )


def digest(token: str) -> bytes:
    """Return what is remembered of a resume token: nothing that could be resumed with.

    Looking it up takes a time that says nothing about the tokens there are.
    """
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
