"""What one operation gives to whom, in order: the only way in which peers are told anything."""

from __future__ import annotations

from collections import deque

import attrs

from triocast.errors import CloseCode
from triocast.signaling.budget import Budget
from triocast.signaling.errors import MessageExpired, QueueFull, SignalingError
from triocast.signaling.mailbox import Mailbox, Sender
from triocast.signaling.messages import RequestId
from triocast.signaling.notices import PeerState, Told, encode, error_message
from triocast.signaling.peers import Peer


@attrs.frozen
class Deliver:
    """Send this text (UTF-8) on this connection, behind what it was given before."""

    connection: str
    data: bytes


@attrs.frozen
class Close:
    """Close this connection once it has what it was given before; `Rooms` knows it no more."""

    connection: str
    code: CloseCode
    reason: str


Effect = Deliver | Close


class Delivery:
    """Collects the effects of one operation at the time ``now``, within the budget."""

    def __init__(self, now: float, budget: Budget[Mailbox]) -> None:
        self.now = now
        self._budget = budget
        self.effects: list[Effect] = []
        self._undeliverable: deque[tuple[Peer, Sender, SignalingError]] = deque()
        self._is_telling = False

    def answer(self, connection: str, message: Told) -> None:
        """Send what is of no use on any other connection, so that it is not kept."""
        self.effects.append(Deliver(connection, encode(message)))

    def refuse(
        self,
        connection: str,
        error: SignalingError,
        *,
        re: RequestId,
        code: CloseCode | None = None,
    ) -> None:
        """Answer with an error; with a code, close the connection after it."""
        self.answer(connection, error_message(error, re=re))
        if code is not None:
            self.close(connection, code, error.code)

    def close(self, connection: str, code: CloseCode, reason: str) -> None:
        self.effects.append(Close(connection, code, reason))

    def again(self, connection: str, messages: list[bytes]) -> None:
        """Send kept messages to a peer that is back."""
        self.effects.extend(Deliver(connection, data) for data in messages)

    def tell(self, peer: Peer, message: Told) -> None:
        """Tell a peer something that it must not miss, now or when it is back.

        Where there is no room for it the peer is told of a gap instead when it is back.
        """
        if not self._send(peer, message, None):
            self._abandon(peer, QueueFull(f"too much waits for the peer {peer.id}"))

    def relay(self, target: Peer, message: Told, sender: Sender) -> None:
        """Pass a peer's message on, or tell its sender that it cannot wait."""
        if not self._send(target, message, sender):
            error = QueueFull(f"too much waits for the peer {target.id}")
            self._undelivered(target, sender, error)

    def expire(self, peer: Peer) -> None:
        """Drop what waits for a suspended peer if some of it has waited too long."""
        deadline = peer.mailbox.expires_at()
        if deadline is not None and deadline <= self.now:
            self._abandon(peer, MessageExpired(f"the peer {peer.id} stayed away for too long"))

    def tell_suspended(self, peer: Peer, to: Peer) -> None:
        """Tell one peer that another is suspended, once."""
        if to.id not in peer.told_suspended:
            peer.told_suspended.add(to.id)
            self.tell(to, PeerState(peer=peer.id, state="suspended"))

    def _send(self, peer: Peer, message: Told, sender: Sender | None) -> bool:
        message.seq = peer.mailbox.seq + 1
        data = encode(message)
        if peer.connection is None:
            is_kept = peer.mailbox.queue(data, now=self.now, sender=sender)
        else:
            is_kept = True
            peer.mailbox.keep(data, now=self.now, sender=sender)
            self.effects.append(Deliver(peer.connection, data))
        while (mailbox := self._budget.heaviest()) is not None:
            self._lighten(mailbox)
        return is_kept

    def _lighten(self, mailbox: Mailbox) -> None:
        """Take something out: what a connection has carried, or else all that waits."""
        if not mailbox.drop_sent():
            assert mailbox.owner is not None
            error = QueueFull("too much waits for all peers together, and most for this one")
            self._abandon(mailbox.owner, error)

    def _abandon(self, peer: Peer, error: SignalingError) -> None:
        self._undeliverable.extend((peer, sender, error) for sender in peer.mailbox.abandon())
        if self._is_telling:
            return
        # Telling a sender may abandon what waits for that one, if it is suspended too. Each
        # mailbox breaks once, so this ends.
        self._is_telling = True
        while self._undeliverable:
            self._undelivered(*self._undeliverable.popleft())
        self._is_telling = False

    def _undelivered(self, target: Peer, sender: Sender, error: SignalingError) -> None:
        peer = target.room.peers.get(sender.peer)
        if peer is None or peer is target:
            return
        self.tell_suspended(target, peer)
        told = error_message(error, re=sender.re, to=target.id, session=sender.session)
        self.tell(peer, told)
