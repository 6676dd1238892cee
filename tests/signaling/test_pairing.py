"""One initiator for each pair, and somebody who gives way, if anybody can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling.pairing import SESSIONS_APART, next_session, pair_up

ROLLBACK = frozenset({"rollback", "trickle"})
PLAIN = frozenset({"trickle"})


@pytest.mark.parametrize(
    ("elder", "newcomer", "polite"),
    [
        (ROLLBACK, ROLLBACK, "elder"),
        (ROLLBACK, PLAIN, "elder"),
        (PLAIN, ROLLBACK, "newcomer"),
        (PLAIN, PLAIN, None),
    ],
)
def test_the_newcomer_begins_and_who_can_roll_back_is_polite(elder, newcomer, polite):
    pair = pair_up("elder", elder, "newcomer", newcomer, session=7)
    assert (pair.initiator, pair.responder, pair.polite) == ("newcomer", "elder", polite)
    assert pair.session == 7
    assert pair.strict is (polite is None)


def test_names_decide_nothing():
    for elder, newcomer in (("a", "b"), ("b", "a")):
        assert pair_up(elder, PLAIN, newcomer, PLAIN, session=1).initiator == newcomer


def test_the_first_offer_is_the_initiators():
    pair = pair_up("elder", ROLLBACK, "newcomer", ROLLBACK, session=1)
    assert pair.may_offer("newcomer")
    assert not pair.may_offer("elder")
    pair.note_offer(1)
    pair.note_answer("newcomer")
    assert not pair.may_offer("elder")
    pair.note_answer("elder")
    assert pair.may_offer("elder")
    assert pair.may_offer("newcomer")


def test_in_a_strict_pair_every_offer_is_the_initiators():
    pair = pair_up("elder", PLAIN, "newcomer", PLAIN, session=1)
    pair.note_answer("elder")
    assert not pair.may_offer("elder")


def test_the_initiator_alone_begins_the_next_session():
    pair = pair_up("elder", ROLLBACK, "newcomer", ROLLBACK, session=4)
    pair.note_answer("elder")
    assert pair.accepts_session("newcomer", 5, is_offer=True)
    assert not pair.accepts_session("elder", 5, is_offer=True)
    assert not pair.accepts_session("newcomer", 5, is_offer=False)
    assert not pair.accepts_session("newcomer", 6, is_offer=True)
    assert not pair.accepts_session("newcomer", 3, is_offer=True)
    pair.note_offer(5)
    assert pair.session == 5
    assert not pair.may_offer("elder")
    assert not pair.accepts_session("elder", 4, is_offer=False)
    pair.note_offer(5)
    assert pair.session == 5


@given(st.integers(0, 10**9), st.integers(0, SESSIONS_APART - 1))
def test_sessions_of_pairs_do_not_meet(last, on_their_way):
    assert next_session(last) > last
    first = next_session(last)
    assert next_session(first) > first + on_their_way
