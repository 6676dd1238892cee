"""A peer is introduced to each other one from that one's side, and its token is not remembered."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling.notices import encode
from triocast.signaling.peers import PeerView, announce, digest, introduce, view

from .factories import Seated


def read(message):
    return json.loads(encode(message))


def test_the_others_of_a_room_come_in_the_order_of_their_joins():
    seated = Seated("carol", "alice", "bob")
    assert [peer.id for peer in seated["alice"].others()] == ["carol", "bob"]


def test_a_peer_is_connected_until_it_is_suspended():
    seated = Seated("alice")
    alice = seated["alice"]
    assert alice.is_connected
    seated.suspend("alice")
    assert not alice.is_connected


@pytest.mark.parametrize(("ends_at", "seconds"), [(None, None), (100.0, 40.0), (50.0, -10.0)])
def test_a_grant_holds_until_it_ends(ends_at, seconds):
    alice = Seated("alice")["alice"]
    alice.grant_ends_at = ends_at
    assert alice.grant_seconds(60.0) == seconds


def test_both_of_a_pair_are_told_of_the_other_from_their_own_side():
    seated = Seated()
    elder = seated.add("elder", role="host")
    newcomer = seated.add("newcomer", capabilities=frozenset(), metadata=b'{"name":"N"}')
    session = elder.pairs["newcomer"].session
    assert read(introduce(elder, newcomer)) == {
        "peer": "elder",
        "role": "host",
        "capabilities": ["data-relay", "ice-restart", "rollback", "trickle"],
        "metadata": None,
        "session": session,
        "initiator": True,
        "polite": False,
        "strict": False,
        "state": "connected",
    }
    assert read(announce(newcomer, elder)) == {
        "type": "peer-joined",
        "peer": "newcomer",
        "role": "peer",
        "capabilities": [],
        "metadata": {"name": "N"},
        "session": session,
        "initiator": False,
        "polite": True,
        "strict": False,
        "state": "connected",
    }


def test_nobody_of_a_strict_pair_is_polite():
    seated = Seated("alice", "bob", capabilities=frozenset())
    for peer, to in (("alice", "bob"), ("bob", "alice")):
        told = introduce(seated[peer], seated[to])
        assert told.strict
        assert not told.polite


def test_a_suspended_peer_is_introduced_as_one():
    seated = Seated("alice", "bob")
    seated.suspend("alice")
    assert introduce(seated["alice"], seated["bob"]).state == "suspended"


def test_administrators_see_what_is_kept_for_a_peer():
    seated = Seated("alice", role="host", subject="user:ann")
    alice = seated["alice"]
    assert view(alice) == PeerView("alice", "host", "user:ann", True, 0, 0)
    alice.mailbox.keep(b"12345", now=0)
    seated.suspend("alice")
    assert view(alice) == PeerView("alice", "host", "user:ann", False, 1, 5)


@given(st.text(), st.text())
def test_a_token_is_known_by_a_digest_that_says_nothing_about_it(token, other):
    assert digest(token) == digest(token)
    assert len(digest(token)) == 32
    assert (digest(token) == digest(other)) is (token == other)


def test_any_text_of_a_client_has_a_digest():
    assert digest("\ud800") != digest("\ud801")


def test_a_peer_does_not_show_what_one_could_resume_with():
    alice = Seated("alice")["alice"]
    assert "token" not in repr(alice)
    assert repr(alice.token_digest) not in repr(alice)
