"""The PeerJS protocol, as its client from npm speaks it: who is there, and what waits for whom.

All peers share one space of ids. What one sends to another goes straight on; for somebody who is
not there it waits a moment, because both of a pair may be about to come, and then its sender is
told ``EXPIRE``. What waits is bounded for each receiver, each sender, and in all; what finds no
room counts as expired at once. At the bound for all, whoever has most waiting gives way (see
`budget`). `peerjs_messages` has the messages.

As in `rooms`, methods return effects to be carried out in order, and times are in seconds of any
clock that only grows.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterator
from operator import itemgetter
from typing import Final

import attrs

from triocast.errors import CloseCode
from triocast.signaling.budget import Budget
from triocast.signaling.delivery import Close, Deliver, Effect
from triocast.signaling.peerjs_messages import (
    ID_TAKEN,
    OPEN,
    Heartbeat,
    Refused,
    Relayed,
    Request,
    expire,
)

ENTRY_BYTES: Final = 512
"""What a waiting message costs besides its text, about."""

EXPIRING_IN_A_TURN: Final = 256
"""So many pairs expire before anything else gets its turn."""

_MAC_CHARACTERS: Final = 24


@attrs.frozen
class PeerLimits:
    """The bounds. Times are in seconds, bytes count `ENTRY_BYTES` for each message.

    ``wait_seconds`` is how long something waits for a peer that is not there, ``alive_seconds``
    how long a client may give no sign of itself.
    """

    message_bytes: int = 65_536
    wait_seconds: float = 5.0
    alive_seconds: float = 90.0
    receiver_messages: int = 256
    receiver_bytes: int = 524_288
    sender_bytes: int = 524_288
    total_bytes: int = 33_554_432


@attrs.frozen
class Owner:
    """Who holds an id: the ``secret`` that a client makes up and comes back with (or a digest
    of it), and its ``user`` where there is one.
    """

    id: str
    secret: str = attrs.field(repr=False)
    user: str | None = None


@attrs.define
class _Client:
    owner: Owner
    connection: str
    heard_at: float


@attrs.define
class _Pair:
    """What waits from one sender for one receiver. It is delivered as a whole or not at all."""

    sender: Owner
    receiver: str
    since: float
    messages: list[tuple[int, bytes]] = attrs.field(factory=list)
    bytes: int = 0


@attrs.define(eq=False)
class _Account:
    """What waits from one user, or one sender where nobody is known, the oldest first."""

    weight: int = 0
    # Ordered, as `Peers` has them.
    pairs: OrderedDict[tuple[str, Owner], _Pair] = attrs.field(factory=OrderedDict)


@attrs.define
class PeerStats:
    """Counts since the start."""

    relayed: int = 0
    expired: int = 0
    """Messages that nobody came for, or that found no room to wait."""
    refused: int = 0
    """Messages that could not be read."""


class Peers:
    """The clients of one process."""

    def __init__(self, limits: PeerLimits) -> None:
        self.limits = limits
        self.stats = PeerStats()
        self._by_id: dict[str, _Client] = {}
        self._by_connection: dict[str, _Client] = {}
        # In the order of their first messages, which is the order in which they expire. A plain
        # dict is slow to find its first after many were taken out.
        self._pairs: OrderedDict[tuple[str, Owner], _Pair] = OrderedDict()
        self._by_receiver: dict[str, dict[Owner, _Pair]] = {}
        self._bytes_of: Counter[Owner] = Counter()
        self._accounts: dict[Owner | str, _Account] = {}
        self._budget: Budget[_Account] = Budget(limits.total_bytes)
        self._numbers = itertools.count()

    @property
    def ids(self) -> list[str]:
        """Everybody who is there, in the order of their coming."""
        return list(self._by_id)

    @property
    def peer_count(self) -> int:
        return len(self._by_id)

    @property
    def waiting_bytes(self) -> int:
        return self._budget.used

    @property
    def waiting_messages(self) -> int:
        return sum(len(pair.messages) for pair in self._pairs.values())

    # Coming and going.

    def claim(self, connection: str, owner: Owner, now: float) -> list[Effect]:
        """Let a client in under its id, with what waits for it; or tell it that the id is taken.

        Its owner takes it over from a connection of its own that is still open.
        """
        effects: list[Effect] = []
        known = self._by_id.get(owner.id)
        if known is not None:
            if not _is_same(known.owner, owner):
                return [
                    Deliver(connection, ID_TAKEN),
                    Close(connection, CloseCode.POLICY, "the id is taken"),
                ]
            self._forget(known)
            effects.append(Close(known.connection, CloseCode.REPLACED, "came back"))
        client = _Client(owner, connection, now)
        self._by_id[owner.id] = self._by_connection[connection] = client
        effects.append(Deliver(connection, OPEN))
        effects.extend(self._expire(now))
        for pair in list(self._by_receiver.get(owner.id, {}).values()):
            if self._is_late(pair, now):
                effects.extend(self._give_up(pair))
        waiting = list(self._by_receiver.get(owner.id, {}).values())
        messages = [message for pair in waiting for message in pair.messages]
        for pair in waiting:
            self._remove(pair)
        self.stats.relayed += len(messages)
        effects.extend(Deliver(connection, data) for _, data in sorted(messages, key=itemgetter(0)))
        return effects

    def lost(self, connection: str) -> None:
        """Be told that a connection has ended. Nobody else is: its peers may well be connected."""
        client = self._by_connection.get(connection)
        if client is not None:
            self._forget(client)

    def heard(self, connection: str, now: float) -> None:
        """Be told of a sign of life."""
        client = self._by_connection.get(connection)
        if client is not None:
            client.heard_at = now

    # What clients send.

    def handle(self, connection: str, message: Request, now: float) -> list[Effect]:
        """Pass a message on, or let it wait."""
        client = self._by_connection.get(connection)
        if client is None:
            return []
        client.heard_at = now
        if isinstance(message, Heartbeat):
            return []
        data = message.relayed(client.owner.id)
        target = self._by_id.get(message.dst)
        if target is not None:
            self.stats.relayed += 1
            return [Deliver(target.connection, data)]
        if not message.waits:
            return []
        return [*self._expire(now), *self._queue(client.owner, message, data, now)]

    def refuse(self, connection: str, refused: Refused, now: float) -> list[Effect]:
        """Fail one message, and nothing else; its sender is told as if nobody had come for it.

        ``ERROR`` would be the end for all its calls: clients close the line when they read it.
        """
        client = self._by_connection.get(connection)
        if client is None:
            return []
        client.heard_at = now
        self.stats.refused += 1
        if refused.dst is None:
            return []
        return [Deliver(connection, expire(src=refused.dst, dst=client.owner.id))]

    def due(self, now: float) -> list[Effect]:
        """Do what time brings: what waited too long expires, and who is silent is dropped."""
        return [effect for effects in self.due_in_turns(now) for effect in effects]

    def due_in_turns(self, now: float) -> Iterator[list[Effect]]:
        """Do it a little at a time; anything else may come in between."""
        while self._has_late(now):
            yield self._expire(now)
        silent = [
            client
            for client in self._by_connection.values()
            if now - client.heard_at >= self.limits.alive_seconds
        ]
        for client in silent:
            self._forget(client)
        yield [Close(each.connection, CloseCode.PEER_LOST, "gave no sign") for each in silent]

    def _forget(self, client: _Client) -> None:
        del self._by_connection[client.connection]
        del self._by_id[client.owner.id]

    # What waits.

    def _queue(self, sender: Owner, message: Relayed, data: bytes, now: float) -> list[Effect]:
        size = len(data) + ENTRY_BYTES
        may_wait = self._may_wait(sender, size)
        effects = self._make_room(sender, message.dst, size) if may_wait else []
        pair = self._pairs.get((message.dst, sender))
        if not may_wait or self._is_full(message.dst, size):
            # The rest of a negotiation is of no use without this, so all of it is given up.
            self.stats.expired += 1
            if pair is not None:
                return [*effects, *self._give_up(pair)]
            return [*effects, *self._tell_expired(sender, message.dst)]
        if pair is None:
            pair = self._pairs[message.dst, sender] = _Pair(sender, message.dst, now)
            self._by_receiver.setdefault(message.dst, {})[sender] = pair
        pair.messages.append((next(self._numbers), data))
        self._add(pair, size)
        while (heaviest := self._budget.heaviest()) is not None:
            effects.extend(self._give_up(next(iter(heaviest.pairs.values()))))
        return effects

    def _make_room(self, sender: Owner, receiver: str, size: int) -> list[Effect]:
        """Have whoever sent most of what waits for a receiver give way to one who sent less.

        Else one user could keep what all others say from somebody who is about to come.
        """
        effects: list[Effect] = []
        while (pairs := self._by_receiver.get(receiver)) and self._is_full(receiver, size):
            sent: Counter[Owner | str] = Counter()
            for pair in pairs.values():
                sent[_payer(pair.sender)] += pair.bytes
            payer, most = max(sent.items(), key=itemgetter(1))
            if most <= sent[_payer(sender)] + size:
                break
            first = next(pair for pair in pairs.values() if _payer(pair.sender) == payer)
            effects.extend(self._give_up(first))
        return effects

    def _is_full(self, receiver: str, size: int) -> bool:
        pairs = self._by_receiver.get(receiver, {}).values()
        return (
            sum(pair.bytes for pair in pairs) + size > self.limits.receiver_bytes
            or sum(len(pair.messages) for pair in pairs) >= self.limits.receiver_messages
        )

    def _may_wait(self, sender: Owner, size: int) -> bool:
        account = self._accounts.get(_payer(sender), _Account())
        is_much = self._bytes_of[sender] + size > self.limits.sender_bytes
        return not is_much and self._budget.takes(account, size)

    def _is_late(self, pair: _Pair, now: float) -> bool:
        return now - pair.since >= self.limits.wait_seconds

    def _has_late(self, now: float) -> bool:
        return bool(self._pairs) and self._is_late(next(iter(self._pairs.values())), now)

    def _expire(self, now: float) -> list[Effect]:
        """Give up what waited too long, as much as one turn may take."""
        effects: list[Effect] = []
        for _ in range(EXPIRING_IN_A_TURN):
            if not self._has_late(now):
                break
            effects.extend(self._give_up(next(iter(self._pairs.values()))))
        return effects

    def _give_up(self, pair: _Pair) -> list[Effect]:
        self.stats.expired += len(pair.messages)
        self._remove(pair)
        return self._tell_expired(pair.sender, pair.receiver)

    def _tell_expired(self, sender: Owner, receiver: str) -> list[Effect]:
        client = self._by_id.get(sender.id)
        if client is None or client.owner != sender:
            return []  # It has gone, and whoever has its id now did not ask.
        return [Deliver(client.connection, expire(src=receiver, dst=sender.id))]

    def _remove(self, pair: _Pair) -> None:
        del self._pairs[pair.receiver, pair.sender]
        of_receiver = self._by_receiver[pair.receiver]
        del of_receiver[pair.sender]
        if not of_receiver:
            del self._by_receiver[pair.receiver]
        self._add(pair, -pair.bytes)

    def _add(self, pair: _Pair, size: int) -> None:
        """Count what waits for a pair."""
        payer, key = _payer(pair.sender), (pair.receiver, pair.sender)
        account = self._accounts.setdefault(payer, _Account())
        before = account.weight
        pair.bytes += size
        account.weight += size
        self._bytes_of[pair.sender] += size
        self._budget.moved(account, before, account.weight)
        if pair.bytes:
            account.pairs[key] = pair
            return
        del account.pairs[key]
        if not account.weight:
            del self._accounts[payer]
        if not self._bytes_of[pair.sender]:
            del self._bytes_of[pair.sender]


def _payer(sender: Owner) -> Owner | str:
    return sender if sender.user is None else sender.user


def _is_same(known: Owner, other: Owner) -> bool:
    same_secret = hmac.compare_digest(known.secret.encode(), other.secret.encode())
    return same_secret and known.user == other.user


# Ids that are given.


def issue_id(key: str, user: str | None, nonce: str) -> str:
    """Return an id for a user, recognized later without being remembered.

    ``key`` is the server's secret, ``nonce`` letters and digits that were never given before.
    """
    who = "" if user is None else f"user:{user}"
    text = f"triocast peerjs id\n{nonce}\n{who}".encode()
    mac = hmac.new(key.encode(), text, hashlib.sha256).hexdigest()
    return f"{nonce}-{mac[:_MAC_CHARACTERS]}"


def is_issued(id: str, key: str, user: str | None) -> bool:
    """Whether `issue_id` made this id for this user."""
    nonce = id.partition("-")[0]
    return hmac.compare_digest(id.encode(), issue_id(key, user, nonce).encode())
