"""Peers and their room, as the server remembers them."""

import json

from triocast.signaling.budget import Budget
from triocast.signaling.delivery import Close, Delivery
from triocast.signaling.mailbox import Mailbox
from triocast.signaling.messages import CAPABILITIES
from triocast.signaling.peers import Peer, Room, digest
from triocast.signaling.registry import Registry


def make_peer(room, id, budget, *, queue_messages=8, **fields):
    """A connected peer whose connection and subject have its id, too."""
    mailbox = Mailbox(budget, most=queue_messages, most_bytes=4_000, seconds=20)
    defaults = {
        "connection": id,
        "subject": id,
        "role": "peer",
        "may_send_data": True,
        "capabilities": CAPABILITIES,
        "metadata": b"",
        "token_digest": digest(f"token of {id}"),
    }
    return Peer(id=id, room=room, mailbox=mailbox, **(defaults | fields))


class Seated:
    """Peers in one room, joined in the order of their names."""

    def __init__(self, *names, kept_bytes=100_000, **fields):
        self.budget = Budget(kept_bytes)
        self.registry = Registry()
        self.room = self.registry.rooms.setdefault("r", Room("r"))
        self.fields = fields
        for name in names:
            self.add(name)

    def __getitem__(self, name):
        return self.room.peers[name]

    def add(self, name, **fields):
        peer = make_peer(self.room, name, self.budget, **(self.fields | fields))
        self.registry.add(peer)
        return peer

    def suspend(self, name, now=0.0):
        return self.registry.suspend(self[name].connection, now)

    def delivery(self, now=0.0):
        return Delivery(now, self.budget)


def told(delivery):
    """What each connection is told, in order: its messages, and closes as (code, reason)."""
    return [
        (effect.connection, (effect.code, effect.reason))
        if isinstance(effect, Close)
        else (effect.connection, json.loads(effect.data))
        for effect in delivery.effects
    ]
