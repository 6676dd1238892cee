"""Peers are told things in order, and nothing is dropped without its sender being told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from triocast.errors import CloseCode
from triocast.signaling.errors import Kicked, RoomFull
from triocast.signaling.mailbox import Sender
from triocast.signaling.notices import PeerState, Ping, RenegotiateFrom

from .factories import Seated, told


def notice():
    """Something that a peer must not miss."""
    return PeerState(peer="x", state="connected")


def message(sender="bob", reason=UNSET):
    """What one peer says to another."""
    return RenegotiateFrom(sender=sender, session=1, ice_restart=False, reason=reason)


def types(delivery):
    """Who is told what, by its type or its error's code."""
    return [(name, said.get("code", said["type"])) for name, said in told(delivery)]


# Straight to a connection.


def test_an_answer_goes_to_its_connection_alone_and_is_not_kept():
    seated = Seated("alice")
    delivery = seated.delivery()
    delivery.answer("alice", Ping(t=1.5))
    assert told(delivery) == [("alice", {"type": "ping", "t": 1.5})]
    assert len(seated["alice"].mailbox) == seated["alice"].mailbox.seq == 0


def test_a_refusal_says_what_it_answers():
    delivery = Seated().delivery()
    delivery.refuse("c1", RoomFull("full", wait=5), re="q")
    [(connection, error)] = told(delivery)
    assert connection == "c1"
    assert (error["code"], error["re"], error["retryAfter"]) == ("room-full", "q", 5)


def test_a_refusal_with_a_code_closes_the_connection_after_it():
    delivery = Seated().delivery()
    delivery.refuse("c1", Kicked("go"), re=None, code=CloseCode.KICKED)
    (_, error), close = told(delivery)
    assert error["code"] == "kicked"
    assert "re" not in error
    assert close == ("c1", (CloseCode.KICKED, "kicked"))


def test_what_was_kept_is_sent_again_as_it_was():
    delivery = Seated().delivery()
    delivery.again("c1", [b'{"seq":1}', b'{"seq":2}'])
    assert told(delivery) == [("c1", {"seq": 1}), ("c1", {"seq": 2})]


# To a peer, wherever it is.


def test_a_connected_peer_is_told_at_once_and_each_message_is_numbered_and_kept():
    seated = Seated("alice", "bob")
    alice, bob = seated["alice"], seated["bob"]
    delivery = seated.delivery()
    delivery.tell(alice, notice())
    delivery.relay(bob, message("alice"), Sender("alice", "q", 1))
    delivery.tell(alice, notice())
    assert [(name, said["seq"]) for name, said in told(delivery)] == [
        ("alice", 1),
        ("bob", 1),
        ("alice", 2),
    ]
    sent = [effect.data for effect in delivery.effects if effect.connection == "alice"]
    assert alice.mailbox.after(0, now=0) == sent


def test_what_a_suspended_peer_is_told_waits_for_its_return():
    seated = Seated("alice", "bob")
    alice = seated.suspend("alice")
    delivery = seated.delivery()
    delivery.tell(alice, notice())
    delivery.relay(alice, message(), Sender("bob", "q", 1))
    assert delivery.effects == []
    assert len(alice.mailbox.after(0, now=0)) == 2


def test_what_finds_no_room_is_told_to_its_sender_and_the_rest_goes_on_waiting():
    seated = Seated("alice", "bob", queue_messages=1)
    alice = seated.suspend("alice")
    delivery = seated.delivery()
    delivery.relay(alice, message(), Sender("bob", "first", 1))
    assert delivery.effects == []
    delivery.relay(alice, message(), Sender("bob", "second", 7))
    (_, state), (_, error) = told(delivery)
    assert (state["type"], state["peer"], state["state"]) == ("peer-state", "alice", "suspended")
    assert error["code"] == "queue-full"
    assert (error["re"], error["to"], error["session"]) == ("second", "alice", 7)
    assert len(alice.mailbox.after(0, now=0)) == 1


def test_a_notice_that_finds_no_room_makes_a_gap_and_all_senders_are_told():
    seated = Seated("alice", "bob", "carol", queue_messages=2)
    alice = seated.suspend("alice")
    delivery = seated.delivery()
    delivery.relay(alice, message("bob"), Sender("bob", "b", 1))
    delivery.relay(alice, message("carol"), Sender("carol", "c", None))
    delivery.tell(alice, notice())
    assert types(delivery) == [
        ("bob", "peer-state"),
        ("bob", "queue-full"),
        ("carol", "peer-state"),
        ("carol", "queue-full"),
    ]
    assert [said["re"] for _, said in told(delivery) if "code" in said] == ["b", "c"]
    assert alice.mailbox.after(alice.mailbox.seq, now=0) is None


@pytest.mark.parametrize("sender", ["somebody who left", "alice"])
def test_a_sender_that_is_not_there_any_more_is_told_nothing(sender):
    seated = Seated("alice", "bob", queue_messages=1)
    alice = seated.suspend("alice")
    delivery = seated.delivery()
    for _ in range(2):
        delivery.relay(alice, message(), Sender(sender, "q", 1))
    assert delivery.effects == []
    assert alice.told_suspended == set()


def test_a_peer_hears_once_that_another_is_suspended():
    seated = Seated("alice", "bob", "carol")
    alice = seated.suspend("alice")
    delivery = seated.delivery()
    for to in ("bob", "carol", "bob"):
        delivery.tell_suspended(alice, seated[to])
    assert types(delivery) == [("bob", "peer-state"), ("carol", "peer-state")]
    assert alice.told_suspended == {"bob", "carol"}


# What waits too long.


def test_what_waits_expires_all_together_with_the_first_of_it():
    seated = Seated("alice", "bob")
    alice = seated.suspend("alice")
    for now, re in ((5, "first"), (20, "second")):
        seated.delivery(now).relay(alice, message(), Sender("bob", re, 1))
    early = seated.delivery(24.9)
    early.expire(alice)
    assert early.effects == []
    delivery = seated.delivery(25)
    delivery.expire(alice)
    assert types(delivery) == [("bob", "peer-state"), ("bob", "expired"), ("bob", "expired")]
    assert [said["re"] for _, said in told(delivery) if "code" in said] == ["first", "second"]
    again = seated.delivery(100)
    again.expire(alice)
    assert again.effects == []


def test_what_a_connection_carries_does_not_expire():
    seated = Seated("alice", "bob")
    seated.delivery(0).relay(seated["alice"], message(), Sender("bob", "q", 1))
    delivery = seated.delivery(100)
    delivery.expire(seated["alice"])
    assert delivery.effects == []


def test_two_suspended_peers_that_wait_for_each_other_break_once_each():
    seated = Seated("alice", "bob", queue_messages=1)
    alice, bob = seated.suspend("alice"), seated.suspend("bob")
    seated.delivery(0).relay(alice, message("bob"), Sender("bob", "b", 1))
    seated.delivery(0).relay(bob, message("alice"), Sender("alice", "a", 1))
    delivery = seated.delivery(20)
    delivery.expire(alice)
    assert delivery.effects == []
    assert alice.mailbox.broken
    assert bob.mailbox.broken


# What is kept for all together.


def test_at_the_bound_the_heaviest_gives_up_what_its_connection_has_carried():
    seated = Seated("alice", "bob", kept_bytes=1_000)
    alice, bob = seated["alice"], seated["bob"]
    delivery = seated.delivery()
    for _ in range(2):
        delivery.tell(alice, notice())
    delivery.tell(bob, notice())
    assert len(alice.mailbox) == 2
    delivery.tell(bob, notice())
    assert len(delivery.effects) == 4
    assert len(alice.mailbox) + len(bob.mailbox) == 3
    assert seated.budget.used <= 1_000


def test_at_the_bound_what_waits_for_the_heaviest_is_told_to_its_senders():
    seated = Seated("alice", "bob", "carol", kept_bytes=1_500)
    alice = seated.suspend("alice")
    delivery = seated.delivery()
    for re in range(3):
        delivery.relay(alice, message(), Sender("bob", re, 1))
    assert delivery.effects == []
    for _ in range(2):
        delivery.tell(seated["carol"], notice())
    errors = [said for name, said in told(delivery) if name == "bob" and "code" in said]
    assert [error["re"] for error in errors] == [0, 1, 2]
    assert {error["code"] for error in errors} == {"queue-full"}
    assert alice.mailbox.broken
    assert not seated["carol"].mailbox.broken
    assert seated.budget.used <= 1_500


NAMES = ("alice", "bob", "carol")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tell", "relay", "suspend", "expire"]), *[st.sampled_from(NAMES)] * 2
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([1_000, 1_500, 3_000]))
def test_what_is_sent_to_a_suspended_peer_waits_or_is_told_to_its_sender(steps, kept_bytes):
    seated = Seated(*NAMES, kept_bytes=kept_bytes, queue_messages=4)
    suspended_at, sent, refused = {}, [], []
    for number, (step, name, other) in enumerate(steps):
        peer, delivery = seated[name], seated.delivery(now=number)
        if step == "suspend" and peer.is_connected:
            suspended_at[name] = peer.mailbox.seq
            seated.suspend(name)
        elif step == "expire":
            delivery.expire(peer)
        elif step == "tell":
            delivery.tell(peer, notice())
        elif step == "relay" and name != other:
            delivery.relay(peer, message(other, str(number)), Sender(other, str(number), 1))
            if not peer.is_connected:
                sent.append((name, other, str(number)))
        refused += [(said["to"], to, said["re"]) for to, said in told(delivery) if "code" in said]
        assert all(seated[to].is_connected for to, _ in told(delivery))
        assert seated.budget.used <= kept_bytes
    waiting = [
        (name, said["from"], said["reason"])
        for name, seq in suspended_at.items()
        for said in map(json.loads, seated[name].mailbox.after(seq, now=len(steps)) or [])
        if said["type"] == "renegotiate"
    ]
    # A sender that is suspended, too, may hear of it when it is back, or have a gap itself.
    connected = set(NAMES) - suspended_at.keys()
    known = [item for item in waiting + refused if item[1] in connected]
    assert sorted(known) == sorted(item for item in sent if item[1] in connected)
