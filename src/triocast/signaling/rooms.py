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
    3. Carry out the effects in their order, and before anything is waited for: put each text into
       the outbox of its connection. A connection whose outbox is full is closed and
       reported as lost, as any other. `Close` comes after what is in the outbox.
    4. When the WebSocket has ended, for whatever reason: ``rooms.lost(connection, now)``. It does
       nothing if the peer left or was replaced.
    5. Send a ``ping`` each ``heartbeat_seconds`` (`Rooms.received` goes along) and close the
       connection if nothing came for ``heartbeat_timeout``. Reading no faster than ``rate`` is
       better than refusing: what was refused has to be made up for.

    One task asks ``rooms.due_in_turns(now)`` about once a second, and carries out its effects.
    When a grant ends: ``rooms.end(connection, CloseCode.UNAUTHORIZED, "grant_ended", now)``.
    REST uses `kick`, `ban`, `lock`, `close_room`, `rooms` and `view`; they raise SignalingError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from triocast.errors import CloseCode
from triocast.signaling.bans import Bans
from triocast.signaling.budget import Budget
from triocast.signaling.delivery import Close, Deliver, Delivery, Effect
from triocast.signaling.errors import (
    Kicked,
    NotJoined,
    PeerNotFound,
    RoomClosed,
    SignalingError,
    TurnUnavailable,
)
from triocast.signaling.ice import IceServers
from triocast.signaling.joining import Door, IceServersOf
from triocast.signaling.limits import Admission, Fresh, Limits
from triocast.signaling.mailbox import Mailbox
from triocast.signaling.messages import (
    Data,
    GetIceServers,
    Join,
    Leave,
    Pong,
    Request,
    RequestId,
)
from triocast.signaling.notices import (
    IceServersMessage,
    optional,
)
from triocast.signaling.peers import Peer, PeerView, view
from triocast.signaling.registry import Registry
from triocast.signaling.relaying import relay_data, relay_signal

__all__ = ["Admission", "Close", "Deliver", "Effect", "Fresh", "Limits", "Rooms"]

PEERS_IN_A_TURN: Final = 16
"""Of so many peers' coming to an end others are told before anything else gets its turn."""


def _no_ice_servers(peer: str, seconds: float | None) -> IceServers:
    return IceServers()


def _kicked() -> Kicked:
    return Kicked("you were removed from the room")


class Rooms:
    """All rooms of a process.

    ``ice_servers`` returns what a peer of this id is told to use now, whose grant holds for so many
    seconds (None: for ever), or raises TurnUnavailable.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        ice_servers: IceServersOf = _no_ice_servers,
    ) -> None:
        self.limits = Limits() if limits is None else limits
        self._ice_servers = ice_servers
        self._registry = Registry()
        self._bans = Bans(self.limits.bans)
        self._budget: Budget[Mailbox] = Budget(self.limits.kept_bytes)
        self._door = Door(self.limits, self._registry, self._bans, self._budget, ice_servers)

    # What connections do.

    def join(
        self, connection: str, message: Join, admission: Admission, fresh: Fresh, now: float
    ) -> list[Effect]:
        """Let a connection into a room, as a new peer or as the one that its token names."""
        delivery = Delivery(now, self._budget)
        try:
            self._door.let_in(connection, message, admission, fresh, delivery)
        except SignalingError as error:
            delivery.refuse(connection, error, re=message.id)
        return delivery.effects

    def handle(self, connection: str, message: Request, now: float) -> list[Effect]:
        """Carry out what a connection says after its join."""
        delivery = Delivery(now, self._budget)
        peer = self._registry.connections.get(connection)
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
        delivery = Delivery(now, self._budget)
        peer = self._registry.suspend(connection, now)
        if peer is not None:
            self._review(peer, delivery)
        return delivery.effects

    def end(self, connection: str, code: CloseCode, reason: str, now: float) -> list[Effect]:
        """Let a connection's peer leave at once, without grace, and close the connection."""
        delivery = Delivery(now, self._budget)
        peer = self._registry.connections.get(connection)
        if peer is not None:
            self._end(peer, delivery, code, reason)
        return delivery.effects

    def received(self, connection: str) -> int | None:
        """Return the last number of the peer that came through, for `notices.Ping`."""
        peer = self._registry.connections.get(connection)
        return None if peer is None else peer.received

    # What time does.

    def due(self, now: float) -> list[Effect]:
        """Do what is due: the ends of grace periods, of what waits, of bans."""
        return [effect for effects in self.due_in_turns(now) for effect in effects]

    def due_in_turns(self, now: float) -> Iterator[list[Effect]]:
        """Do what is due a few peers at a time; anything else may come in between.

        When a network breaks there is much to tell, and others should not wait for all of it.
        """
        self._bans.forget_old(now)
        delivery, done = Delivery(now, self._budget), 0
        for peer in list(self._registry.suspended):
            if peer in self._registry.suspended:
                done += self._review(peer, delivery)
            if done >= PEERS_IN_A_TURN:
                yield delivery.effects
                delivery, done = Delivery(now, self._budget), 0
        yield delivery.effects

    # What administrators do.

    @property
    def rooms(self) -> list[str]:
        """The names of the rooms there are."""
        return list(self._registry.rooms)

    @property
    def peer_count(self) -> int:
        """How many peers there are, suspended ones among them."""
        return len(self._registry.tokens)

    @property
    def kept_bytes(self) -> int:
        """What is kept for the return of all peers, as `Limits.kept_bytes` counts."""
        return self._budget.used

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is remembered."""
        return self._registry.is_empty and not len(self._bans) and not self._budget.used

    def view(self, room: str) -> list[PeerView]:
        """Return the peers of a room, in the order of their joins. Raises RoomNotFound."""
        return [view(peer) for peer in self._registry.find_room(room).peers.values()]

    def lock(self, room: str, is_locked: bool = True) -> None:
        """Keep newcomers out, or let them in again. Raises RoomNotFound."""
        self._registry.find_room(room).is_locked = is_locked

    def kick(self, room: str, peer: str, now: float, *, ban_seconds: float = 0) -> list[Effect]:
        """Remove a peer, and keep its subject out for a while.

        Raises RoomNotFound, PeerNotFound.
        """
        found = self._registry.find_room(room).peers.get(peer)
        if found is None:
            raise PeerNotFound(f"there is no peer {peer} in this room")
        if ban_seconds > 0 and found.subject is not None:
            return self.ban(room, found.subject, now, seconds=ban_seconds)
        delivery = Delivery(now, self._budget)
        self._registry.expel(found, _kicked(), delivery)
        return delivery.effects

    def ban(self, room: str, subject: str, now: float, *, seconds: float) -> list[Effect]:
        """Keep a subject out of a room, whether it exists or not, and remove its peers."""
        delivery = Delivery(now, self._budget)
        self._bans.add(room, subject, until=now + seconds, now=now)
        found = self._registry.rooms.get(room)
        for peer in [] if found is None else list(found.peers.values()):
            if peer.subject == subject:
                self._registry.expel(peer, _kicked(), delivery)
        return delivery.effects

    def unban(self, room: str, subject: str) -> None:
        """Let a subject in again."""
        self._bans.remove(room, subject)

    def close_room(self, room: str, now: float) -> list[Effect]:
        """End a room for everybody who is in it. Raises RoomNotFound."""
        delivery = Delivery(now, self._budget)
        for peer in list(self._registry.find_room(room).peers.values()):
            connection = peer.connection
            self._registry.forget(peer)
            if connection is not None:
                error = RoomClosed("the room was closed")
                delivery.refuse(connection, error, re=None, code=CloseCode.ROOM_CLOSED)
        del self._registry.rooms[room]
        return delivery.effects

    # What these have in common.

    def _tell_ice_servers(
        self, connection: str, peer: Peer, re: RequestId, delivery: Delivery
    ) -> None:
        try:
            ice = self._ice_servers(peer.id, peer.grant_seconds(delivery.now))
        except TurnUnavailable as error:
            delivery.refuse(connection, error, re=re)
            return
        delivery.answer(
            connection,
            IceServersMessage(re=optional(re), ice_servers=ice.servers, ice_servers_ttl=ice.ttl),
        )

    def _review(self, peer: Peer, delivery: Delivery) -> bool:
        """Do what is due for a suspended peer; return whether all of its room is told of it."""
        if delivery.now >= peer.suspended_at + self.limits.grace_seconds:
            self._registry.remove(peer, "timeout", delivery)
            return True
        delivery.expire(peer)
        is_blip = delivery.now < peer.suspended_at + self.limits.blip_seconds
        if is_blip or peer.all_told_suspended:
            return False
        # Whoever joins from now on is told by the list.
        peer.all_told_suspended = True
        for other in peer.others():
            delivery.tell_suspended(peer, other)
        return True

    def _end(self, peer: Peer, delivery: Delivery, code: CloseCode, reason: str) -> None:
        connection = peer.connection
        self._registry.remove(peer, "left", delivery)
        if connection is not None:
            delivery.close(connection, code, reason)
