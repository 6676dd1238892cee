"""The way into a room: as a new peer, in the place of an earlier self, or back by a token."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from triocast.signaling.bans import Bans
from triocast.signaling.budget import Budget
from triocast.signaling.delivery import Delivery
from triocast.signaling.errors import (
    AlreadyJoined,
    JoinForbidden,
    PeerIdTaken,
    Replaced,
    ResumeFailed,
    RoomFull,
    RoomLocked,
    RoomNotFound,
    TooManyJoins,
    TurnUnavailable,
    UnsupportedVersion,
)
from triocast.signaling.ice import IceServers
from triocast.signaling.limits import Admission, Fresh, Limits
from triocast.signaling.mailbox import Mailbox
from triocast.signaling.messages import CAPABILITIES, VERSION, Join, RequestId, Resume
from triocast.signaling.notices import (
    Heartbeat,
    Joined,
    LimitsTold,
    PeerState,
    ResumeTold,
    optional,
)
from triocast.signaling.peers import Peer, Room, announce, digest, introduce
from triocast.signaling.registry import Registry

IceServersOf = Callable[[str, float | None], IceServers]
"""What a peer is told whose grant holds for so many seconds, None for ever."""

_sets: dict[frozenset[str], frozenset[str]] = {}
"""Combinations of capabilities, by themselves."""


class Door:
    """Lets connections in, under the limits."""

    def __init__(
        self,
        limits: Limits,
        registry: Registry,
        bans: Bans,
        budget: Budget[Mailbox],
        ice_servers: IceServersOf,
    ) -> None:
        self._limits = limits
        self._registry = registry
        self._bans = bans
        self._budget = budget
        self._ice_servers = ice_servers

    def let_in(
        self,
        connection: str,
        message: Join,
        admission: Admission,
        fresh: Fresh,
        delivery: Delivery,
    ) -> None:
        """Make the connection a peer's. Raises SignalingError; nothing has changed then."""
        if message.version != VERSION:
            raise UnsupportedVersion(f"this server speaks version {VERSION}")
        if connection in self._registry.connections:
            raise AlreadyJoined("this connection has joined a room already")
        self._check_ban(message.room, admission.subject, delivery.now)
        if message.resume is None:
            self._enter(connection, message, admission, fresh, delivery)
        else:
            self._resume(connection, message, message.resume, admission, delivery)

    def _check_ban(self, room: str, subject: str | None, now: float) -> None:
        until = None if subject is None else self._bans.until(room, subject, now=now)
        if until is not None:
            raise JoinForbidden("you were removed from this room for a while", wait=until - now)

    def _enter(
        self,
        connection: str,
        message: Join,
        admission: Admission,
        fresh: Fresh,
        delivery: Delivery,
    ) -> None:
        if message.peer is not None and not admission.may_claim:
            raise JoinForbidden("this token does not allow an id of one's own choice")
        peer_id = message.peer or fresh.peer
        room = self._registry.rooms.get(message.room)
        before = None if room is None else room.peers.get(peer_id)
        self._check_comings(room, admission, delivery.now)
        if room is None or before is None:
            self._check_room(room, admission)
            self._check_peers(delivery)
            room = self._registry.rooms.setdefault(message.room, Room(message.room))
        elif not _is_own(before, admission):
            raise PeerIdTaken(f"there is a peer {peer_id} in this room")
        else:
            error = Replaced("the peer joined anew")
            self._registry.expel(before, error, delivery, keep_room=True)
        if admission.user is not None:
            room.comings.note(admission.user, delivery.now)
        peer = self._make_peer(peer_id, room, connection, message, admission, fresh)
        self._registry.add(peer)
        resume = ResumeTold(fresh.token, self._limits.grace_seconds, False, False, 0, 0)
        self._tell_joined(peer, connection, message.id, admission, resume, delivery)
        for other in peer.others():
            delivery.tell(other, announce(peer, other))

    def _check_room(self, room: Room | None, admission: Admission) -> None:
        if room is not None:
            if room.is_locked:
                raise RoomLocked("the room is locked")
            if len(room.peers) >= self._limits.peers_per_room:
                raise RoomFull(f"a room has at most {self._limits.peers_per_room} peers", wait=5)
            return
        if not admission.may_create:
            raise RoomNotFound("there is no such room")
        if len(self._registry.rooms) >= self._limits.rooms:
            raise RoomFull("the server has as many rooms as it takes", wait=5)

    def _check_comings(self, room: Room | None, admission: Admission, now: float) -> None:
        """Refuse a user that comes and goes: all others begin a connection with it each time.

        Of those who are known by their address there may be any number.
        """
        if room is None or admission.user is None:
            return
        wait = room.comings.wait(admission.user, now, at_once=2 * self._limits.peers_per_room)
        if wait > 0:
            raise TooManyJoins("you have joined this room too often of late", wait=wait)

    def _check_peers(self, delivery: Delivery) -> None:
        """Have room for one more peer, in the place of the one that is away for longest.

        Else who comes and goes all the time could fill the server with peers that are away.
        """
        if len(self._registry.tokens) < self._limits.peers:
            return
        longest = next(iter(self._registry.suspended), None)
        if longest is None or delivery.now < longest.suspended_at + self._limits.blip_seconds:
            raise RoomFull("the server has as many peers as it takes", wait=5)
        self._registry.remove(longest, "timeout", delivery)

    def _make_peer(
        self,
        peer_id: str,
        room: Room,
        connection: str,
        message: Join,
        admission: Admission,
        fresh: Fresh,
    ) -> Peer:
        return Peer(
            id=peer_id,
            room=room,
            connection=connection,
            subject=admission.subject,
            role=admission.role,
            may_send_data=admission.may_send_data,
            capabilities=_known(message.capabilities),
            metadata=message.metadata_text,
            token_digest=digest(fresh.token),
            mailbox=Mailbox(
                self._budget,
                most=self._limits.queue_messages,
                most_bytes=self._limits.queue_bytes,
                seconds=self._limits.queue_seconds,
            ),
        )

    def _resume(
        self,
        connection: str,
        message: Join,
        resume: Resume,
        admission: Admission,
        delivery: Delivery,
    ) -> None:
        peer = self._registry.tokens.get(digest(resume.token))
        if peer is None or peer.room.name != message.room or peer.subject != admission.subject:
            raise ResumeFailed("no peer of this room waits for this token; join without it")
        if peer.role != admission.role:
            raise ResumeFailed("the role is another now; join without the token, as somebody new")
        peer.may_send_data = admission.may_send_data
        self._registry.reconnect(peer, connection, delivery)
        missed = peer.mailbox.after(resume.last_seq, now=delivery.now)
        if missed is None:
            peer.mailbox.reset()
        told = ResumeTold(
            resume.token,
            self._limits.grace_seconds,
            resumed=True,
            gap=missed is None,
            seq=peer.mailbox.seq if missed is None else resume.last_seq,
            received=peer.received,
        )
        self._tell_joined(peer, connection, message.id, admission, told, delivery)
        delivery.again(connection, missed or [])
        for other in peer.others():
            if other.id in peer.told_suspended:
                delivery.tell(other, PeerState(peer=peer.id, state="connected"))
        peer.told_suspended.clear()
        peer.all_told_suspended = False

    def _tell_joined(
        self,
        peer: Peer,
        connection: str,
        re: RequestId,
        admission: Admission,
        resume: ResumeTold,
        delivery: Delivery,
    ) -> None:
        trouble: TurnUnavailable | None = None
        try:
            ice = self._ice_servers(peer.id, admission.seconds)
        except TurnUnavailable as error:
            ice, trouble = IceServers(), error
        seconds, limits = admission.seconds, self._limits
        peer.grant_ends_at = None if seconds is None else delivery.now + seconds
        joined = Joined(
            re=optional(re),
            room=peer.room.name,
            peer=peer.id,
            role=peer.role,
            ice_servers=ice.servers,
            ice_servers_ttl=ice.ttl,
            token_ttl=seconds,
            heartbeat=Heartbeat(limits.heartbeat_seconds, limits.heartbeat_timeout),
            limits=LimitsTold(limits.sizes.message_bytes, limits.rate),
            resume=resume,
        )
        # Whoever has a gap needs the state; to others what follows tells what has changed.
        if resume.gap or not resume.resumed:
            joined.peers = [introduce(other, peer) for other in peer.others()]
            for other in peer.others():
                if not other.is_connected:
                    other.told_suspended.add(peer.id)
        delivery.answer(connection, joined)
        if trouble is not None:
            delivery.refuse(connection, trouble, re=None)


def _known(capabilities: Iterable[str]) -> frozenset[str]:
    """Return those that are known; equal sets are the same object, as most peers have the same."""
    found = CAPABILITIES.intersection(capabilities)
    return _sets.setdefault(found, found)


def _is_own(peer: Peer, admission: Admission) -> bool:
    """Whether somebody who claims the id of a peer is that peer's user."""
    return admission.user is not None and peer.subject == admission.user
