"""The bounds of signaling, and what one client may do."""

from __future__ import annotations

from typing import Final

import attrs

from triocast.signaling.messages import Sizes

INFO_BYTES: Final = 1_024
"""What a peer is told of each other one, besides its metadata, has fewer bytes."""


@attrs.frozen
class Limits:
    """The bounds. Times are in seconds.

    ``queue_messages``, ``queue_bytes`` and ``queue_seconds`` bound what is kept for each peer, for
    its return; ``kept_bytes`` bounds the bytes of all of them, `budget.ENTRY_BYTES` more for each
    message. Beyond it those give way for whom most is kept.
    ``grace_seconds`` is how long a peer may be without a connection; of a break shorter than
    ``blip_seconds`` the others are not told. ``heartbeat_seconds``, ``heartbeat_timeout`` and
    ``rate`` (messages per second, None for no bound) are the endpoint's to keep; clients are told.
    Raises ValueError for bounds that contradict each other.
    """

    rooms: int = 10_000
    peers: int = 50_000
    peers_per_room: int = 32
    bans: int = 10_000
    sizes: Sizes = attrs.field(factory=Sizes)
    queue_messages: int = 256
    queue_bytes: int = 262_144
    queue_seconds: float = 30.0
    kept_bytes: int = 268_435_456
    grace_seconds: float = 30.0
    blip_seconds: float = 2.0
    heartbeat_seconds: float = 10.0
    heartbeat_timeout: float = 20.0
    rate: float | None = None
    relay_data: bool = False

    def __attrs_post_init__(self) -> None:
        counts = (self.rooms, self.peers, self.peers_per_room, self.bans, self.queue_messages)
        if min(counts) < 1 or min(self.queue_seconds, self.grace_seconds) <= 0:
            raise ValueError("the limits of signaling are greater than 0")
        if self.queue_bytes < 2 * self.sizes.message_bytes:
            raise ValueError(
                "queue_bytes is at least twice the largest message: else none could wait"
            )
        if self.kept_bytes < 2 * self.queue_bytes:
            raise ValueError("kept_bytes is at least twice queue_bytes: it is for all peers")
        if not 0 <= self.blip_seconds <= self.grace_seconds:
            raise ValueError("blip_seconds is not longer than grace_seconds")

    @property
    def welcome_bytes(self) -> int:
        """What a join may be answered with: everybody who is there, the ICE servers (in the place
        of the client itself), and what was kept for its return.
        """
        each = self.sizes.metadata_bytes + INFO_BYTES
        return self.peers_per_room * each + self.queue_bytes


@attrs.frozen
class Admission:
    """What the endpoint found out about a client that wants to join a room.

    ``subject`` is who it is, for bans and for coming back (a user, or an address where nobody is
    known), ``is_known`` whether that is one user and no other: whoever else has an address could
    claim to be its peers. ``role`` is told to the others. ``may_create`` a room that is not there,
    ``may_claim`` a peer id of its own choice, ``may_send_data`` through the server. ``seconds`` is
    how long all this holds, None for ever; the peer is told.
    """

    subject: str | None = None
    role: str = "peer"
    may_create: bool = True
    may_claim: bool = False
    may_send_data: bool = False
    is_known: bool = False
    seconds: int | None = None

    @property
    def user(self) -> str | None:
        """The subject, if that is one user and no other."""
        return self.subject if self.is_known else None


@attrs.frozen
class Fresh:
    """Two random texts for a join, each unguessable and never given before.

    ``peer`` becomes the peer's id (letters, digits, ``_ . @ -``; 64 at the most) unless it
    resumes or claims another, ``token`` is the one to resume with (at most 256 characters).
    """

    peer: str
    token: str = attrs.field(repr=False)
