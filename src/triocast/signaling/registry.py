"""Who is where: rooms, their peers, the peers' connections and tokens, kept in agreement."""

from __future__ import annotations

from triocast.errors import CloseCode
from triocast.signaling.delivery import Delivery
from triocast.signaling.errors import Kicked, Replaced, RoomNotFound
from triocast.signaling.notices import PeerLeft, PeerLeftReason
from triocast.signaling.pairing import next_session, pair_up
from triocast.signaling.peers import Peer, Room


class Registry:
    """``suspended`` are the peers without a connection, the one that is it for longest first."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.connections: dict[str, Peer] = {}
        self.tokens: dict[bytes, Peer] = {}
        self.suspended: dict[Peer, None] = {}
        self._last_session = 0

    @property
    def is_empty(self) -> bool:
        return not any((self.rooms, self.connections, self.tokens, self.suspended))

    def find_room(self, name: str) -> Room:
        """Return a room. Raises RoomNotFound."""
        room = self.rooms.get(name)
        if room is None:
            raise RoomNotFound("there is no such room")
        return room

    def add(self, peer: Peer) -> None:
        """Take a connected peer into its room, as the newcomer to everybody who is there."""
        room = peer.room
        for other in room.peers.values():
            self._last_session = next_session(self._last_session)
            pair = pair_up(
                other.id,
                other.capabilities,
                peer.id,
                peer.capabilities,
                session=self._last_session,
            )
            peer.pairs[other.id] = other.pairs[peer.id] = pair
        room.peers[peer.id] = peer
        self.tokens[peer.token_digest] = peer
        peer.mailbox.owner = peer
        assert peer.connection is not None
        self.connections[peer.connection] = peer

    def suspend(self, connection: str, now: float) -> Peer | None:
        """Note that a connection has ended; return its peer, if it had one."""
        peer = self.connections.pop(connection, None)
        if peer is not None:
            peer.connection = None
            peer.suspended_at = now
            self.suspended[peer] = None
        return peer

    def reconnect(self, peer: Peer, connection: str, delivery: Delivery) -> None:
        """Give a peer a new connection, and close the one that it may have still."""
        if peer.connection is not None:
            del self.connections[peer.connection]
            error = Replaced("the peer came back on another connection")
            delivery.refuse(peer.connection, error, re=None, code=CloseCode.REPLACED)
        peer.connection = connection
        self.connections[connection] = peer
        self.suspended.pop(peer, None)

    def remove(
        self, peer: Peer, reason: PeerLeftReason, delivery: Delivery, *, keep_room: bool = False
    ) -> None:
        """Forget a peer that has left for good, tell the others, and forget an empty room."""
        self.forget(peer)
        room = peer.room
        del room.peers[peer.id]
        if not room.peers and not keep_room:
            del self.rooms[room.name]
        others = list(room.peers.values())
        for other in others:
            pair = other.pairs.pop(peer.id)
            self._last_session = max(self._last_session, pair.session)
            other.told_suspended.discard(peer.id)
        # Only now that nothing leads to it any more: telling may tell further.
        for other in others:
            delivery.tell(other, PeerLeft(peer=peer.id, reason=reason))

    def expel(
        self,
        peer: Peer,
        error: Kicked | Replaced,
        delivery: Delivery,
        *,
        keep_room: bool = False,
    ) -> None:
        """Remove a peer against its will, and close its connection with the reason."""
        connection = peer.connection
        is_kick = isinstance(error, Kicked)
        self.remove(peer, "kicked" if is_kick else "replaced", delivery, keep_room=keep_room)
        if connection is not None:
            code = CloseCode.KICKED if is_kick else CloseCode.REPLACED
            delivery.refuse(connection, error, re=None, code=code)

    def forget(self, peer: Peer) -> None:
        """Let nothing lead to a peer but its room, and drop what is kept for it."""
        peer.mailbox.close()
        del self.tokens[peer.token_digest]
        self.suspended.pop(peer, None)
        if peer.connection is not None:
            del self.connections[peer.connection]
