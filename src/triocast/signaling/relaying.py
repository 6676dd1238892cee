"""Passing on what one peer says to another, if it is its turn."""

from __future__ import annotations

from triocast.signaling.delivery import Delivery
from triocast.signaling.errors import (
    JoinForbidden,
    NotInitiator,
    PeerNotFound,
    PeerUnreachable,
    SignalingError,
    StaleSession,
)
from triocast.signaling.mailbox import Sender
from triocast.signaling.messages import Answer, Data, Offer, Signal
from triocast.signaling.notices import DataFrom, error_message, relayed
from triocast.signaling.pairing import Pair
from triocast.signaling.peers import Peer

TAKES_DATA = "data-relay"


def relay_signal(peer: Peer, message: Signal, delivery: Delivery) -> None:
    """Pass on a message of a pair's negotiation, or tell its sender why not."""
    if _is_known(peer, message.seq):
        return
    try:
        target = _target(peer, message.to)
        pair = peer.pairs[target.id]
        _check_turn(peer, pair, message)
    except SignalingError as error:
        told = error_message(error, re=message.id, to=message.to, session=message.session)
        delivery.tell(peer, told)
        return
    # Noted even if it cannot wait for a suspended peer: the sender's side is in that state.
    if isinstance(message, Offer):
        pair.note_offer(message.session)
    elif isinstance(message, Answer):
        pair.note_answer(peer.id)
    sender = Sender(peer.id, message.id, message.session)
    delivery.relay(target, relayed(message, peer.id), sender)


def relay_data(peer: Peer, message: Data, delivery: Delivery, *, is_on: bool) -> None:
    """Pass on data to one peer or to all that take it, or tell their sender why not."""
    if _is_known(peer, message.seq):
        return
    try:
        if not is_on or not peer.may_send_data:
            raise JoinForbidden("data are not passed on for you")
        targets = _data_targets(peer, message.to)
    except SignalingError as error:
        delivery.tell(peer, error_message(error, re=message.id, to=message.to))
        return
    for target in targets:
        relay = DataFrom(sender=peer.id, payload=message.payload)
        delivery.relay(target, relay, Sender(peer.id, message.id, None))


def _is_known(peer: Peer, seq: int | None) -> bool:
    """Whether this message came through before: a client repeats what it is not sure of."""
    if seq is None:
        return False
    if seq <= peer.received:
        return True
    peer.received = seq
    return False


def _target(peer: Peer, to: str) -> Peer:
    target = peer.room.peers.get(to)
    if target is None or target is peer:
        raise PeerNotFound(f"there is no other peer {to} in this room")
    return target


def _data_targets(peer: Peer, to: str | None) -> list[Peer]:
    if to is None:
        return [other for other in peer.others() if TAKES_DATA in other.capabilities]
    target = _target(peer, to)
    if TAKES_DATA not in target.capabilities:
        raise PeerUnreachable(f"the peer {to} does not take data from the server")
    return [target]


def _check_turn(peer: Peer, pair: Pair, message: Signal) -> None:
    is_offer = isinstance(message, Offer)
    if not pair.accepts_session(peer.id, message.session, is_offer=is_offer):
        raise StaleSession(f"the session of this pair is {pair.session}")
    if is_offer and not pair.may_offer(peer.id):
        raise NotInitiator("it is the other peer that offers; ask it with 'renegotiate'")
