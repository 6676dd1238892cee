"""The state of all rooms, and what each happening does to it.

Every operation takes the time and returns effects, in order: `Deliver` (send this text on this
connection) and `Close`. Nothing here waits, so one task after the other may call it, and must
not be interrupted in between.

How an endpoint drives it
    One `Rooms` serves a process. ``now`` is any clock that does not go back, in seconds, the same
    for all calls. A connection is known by a text of the endpoint's choice that is never used
    again.

    For each WebSocket (subprotocol `messages.SUBPROTOCOL`), in a nursery of its own:

    1. For each text frame: ``message = parse(text, limits.sizes)``. On MessageError send
       ``encode(refusal(error))``.
    2. A `Join`: check its token and the grant; then ``rooms.join(connection, message, admission,
       Fresh(…), now)``. Whoever has not joined after a while is let go. Everything else:
       ``rooms.handle(connection, message, now)``.
    3. Carry out the effects before anything else is asked of the rooms: put each text into the
       outbox of its connection, without waiting. A connection whose outbox is full is closed and
       reported as lost, as any other. `Close` comes after what is in the outbox.
    4. When the WebSocket has ended, for whatever reason: ``rooms.lost(connection, now)``. It does
       nothing if the peer left or was replaced.
    5. Send a ``ping`` each ``heartbeat_seconds`` (`Rooms.received` goes along) and close the
       connection if nothing came for ``heartbeat_timeout``. Reading no faster than ``rate`` is
       better than refusing: what was refused has to be made up for.

    One task calls ``rooms.due(now)`` about once a second, and carries out its effects.
    When a grant ends: ``rooms.end(connection, CloseCode.UNAUTHORIZED, "grant_ended", now)``.
    REST uses `kick`, `ban`, `lock`, `close_room`, `rooms` and `view`; they raise SignalingError.
"""

from __future__ import annotations

from collections.abc import Callable

from triocast.errors import CloseCode
from triocast.signaling.bans import Bans
from triocast.signaling.delivery import Close, Deliver, Delivery, Effect
from triocast.signaling.errors import (
    AlreadyJoined,
    JoinForbidden,
    Kicked,
    NotJoined,
    PeerIdTaken,
    PeerNotFound,
    Replaced,
    ResumeFailed,
    RoomClosed,
    RoomFull,
    RoomLocked,
    RoomNotFound,
    SignalingError,
    TurnUnavailable,
    UnsupportedVersion,
)
from triocast.signaling.ice import IceServers
from triocast.signaling.limits import Admission, Fresh, Limits
from triocast.signaling.mailbox import Mailbox
from triocast.signaling.messages import (
    CAPABILITIES,
    VERSION,
    Data,
    GetIceServers,
    Join,
    Leave,
    Pong,
    Request,
    RequestId,
)
from triocast.signaling.notices import (
    Heartbeat,
    IceServersMessage,
    Joined,
    LimitsTold,
    PeerLeft,
    PeerLeftReason,
    PeerState,
    ResumeTold,
    optional,
)
from triocast.signaling.pairing import next_session, pair_up
from triocast.signaling.peers import Peer, PeerView, Room, announce, digest, introduce, view
from triocast.signaling.relaying import relay_data, relay_signal

__all__ = ["Admission", "Close", "Deliver", "Effect", "Fresh", "Limits", "Rooms"]


def _no_ice_servers(peer: str) -> IceServers:
    return IceServers()


class Rooms:
    """All rooms of a process.

    ``ice_servers`` returns what a peer of this id is told to use now, or raises TurnUnavailable.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        ice_servers: Callable[[str], IceServers] = _no_ice_servers,
    ) -> None:
        self.limits = Limits() if limits is None else limits
        self._ice_servers = ice_servers
        self._rooms: dict[str, Room] = {}
        self._connections: dict[str, Peer] = {}
        self._tokens: dict[bytes, Peer] = {}
        self._suspended: dict[Peer, None] = {}
        self._bans = Bans(self.limits.bans)
        self._last_session = 0

    # What connections do.

    def join(
        self, connection: str, message: Join, admission: Admission, fresh: Fresh, now: float
    ) -> list[Effect]:
        """Let a connection into a room, as a new peer or as the one that its token names."""
        delivery = Delivery(now)
        try:
            if message.version != VERSION:
                raise UnsupportedVersion(f"this server speaks version {VERSION}")
            if connection in self._connections:
                raise AlreadyJoined("this connection has joined a room already")
            self._check_ban(message.room, admission.subject, now)
            if message.resume is None:
                self._enter(connection, message, admission, fresh, delivery)
            else:
                self._resume(connection, message, admission, delivery)
        except SignalingError as error:
            delivery.refuse(connection, error, re=message.id)
        return delivery.effects

    def handle(self, connection: str, message: Request, now: float) -> list[Effect]:
        """Carry out what a connection says after its join."""
        delivery = Delivery(now)
        peer = self._connections.get(connection)
        if peer is None or isinstance(message, Join):
            delivery.refuse(
                connection, NotJoined("join a room first, with a 'join'"), re=message.id
            )
        elif isinstance(message, Pong):
            peer.mailbox.acknowledge(message.seq or 0)
        elif isinstance(message, Leave):
            self._end(peer, delivery, CloseCode.NORMAL, "left")
        elif isinstance(message, GetIceServers):
            self._tell_ice_servers(connection, peer, message.id, delivery)
        elif isinstance(message, Data):
            relay_data(peer, message, delivery, is_on=self.limits.relay_data)
        else:
            relay_signal(peer, message, delivery)
        return delivery.effects

    def lost(self, connection: str, now: float) -> list[Effect]:
        """Note that a connection has ended: its peer has the grace period to come back."""
        delivery = Delivery(now)
        peer = self._connections.pop(connection, None)
        if peer is not None:
            peer.connection = None
            peer.suspended_at = now
            self._suspended[peer] = None
            self._review(peer, delivery)
        return delivery.effects

    def end(self, connection: str, code: CloseCode, reason: str, now: float) -> list[Effect]:
        """Let a connection's peer leave at once, without grace, and close the connection."""
        delivery = Delivery(now)
        peer = self._connections.get(connection)
        if peer is not None:
            self._end(peer, delivery, code, reason)
        return delivery.effects

    def received(self, connection: str) -> int | None:
        """Return the last number of the peer that came through, for `notices.Ping`."""
        peer = self._connections.get(connection)
        return None if peer is None else peer.received

    # What time does.

    def due(self, now: float) -> list[Effect]:
        """Do what is due: the ends of grace periods, of what waits, of bans."""
        delivery = Delivery(now)
        for peer in list(self._suspended):
            if peer in self._suspended:
                self._review(peer, delivery)
        self._bans.forget_old(now)
        return delivery.effects

    # What administrators do.

    @property
    def rooms(self) -> list[str]:
        """The names of the rooms there are."""
        return list(self._rooms)

    @property
    def peer_count(self) -> int:
        """How many peers there are, suspended ones among them."""
        return len(self._tokens)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is remembered."""
        parts = (self._rooms, self._connections, self._tokens, self._suspended)
        return not any(parts) and not len(self._bans)

    def view(self, room: str) -> list[PeerView]:
        """Return the peers of a room, in the order of their joins. Raises RoomNotFound."""
        return [view(peer) for peer in self._find_room(room).peers.values()]

    def lock(self, room: str, is_locked: bool = True) -> None:
        """Keep newcomers out, or let them in again. Raises RoomNotFound."""
        self._find_room(room).is_locked = is_locked

    def kick(self, room: str, peer: str, now: float, *, ban_seconds: float = 0) -> list[Effect]:
        """Remove a peer, and keep its subject out for a while.

        Raises RoomNotFound, PeerNotFound.
        """
        found = self._find_room(room).peers.get(peer)
        if found is None:
            raise PeerNotFound(f"there is no peer {peer} in this room")
        if ban_seconds > 0 and found.subject is not None:
            return self.ban(room, found.subject, now, seconds=ban_seconds)
        delivery = Delivery(now)
        self._expel(found, delivery, Kicked("you were removed from the room"))
        return delivery.effects

    def ban(self, room: str, subject: str, now: float, *, seconds: float) -> list[Effect]:
        """Keep a subject out of a room, whether it exists or not, and remove its peers."""
        delivery = Delivery(now)
        self._bans.add(room, subject, until=now + seconds, now=now)
        found = self._rooms.get(room)
        for peer in [] if found is None else list(found.peers.values()):
            if peer.subject == subject:
                self._expel(peer, delivery, Kicked("you were removed from the room"))
        return delivery.effects

    def unban(self, room: str, subject: str) -> None:
        """Let a subject in again."""
        self._bans.remove(room, subject)

    def close_room(self, room: str, now: float) -> list[Effect]:
        """End a room for everybody who is in it. Raises RoomNotFound."""
        delivery = Delivery(now)
        for peer in list(self._find_room(room).peers.values()):
            connection = peer.connection
            self._forget(peer)
            if connection is not None:
                error = RoomClosed("the room was closed")
                delivery.refuse(connection, error, re=None, code=CloseCode.ROOM_CLOSED)
        del self._rooms[room]
        return delivery.effects

    def shut_down(self, now: float) -> list[Effect]:
        """End all rooms because the server stops; clients should come back."""
        delivery = Delivery(now)
        for connection in self._connections:
            delivery.close(connection, CloseCode.SERVICE_RESTART, "server-shutdown")
        for memory in (self._rooms, self._connections, self._tokens, self._suspended):
            memory.clear()
        return delivery.effects

    # Coming and going.

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
        room = self._rooms.get(message.room)
        before = None if room is None else room.peers.get(peer_id)
        if before is not None:
            if admission.subject is None or before.subject != admission.subject:
                raise PeerIdTaken(f"there is a peer {peer_id} in this room")
            assert room is not None
            self._expel(before, delivery, Replaced("the peer joined anew"), keep_room=True)
        else:
            room = self._room_for_one_more(message.room, admission)
        peer = self._admit(peer_id, room, connection, message, admission, fresh)
        self._tell_joined(connection, peer, message.id, fresh.token, delivery)
        for other in peer.others():
            delivery.tell(other, announce(peer, other))

    def _room_for_one_more(self, name: str, admission: Admission) -> Room:
        room = self._rooms.get(name)
        if room is not None and room.is_locked:
            raise RoomLocked("the room is locked")
        if len(self._tokens) >= self.limits.peers:
            raise RoomFull("the server has as many peers as it takes", wait=5)
        if room is not None:
            if len(room.peers) >= self.limits.peers_per_room:
                raise RoomFull(f"a room has at most {self.limits.peers_per_room} peers", wait=5)
            return room
        if not admission.may_create:
            raise RoomNotFound("there is no such room")
        if len(self._rooms) >= self.limits.rooms:
            raise RoomFull("the server has as many rooms as it takes", wait=5)
        room = self._rooms[name] = Room(name)
        return room

    def _admit(
        self,
        peer_id: str,
        room: Room,
        connection: str,
        message: Join,
        admission: Admission,
        fresh: Fresh,
    ) -> Peer:
        peer = Peer(
            id=peer_id,
            room=room,
            connection=connection,
            subject=admission.subject,
            role=admission.role,
            may_send_data=admission.may_send_data,
            capabilities=CAPABILITIES.intersection(message.capabilities),
            metadata=message.metadata_text,
            token_digest=digest(fresh.token),
            mailbox=Mailbox(
                most=self.limits.queue_messages,
                most_bytes=self.limits.queue_bytes,
                seconds=self.limits.queue_seconds,
            ),
        )
        for other in room.peers.values():
            self._last_session = next_session(self._last_session)
            pair = pair_up(
                other.id, other.capabilities, peer_id, peer.capabilities, session=self._last_session
            )
            peer.pairs[other.id] = other.pairs[peer_id] = pair
        room.peers[peer_id] = peer
        self._connections[connection] = peer
        self._tokens[peer.token_digest] = peer
        return peer

    def _resume(
        self, connection: str, message: Join, admission: Admission, delivery: Delivery
    ) -> None:
        assert message.resume is not None
        peer = self._tokens.get(digest(message.resume.token))
        if peer is None or peer.room.name != message.room or peer.subject != admission.subject:
            raise ResumeFailed("no peer of this room waits for this token; join without it")
        if peer.connection is not None:
            self._connections.pop(peer.connection)
            error = Replaced("the peer came back on another connection")
            delivery.refuse(peer.connection, error, re=None, code=CloseCode.REPLACED)
        peer.connection = connection
        self._connections[connection] = peer
        self._suspended.pop(peer, None)
        last_seq = message.resume.last_seq
        missed = peer.mailbox.after(last_seq, now=delivery.now)
        if missed is None:
            peer.mailbox.reset()
            last_seq = peer.mailbox.seq
        self._tell_joined(
            connection,
            peer,
            message.id,
            message.resume.token,
            delivery,
            resumed=True,
            gap=missed is None,
            seq=last_seq,
        )
        delivery.again(connection, missed or [])
        for other in peer.others():
            if other.id in peer.told_suspended:
                delivery.tell(other, PeerState(peer=peer.id, state="connected"))
        peer.told_suspended.clear()

    def _tell_joined(
        self,
        connection: str,
        peer: Peer,
        re: RequestId,
        token: str,
        delivery: Delivery,
        *,
        resumed: bool = False,
        gap: bool = False,
        seq: int = 0,
    ) -> None:
        trouble: TurnUnavailable | None = None
        try:
            ice = self._ice_servers(peer.id)
        except TurnUnavailable as error:
            ice, trouble = IceServers(), error
        limits = self.limits
        joined = Joined(
            re=optional(re),
            room=peer.room.name,
            peer=peer.id,
            role=peer.role,
            ice_servers=ice.servers,
            ice_servers_ttl=ice.ttl,
            heartbeat=Heartbeat(limits.heartbeat_seconds, limits.heartbeat_timeout),
            limits=LimitsTold(limits.sizes.message_bytes, limits.rate),
            resume=ResumeTold(token, limits.grace_seconds, resumed, gap, seq, peer.received),
        )
        # Whoever has a gap needs the state; to others what follows tells what has changed.
        if gap or not resumed:
            joined.peers = [introduce(other, peer) for other in peer.others()]
            for other in peer.others():
                if not other.is_connected:
                    other.told_suspended.add(peer.id)
        delivery.answer(connection, joined)
        if trouble is not None:
            delivery.refuse(connection, trouble, re=None)

    def _tell_ice_servers(
        self, connection: str, peer: Peer, re: RequestId, delivery: Delivery
    ) -> None:
        try:
            ice = self._ice_servers(peer.id)
        except TurnUnavailable as error:
            delivery.refuse(connection, error, re=re)
            return
        delivery.answer(
            connection,
            IceServersMessage(re=optional(re), ice_servers=ice.servers, ice_servers_ttl=ice.ttl),
        )

    def _review(self, peer: Peer, delivery: Delivery) -> None:
        """Do what is due for a suspended peer."""
        if delivery.now >= peer.suspended_at + self.limits.grace_seconds:
            self._remove(peer, "timeout", delivery)
            return
        delivery.expire(peer)
        if delivery.now >= peer.suspended_at + self.limits.blip_seconds:
            for other in peer.others():
                delivery.tell_suspended(peer, other)

    def _end(self, peer: Peer, delivery: Delivery, code: CloseCode, reason: str) -> None:
        connection = peer.connection
        self._remove(peer, "left", delivery)
        if connection is not None:
            delivery.close(connection, code, reason)

    def _expel(
        self, peer: Peer, delivery: Delivery, error: Kicked | Replaced, keep_room: bool = False
    ) -> None:
        connection = peer.connection
        is_kick = isinstance(error, Kicked)
        self._remove(peer, "kicked" if is_kick else "replaced", delivery, keep_room=keep_room)
        if connection is not None:
            code = CloseCode.KICKED if is_kick else CloseCode.REPLACED
            delivery.refuse(connection, error, re=None, code=code)

    def _remove(
        self, peer: Peer, reason: PeerLeftReason, delivery: Delivery, keep_room: bool = False
    ) -> None:
        self._forget(peer)
        room = peer.room
        del room.peers[peer.id]
        if not room.peers and not keep_room:
            del self._rooms[room.name]
        others = list(room.peers.values())
        for other in others:
            pair = other.pairs.pop(peer.id)
            self._last_session = max(self._last_session, pair.session)
            other.told_suspended.discard(peer.id)
        for other in others:
            delivery.tell(other, PeerLeft(peer=peer.id, reason=reason))

    def _forget(self, peer: Peer) -> None:
        del self._tokens[peer.token_digest]
        self._suspended.pop(peer, None)
        if peer.connection is not None:
            del self._connections[peer.connection]

    def _find_room(self, name: str) -> Room:
        room = self._rooms.get(name)
        if room is None:
            raise RoomNotFound("there is no such room")
        return room

    def _check_ban(self, room: str, subject: str | None, now: float) -> None:
        until = None if subject is None else self._bans.until(room, subject, now=now)
        if until is not None:
            raise JoinForbidden("you were removed from this room for a while", wait=until - now)
