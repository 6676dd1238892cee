"""Rooms, peers, connections and tokens always agree, and pairs are told of every end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.errors import CloseCode
from triocast.signaling.errors import Kicked, Replaced, RoomNotFound
from triocast.signaling.pairing import SESSIONS_APART
from triocast.signaling.peers import Room, digest
from triocast.signaling.registry import Registry

from .factories import Seated, told


def check(registry):
    """All the ways to a peer lead to the same peers."""
    peers = [peer for room in registry.rooms.values() for peer in room.peers.values()]
    assert registry.tokens == {peer.token_digest: peer for peer in peers}
    assert registry.connections == {peer.connection: peer for peer in peers if peer.connection}
    assert set(registry.suspended) == {peer for peer in peers if not peer.is_connected}
    times = [peer.suspended_at for peer in registry.suspended]
    assert times == sorted(times)
    assert registry.is_empty is not any(registry.rooms)
    sessions = set()
    for peer in peers:
        assert peer.room.peers[peer.id] is peer.mailbox.owner is peer
        assert peer.pairs.keys() == peer.room.peers.keys() - {peer.id}
        for other, pair in peer.pairs.items():
            assert pair is peer.room.peers[other].pairs[peer.id]
            assert {pair.initiator, pair.responder} == {peer.id, other}
            sessions.add(pair.session)
    assert 2 * len(sessions) == sum(len(peer.pairs) for peer in peers)


def test_nothing_is_there_at_first():
    registry = Registry()
    check(registry)
    with pytest.raises(RoomNotFound):
        registry.find_room("r")


def test_a_room_is_found_by_its_name():
    seated = Seated()
    assert seated.registry.find_room("r") is seated.room


def test_a_newcomer_begins_towards_everybody_who_is_there():
    seated = Seated("alice", "bob")
    carol = seated.add("carol")
    assert list(carol.pairs) == ["alice", "bob"]
    assert {pair.initiator for pair in carol.pairs.values()} == {"carol"}
    check(seated.registry)


def test_a_connection_that_nobody_has_suspends_nobody():
    seated = Seated("alice")
    assert seated.registry.suspend("nobody", 5) is None
    assert seated["alice"].is_connected


def test_a_suspended_peer_keeps_its_place_and_its_token():
    seated = Seated("alice", "bob")
    alice = seated.registry.suspend("alice", 5)
    assert alice is seated["alice"]
    assert alice.suspended_at == 5
    assert seated.registry.tokens[digest("token of alice")] is alice
    check(seated.registry)


def test_the_peer_that_is_suspended_for_longest_comes_first():
    seated = Seated("alice", "bob", "carol")
    for now, name in enumerate(("bob", "carol", "alice")):
        seated.suspend(name, now)
    seated.registry.reconnect(seated["bob"], "bob2", seated.delivery())
    seated.suspend("bob", 9)
    assert [peer.id for peer in seated.registry.suspended] == ["carol", "alice", "bob"]


def test_a_suspended_peer_comes_back_on_a_new_connection():
    seated = Seated("alice")
    seated.suspend("alice")
    delivery = seated.delivery()
    seated.registry.reconnect(seated["alice"], "alice2", delivery)
    assert delivery.effects == []
    assert seated["alice"].connection == "alice2"
    check(seated.registry)


def test_a_peer_that_comes_back_closes_the_connection_it_still_has():
    seated = Seated("alice")
    delivery = seated.delivery()
    seated.registry.reconnect(seated["alice"], "alice2", delivery)
    (connection, error), close = told(delivery)
    assert (connection, error["code"]) == ("alice", "replaced")
    assert close == ("alice", (CloseCode.REPLACED, "replaced"))
    check(seated.registry)


@pytest.mark.parametrize("reason", ["left", "timeout"])
@pytest.mark.parametrize("is_suspended", [False, True])
def test_when_a_peer_is_removed_the_others_are_told(reason, is_suspended):
    seated = Seated("alice", "bob", "carol")
    alice = seated["alice"]
    if is_suspended:
        seated.suspend("alice")
    seated["bob"].told_suspended.add("alice")
    delivery = seated.delivery()
    seated.registry.remove(alice, reason, delivery)
    left = {"type": "peer-left", "seq": 1, "peer": "alice", "reason": reason}
    assert told(delivery) == [("bob", left), ("carol", left)]
    assert seated["bob"].told_suspended == set()
    check(seated.registry)


def test_a_room_goes_with_its_last_peer_unless_somebody_is_about_to_join_it():
    seated = Seated("alice")
    seated.registry.remove(seated["alice"], "left", seated.delivery())
    assert seated.registry.is_empty
    seated = Seated("alice")
    seated.registry.remove(seated["alice"], "left", seated.delivery(), keep_room=True)
    assert seated.registry.rooms == {"r": seated.room}


def test_a_removed_peer_is_neither_told_nor_kept_anything():
    seated = Seated("alice", "bob")
    alice = seated["alice"]
    alice.mailbox.keep(b"x", now=0)
    seated.registry.remove(alice, "left", seated.delivery())
    assert alice.mailbox.owner is None
    assert len(alice.mailbox) == 0
    assert not alice.mailbox.queue(b"x", now=0)
    assert seated.budget.used == seated["bob"].mailbox.weight


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [(Kicked("go"), "kicked", CloseCode.KICKED), (Replaced("new"), "replaced", CloseCode.REPLACED)],
)
def test_an_expelled_peer_is_told_why_and_its_connection_closed(error, reason, code):
    seated = Seated("alice", "bob")
    delivery = seated.delivery()
    seated.registry.expel(seated["alice"], error, delivery)
    (other, left), (connection, refusal), close = told(delivery)
    assert (other, left["type"], left["reason"]) == ("bob", "peer-left", reason)
    assert (connection, refusal["code"], refusal["fatal"]) == ("alice", reason, True)
    assert close == ("alice", (code, reason))
    check(seated.registry)


def test_an_expelled_peer_without_a_connection_is_not_told():
    seated = Seated("alice", "bob")
    alice = seated.suspend("alice")
    delivery = seated.delivery()
    seated.registry.expel(alice, Kicked("go"), delivery)
    assert [connection for connection, _ in told(delivery)] == ["bob"]


def test_an_expelled_peer_may_leave_its_room_for_the_one_that_takes_its_place():
    seated = Seated("alice")
    seated.registry.expel(seated["alice"], Replaced("new"), seated.delivery(), keep_room=True)
    assert seated.registry.rooms == {"r": seated.room}


def test_a_forgotten_peer_is_found_by_nothing_but_its_room():
    seated = Seated("alice", "bob")
    bob = seated.suspend("bob")
    for peer in (seated["alice"], bob):
        seated.registry.forget(peer)
    assert not seated.registry.tokens
    assert not seated.registry.connections
    assert not seated.registry.suspended
    assert list(seated.room.peers) == ["alice", "bob"]


@given(st.lists(st.integers(0, 5 * SESSIONS_APART), min_size=1, max_size=5))
def test_a_pair_made_anew_has_a_session_beyond_all_before(counted_on):
    seated = Seated("alice", "bob")
    last = 0
    for count in counted_on:
        pair = seated["alice"].pairs["bob"]
        assert pair.session > last
        pair.note_offer(pair.session + count)
        last = pair.session
        seated.registry.remove(seated["bob"], "left", seated.delivery())
        seated.add("bob")
    assert seated["alice"].pairs["bob"].session > last


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "suspend", "reconnect", "remove", "expel"]),
        st.sampled_from("rs"),
        st.sampled_from("abc"),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_everything_agrees(steps):
    seated = Seated()
    del seated.registry.rooms["r"]
    registry = seated.registry
    for number, (step, name, id) in enumerate(steps):
        room = registry.rooms.get(name)
        peer = None if room is None else room.peers.get(id)
        delivery = seated.delivery(number)
        if step == "add" and peer is None:
            seated.room = registry.rooms.setdefault(name, Room(name))
            fresh = f"{id}{number}"
            seated.add(id, connection=fresh, token_digest=digest(fresh))
        elif peer is not None and step == "suspend" and peer.connection:
            registry.suspend(peer.connection, number)
        elif peer is not None and step == "reconnect":
            registry.reconnect(peer, f"{id}{number}", delivery)
        elif peer is not None and step == "remove":
            registry.remove(peer, "left", delivery)
        elif peer is not None and step == "expel":
            registry.expel(peer, Kicked("go"), delivery)
        check(registry)
