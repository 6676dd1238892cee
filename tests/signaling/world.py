"""Rooms, clients, and the lines between them, one step at a time."""

import itertools

from triocast.signaling.budget import ENTRY_BYTES
from triocast.signaling.delivery import Close, Deliver, Effect
from triocast.signaling.limits import Admission, Fresh, Limits
from triocast.signaling.messages import Join, MessageError, parse
from triocast.signaling.notices import encode, refusal
from triocast.signaling.rooms import Rooms

from .clients import Client
from .connections import are_connected

ROOM = "room"


class World:
    def __init__(self, limits: Limits, clients: list[Client]) -> None:
        self.limits = limits
        self.rooms = Rooms(limits)
        self.clients = clients
        self.now = 0.0
        self.numbers = itertools.count(1)
        self.owners: dict[str, Client] = {}
        self.unnoticed: list[str] = []
        self.given_up: set[str] = set()
        self.born: dict[str, int] = {}

    # What can happen.

    def connect(self, client: Client) -> None:
        self.drop(client)
        connection = f"c{next(self.numbers)}"
        self.owners[connection] = client
        client.connect(connection)

    def drop(self, client: Client) -> None:
        """The client's line breaks; the server will notice later."""
        connection = client.drop()
        if connection is not None:
            self.unnoticed.append(connection)

    def notice(self) -> None:
        """The server notices the line that broke first."""
        if self.unnoticed:
            self.carry_out(self.rooms.lost(self.unnoticed.pop(0), self.now))

    def cut(self, client: Client) -> None:
        """The server gives up a connection; the client will notice when it has read the rest."""
        if client.connection is not None:
            self.carry_out(self.rooms.lost(client.connection, self.now))
            self.given_up.add(client.connection)
            client.downlink.append((1006,))

    def up(self, client: Client) -> None:
        """The server reads one message."""
        connection = client.connection
        assert connection is not None
        text = client.uplink.pop(0)
        if connection in self.given_up:
            return
        try:
            message = parse(text, self.limits.sizes)
        except MessageError as error:
            self.carry_out([Deliver(connection, encode(refusal(error)))])
            return
        if isinstance(message, Join):
            number = next(self.numbers)
            admission = Admission(
                subject=client.name,
                may_claim=client.claims,
                may_send_data=True,
                is_known=True,
            )
            fresh = Fresh(f"p{number}", f"t{number}")
            if message.resume is None:
                self.born[client.name if client.claims else fresh.peer] = number
            effects = self.rooms.join(connection, message, admission, fresh, self.now)
        else:
            effects = self.rooms.handle(connection, message, self.now)
        self.carry_out(effects)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.rooms.due(self.now))

    def kick(self, client: Client) -> None:
        if client.peer is not None and ROOM in self.rooms.rooms:
            present = {peer.id for peer in self.rooms.view(ROOM)}
            if client.peer in present:
                self.carry_out(self.rooms.kick(ROOM, client.peer, self.now))

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            client = self.owners[effect.connection]
            if client.connection != effect.connection:
                continue
            match effect:
                case Deliver():
                    client.downlink.append(effect.data)
                case Close():
                    client.downlink.append((int(effect.code),))

    # What must be so.

    def check(self) -> None:
        """What holds at any time."""
        told: dict[tuple[str, str, int], tuple[bool, bool, bool]] = {}
        for client in self.clients:
            for peer, other, session, *rest in client.told:
                assert told.setdefault((peer, other, session), tuple(rest)) == tuple(rest)
        for (peer, other, session), (initiator, polite, strict) in told.items():
            mirrored = told.get((other, peer, session))
            if mirrored is not None:
                assert mirrored[0] is not initiator
                assert mirrored[2] is strict
                assert (polite + mirrored[1]) == (0 if strict else 1)
        kept = 0
        for room in self.rooms.rooms:
            peers = self.rooms.view(room)
            kept += sum(peer.queued_bytes + ENTRY_BYTES * peer.queued_messages for peer in peers)
            assert 0 < len(peers) <= self.limits.peers_per_room
            for peer in peers:
                assert peer.queued_messages <= self.limits.queue_messages
                assert peer.queued_bytes <= self.limits.queue_bytes
        assert kept == self.rooms.kept_bytes <= self.limits.kept_bytes
        self._check_knowledge()
        for client in self.clients:
            by_sender: dict[str, list[int]] = {}
            for sender, number in client.heard:
                by_sender.setdefault(sender, []).append(number)
            for numbers in by_sender.values():
                assert numbers == sorted(set(numbers)), "out of order, or twice"

    def _check_knowledge(self) -> None:
        """Who has heard everything knows who is there, and whose line is broken for long."""
        registry = self.rooms._registry
        for client in self.clients:
            peer = registry.connections.get(client.connection or "")
            if peer is None or client.downlink or not client.joined:
                continue
            assert set(client.links) == peer.room.peers.keys() - {peer.id}, "a ghost"
            for other in peer.others():
                link = client.links[other.id]
                assert link.initiator is (peer.pairs[other.id].initiator == peer.id)
                if other.is_connected:
                    assert not link.suspended
                elif self.now >= other.suspended_at + self.limits.blip_seconds:
                    assert link.suspended
                    assert self.now < other.suspended_at + self.limits.grace_seconds

    def calm(self) -> None:
        """No line breaks any more: whoever wants to be in gets in, and the rest is gone."""
        while self.unnoticed:
            self.notice()
        for _ in range(3):
            for client in self.clients:
                if client.wants_in and not client.joined and not client.uplink:
                    self.connect(client)
                elif not client.wants_in and client.joined:
                    client.leave()
            self.pump()
            while self.unnoticed:
                self.notice()
            self.pass_time(self.limits.grace_seconds + 1)
            self.pump()
        self.check()

    def pump(self) -> None:
        for _ in range(20_000):
            busy = [c for c in self.clients if c.uplink or c.downlink]
            if not busy:
                return
            for client in busy:
                if client.uplink:
                    self.up(client)
                if client.downlink:
                    client.hear()
        raise AssertionError("it never ends")

    def check_calm(self) -> None:
        """What holds when it is calm: everybody is connected with everybody who is there."""
        present = [client for client in self.clients if client.wants_in]
        assert all(client.joined for client in present)
        ids = {client.peer for client in present}
        seen = {peer.id for peer in self.rooms.view(ROOM)} if present else set()
        assert seen == ids, "a ghost stayed, or a peer was lost"
        for client in present:
            assert set(client.links) == ids - {client.peer}
        for one, other in itertools.combinations(present, 2):
            assert one.peer is not None
            assert other.peer is not None
            link, mirrored = one.links[other.peer], other.links[one.peer]
            assert link.session == mirrored.session
            assert link.initiator is not mirrored.initiator
            assert are_connected(link.pc, mirrored.pc), (link, mirrored)
        self._check_nothing_lost(present)

    def _check_nothing_lost(self, present: list[Client]) -> None:
        by_peer = {client.peer: client for client in present}
        for sender in present:
            told = {error.get("re") for error in sender.errors}
            for life, to, number in sender.said:
                target = by_peer.get(to)
                is_certain = life == sender.lives and sender.gaps == 0
                if target is None or target.gaps or not is_certain:
                    continue
                if number > self.born[target.peer or ""]:
                    assert (sender.peer, number) in target.heard or number in told, (
                        "lost in silence"
                    )

    def everybody_goes(self) -> None:
        for client in self.clients:
            client.wants_in = False
            self.drop(client)
        while self.unnoticed:
            self.notice()
        self.pass_time(self.limits.grace_seconds)
        assert self.rooms.is_empty
