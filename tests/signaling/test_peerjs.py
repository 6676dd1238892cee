"""PeerJS's rules: who holds an id, what is passed on, what waits and for how long."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.errors import CloseCode
from triocast.signaling.delivery import Close, Deliver, Effect
from triocast.signaling.peerjs import (
    ENTRY_BYTES,
    EXPIRING_IN_A_TURN,
    Owner,
    PeerLimits,
    Peers,
    is_issued,
    issue_id,
)
from triocast.signaling.peerjs_messages import Heartbeat, Leave, Refused, is_id, parse

SDP = "v=0\r\n"
ANN, BOB, EVE = Owner("ann", "a"), Owner("bob", "b"), Owner("eve", "e")


def offer(dst: str, note: Any = None, kind: str = "OFFER") -> Any:
    payload = {
        "sdp": {"type": "offer", "sdp": SDP},
        "type": "data",
        "connectionId": "dc",
        "metadata": note,
    }
    return parse(json.dumps({"type": kind, "src": "nobody", "dst": dst, "payload": payload}))


def told(effects: list[Effect]) -> list[tuple[str, str, Any]]:
    """What goes to whom: the connection, the type, and the note or else the source."""
    found = []
    for effect in effects:
        if isinstance(effect, Close):
            found.append((effect.connection, "close", effect.code))
            continue
        message = json.loads(effect.data)
        payload = message.get("payload", {})
        note = payload["metadata"] if "metadata" in payload else message.get("src")
        found.append((effect.connection, message["type"], note))
    return found


@pytest.fixture
def peers() -> Peers:
    return Peers(PeerLimits())


def test_a_message_goes_straight_on(peers: Peers) -> None:
    assert told(peers.claim("1", ANN, 0)) == [("1", "OPEN", None)]
    peers.claim("2", BOB, 0)
    (effect,) = peers.handle("1", offer("bob", 7), 0)
    assert isinstance(effect, Deliver)
    assert effect.connection == "2"
    message = json.loads(effect.data)
    assert (message["src"], message["dst"], message["payload"]["metadata"]) == ("ann", "bob", 7)
    assert set(message) == {"type", "src", "dst", "payload"}
    assert peers.ids == ["ann", "bob"]


def test_a_refused_message_fails_alone(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    peers.handle("1", offer("bob", 1), 0)
    assert told(peers.refuse("1", Refused("bob"), 1)) == [("1", "EXPIRE", "bob")]
    assert told(peers.refuse("1", Refused("a@b"), 1)) == [("1", "EXPIRE", "a@b")]
    assert peers.refuse("1", Refused(), 1) == []
    assert peers.refuse("unknown", Refused("bob"), 1) == []
    assert (peers.stats.refused, peers.stats.expired) == (3, 0)
    assert told(peers.claim("2", BOB, 1)) == [("2", "OPEN", None), ("2", "OFFER", 1)]


def test_a_refused_message_is_a_sign_of_life(peers: Peers) -> None:
    alive = peers.limits.alive_seconds
    peers.claim("1", ANN, 0)
    peers.refuse("1", Refused(), 10)
    assert peers.due(alive + 9) == []
    assert told(peers.due(alive + 10)) == [("1", "close", CloseCode.PEER_LOST)]


def test_an_id_is_of_who_has_its_secret(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    for other in (Owner("ann", "x"), Owner("ann", "a", user="somebody"), Owner("ann", "ä")):
        assert told(peers.claim("2", other, 0)) == [
            ("2", "ID-TAKEN", None),
            ("2", "close", CloseCode.POLICY),
        ]
        assert peers.handle("2", offer("ann"), 0) == []
    assert told(peers.claim("3", ANN, 0)) == [
        ("1", "close", CloseCode.REPLACED),
        ("3", "OPEN", None),
    ]
    peers.lost("1")  # The old connection's end is not the new one's.
    assert told(peers.handle("3", offer("ann", 1), 0)) == [("3", "OFFER", 1)]
    peers.lost("3")
    assert told(peers.claim("4", Owner("ann", "x"), 0)) == [("4", "OPEN", None)]


def test_what_waits_is_flushed_in_order(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    peers.claim("2", BOB, 0)
    for n in range(6):
        assert peers.handle("12"[n % 2], offer("eve", n), 1) == []
    assert peers.waiting_messages == 6
    flushed = told(peers.claim("3", EVE, 5.9))
    assert flushed == [("3", "OPEN", None), *(("3", "OFFER", n) for n in range(6))]
    assert (peers.waiting_messages, peers.waiting_bytes) == (0, 0)
    assert peers.due(20) == []


def test_each_pair_expires_once(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    peers.claim("2", BOB, 0)
    peers.handle("1", offer("eve", 1), 0)
    peers.handle("2", offer("eve", 2), 1)
    peers.handle("1", offer("eve", 3), 4)
    assert peers.due(4.9) == []
    assert told(peers.due(5)) == [("1", "EXPIRE", "eve")]
    assert told(peers.claim("3", EVE, 5.5)) == [("3", "OPEN", None), ("3", "OFFER", 2)]
    assert peers.due(50) == []
    assert peers.stats.expired == 2


def test_a_claim_gets_nothing_that_is_too_old(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    peers.handle("1", offer("eve", 1), 0)
    assert told(peers.claim("3", EVE, 5)) == [("3", "OPEN", None), ("1", "EXPIRE", "eve")]


def test_who_comes_back_late_is_told_what_expired(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    peers.handle("1", offer("eve", 1), 0)
    assert told(peers.claim("2", ANN, 5))[1:] == [("2", "OPEN", None), ("2", "EXPIRE", "eve")]


def test_much_that_expires_at_once_does_so_in_turns(peers: Peers) -> None:
    pairs = 3 * EXPIRING_IN_A_TURN
    for n in range(pairs):
        if n % 500 == 0:
            peers.claim(f"c{n}", Owner(f"a{n}", "s", f"u{n}"), 0)
        peers.handle(f"c{n - n % 500}", offer(f"x{n}", n), 0)
    assert peers.waiting_messages == pairs
    turns = [len(effects) for effects in peers.due_in_turns(5)]
    assert sum(turns) == pairs and max(turns) <= EXPIRING_IN_A_TURN
    assert (peers.waiting_messages, peers.waiting_bytes) == (0, 0)


def test_a_claim_gets_nothing_too_old_whatever_else_expires(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    for n in range(EXPIRING_IN_A_TURN):
        peers.handle("1", offer(f"x{n}", n), 0)
    peers.handle("1", offer("eve", 1), 0)
    flushed = told(peers.claim("3", EVE, 5))
    assert [effect for effect in flushed if effect[0] == "3"] == [("3", "OPEN", None)]
    assert ("1", "EXPIRE", "eve") in flushed


def test_expiry_is_for_who_sent_it(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    peers.handle("1", offer("eve", 1), 0)
    peers.lost("1")
    peers.claim("2", Owner("ann", "somebody else"), 1)
    assert peers.due(6) == []
    peers.handle("2", offer("eve", 1), 6)
    peers.lost("2")
    peers.claim("3", Owner("ann", "somebody else"), 7)
    assert told(peers.due(11)) == [("3", "EXPIRE", "eve")]


def test_leave_is_passed_on_and_does_not_wait(peers: Peers) -> None:
    peers.claim("1", ANN, 0)
    assert peers.handle("1", Leave("bob"), 0) == []
    assert told(peers.claim("2", BOB, 0)) == [("2", "OPEN", None)]
    assert told(peers.handle("1", Leave("bob"), 0)) == [("2", "LEAVE", "ann")]
    peers.lost("1")
    assert peers.due(1) == []


def test_any_sign_keeps_a_client(peers: Peers) -> None:
    for connection, owner in (("1", ANN), ("2", BOB), ("3", EVE)):
        peers.claim(connection, owner, 0)
    peers.handle("1", Heartbeat(), 80)
    peers.heard("2", 80)
    assert told(peers.due(90)) == [("3", "close", CloseCode.PEER_LOST)]
    peers.handle("1", offer("nobody"), 160)
    closed = [effect for effect in told(peers.due(170)) if effect[1] == "close"]
    assert closed == [("2", "close", CloseCode.PEER_LOST)]
    assert peers.ids == ["ann"]


SIZE = len(offer("eve", 0).relayed("ann")) + ENTRY_BYTES


@pytest.mark.parametrize(
    "limits",
    [
        PeerLimits(receiver_messages=2),
        PeerLimits(receiver_bytes=2 * SIZE),
        PeerLimits(sender_bytes=2 * SIZE),
        PeerLimits(total_bytes=2 * SIZE),
    ],
)
def test_what_finds_no_room_expires_at_once(limits: PeerLimits) -> None:
    peers = Peers(limits)
    peers.claim("1", ANN, 0)
    for n in range(2):
        assert peers.handle("1", offer("eve", n), 0) == []
    assert told(peers.handle("1", offer("eve", 2), 0)) == [("1", "EXPIRE", "eve")]
    assert (peers.waiting_messages, peers.waiting_bytes, peers.stats.expired) == (0, 0, 3)
    peers.handle("1", offer("eve", 3), 0)
    assert told(peers.claim("2", EVE, 0)) == [("2", "OPEN", None), ("2", "OFFER", 3)]


def test_one_sender_leaves_room_for_others() -> None:
    peers = Peers(PeerLimits(sender_bytes=2 * SIZE))
    peers.claim("1", ANN, 0)
    peers.claim("2", BOB, 0)
    for n in range(2):
        peers.handle("1", offer("eve", n), 0)
    assert peers.handle("2", offer("eve", 9), 0) == []
    assert told(peers.handle("1", offer("zoe", 2), 0)) == [("1", "EXPIRE", "zoe")]
    assert [note for _, _, note in told(peers.claim("3", EVE, 0))] == [None, 0, 1, 9]


@pytest.mark.parametrize(
    "limits", [PeerLimits(receiver_messages=4), PeerLimits(receiver_bytes=4 * SIZE + 9)]
)
def test_nobody_keeps_a_receivers_place_to_itself(limits: PeerLimits) -> None:
    peers = Peers(limits)
    for connection in "12":  # of one user, under two ids
        peers.claim(connection, Owner(f"m{connection}", "s", "mallory"), 0)
        for n in range(2):
            peers.handle(connection, offer("eve", n), 0)
    peers.claim("3", ANN, 0)
    assert told(peers.handle("3", offer("eve", 3), 1)) == [("1", "EXPIRE", "eve")]
    peers.claim("4", BOB, 0)
    assert peers.handle("4", offer("eve", 4), 1) == []
    # With as much as others, or more, one waits for oneself only.
    assert told(peers.handle("3", offer("eve", 5), 1)) == [("3", "EXPIRE", "eve")]
    assert [note for _, _, note in told(peers.claim("5", EVE, 2))] == [None, 0, 1, 4]


def test_who_has_most_waiting_gives_way_to_others() -> None:
    peers = Peers(PeerLimits(total_bytes=20 * SIZE))
    greedy = [Owner(f"gr{n}", "g", user="greedy") for n in range(10)]
    for number, owner in enumerate(greedy):  # One user with many ids, and little for each
        peers.claim(f"g{number}", owner, 0)
        for n in range(2):
            assert peers.handle(f"g{number}", offer("eve", n), 0) == []
    peers.claim("1", ANN, 0)
    assert told(peers.handle("1", offer("bob", 7), 0)) == [("g0", "EXPIRE", "eve")]
    assert peers.handle("1", offer("bob", 8), 0) == []
    assert told(peers.handle("1", offer("bob", 9), 0)) == [("g1", "EXPIRE", "eve")]
    assert peers.handle("g5", offer("zoe", 3), 0) == []
    assert (peers.waiting_bytes, peers.stats.expired) == (20 * SIZE, 4)
    assert told(peers.handle("g6", offer("zoe", 3), 0)) == [("g6", "EXPIRE", "zoe")]
    assert [note for _, _, note in told(peers.claim("2", BOB, 0))] == [None, 7, 8, 9]
    peers.due(10)
    assert (peers.waiting_messages, peers.waiting_bytes) == (0, 0)


def test_issued_ids_are_known_again() -> None:
    id = issue_id("key", "ann", "0123abc")
    assert is_id(id)
    assert is_issued(id, "key", "ann")
    assert not is_issued(id, "key", "bob")
    assert not is_issued(id, "key", None)
    assert not is_issued(id, "other", "ann")
    assert not is_issued(f"1{id}", "key", "ann")
    assert not is_issued("0123abc", "key", "ann")
    assert is_issued(issue_id("key", None, "1"), "key", None)


# Scripts of anything: three ids, each with two secrets.

NAMES = ("ann", "bob", "eve")
USERS = {"ann": "u", "bob": "u", "eve": None}
STEPS = st.one_of(
    st.tuples(st.just("claim"), st.sampled_from(NAMES), st.sampled_from("xy")),
    st.tuples(st.just("lose"), st.integers(0, 5), st.none()),
    st.tuples(st.just("send"), st.integers(0, 5), st.sampled_from(NAMES)),
    st.tuples(st.just("send"), st.integers(0, 5), st.sampled_from(NAMES)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 3.0, 6.0]), st.none()),
)


@given(st.lists(STEPS, max_size=60))
def test_what_is_sent_comes_once_and_in_order_or_expires(steps: list[tuple[str, Any, Any]]) -> None:
    limits = PeerLimits(
        receiver_messages=4, receiver_bytes=6 * SIZE, sender_bytes=5 * SIZE, total_bytes=8 * SIZE
    )
    peers = Peers(limits)
    now, numbers = 0.0, 0
    live: dict[str, Owner] = {}
    sent: dict[tuple[Owner, str], list[int]] = defaultdict(list)  # and nothing known of them yet
    excused: set[int] = set()  # Their senders have gone meanwhile, and may have missed an EXPIRE.
    sender_of: dict[int, Owner] = {}
    opened: set[str] = set()

    def carry_out(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Close):
                live.pop(effect.connection, None)
                continue
            receiver = live[effect.connection]  # Nobody else is told anything.
            message = json.loads(effect.data)
            kind = message["type"]
            if kind == "OPEN":
                assert effect.connection not in opened
                opened.add(effect.connection)
            elif kind == "EXPIRE":
                assert message["dst"] == receiver.id
                assert sent.pop((receiver, message["src"]))
            elif kind == "OFFER":
                assert effect.connection in opened
                number = message["payload"]["metadata"]
                sender = sender_of[number]
                assert message["src"] == sender.id
                left = sent[sender, receiver.id]
                at = left.index(number)
                assert set(left[:at]) <= excused
                del left[: at + 1]

    for count, (step, first, second) in enumerate(steps):
        if step == "claim":
            connection, owner = f"c{count}", Owner(first, second, USERS[first])
            holder = next((held for held in live.values() if held.id == first), None)
            live[connection] = owner
            carry_out(peers.claim(connection, owner, now))
            assert (connection in opened) == (holder is None or holder == owner)
        elif step == "wait":
            now += first
            for connection in live:
                peers.heard(connection, now)
            carry_out(peers.due(now))
        elif live:
            connection = sorted(live)[first % len(live)]
            owner = live[connection]
            if step == "lose":
                del live[connection]
                excused.update(n for pair, left in sent.items() if pair[0] == owner for n in left)
                peers.lost(connection)
                continue
            numbers += 1
            sender_of[numbers] = owner
            sent[owner, second].append(numbers)
            carry_out(peers.handle(connection, offer(second, numbers), now))
        assert sorted(peers.ids) == sorted(owner.id for owner in live.values())
        assert len(set(peers.ids)) == len(peers.ids)
        assert peers.waiting_bytes <= limits.total_bytes
        assert peers.waiting_messages <= limits.receiver_messages * len(NAMES)
    carry_out(peers.due(now + limits.wait_seconds + 1))
    assert (peers.waiting_messages, peers.waiting_bytes) == (0, 0)
    assert {n for left in sent.values() for n in left} <= excused
