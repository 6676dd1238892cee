"""What was missed comes exactly, or not at all; and never too much is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling.budget import Budget
from triocast.signaling.mailbox import Mailbox, Sender

ALICE = Sender("alice", "q", 1)


def mailbox(most=3, most_bytes=100, seconds=10.0):
    return Mailbox(Budget(10_000), most=most, most_bytes=most_bytes, seconds=seconds)


def test_a_connected_peers_oldest_go_first():
    box = mailbox()
    for text in (b"1", b"2", b"3", b"4"):
        box.keep(text, now=0)
    assert box.after(1, now=0) == [b"2", b"3", b"4"]
    assert box.after(0, now=0) is None


def test_bytes_are_bounded_too():
    box = mailbox(most_bytes=5)
    box.keep(b"abc", now=0)
    box.keep(b"def", now=0)
    assert box.size == 3
    assert box.after(0, now=0) is None
    assert box.after(1, now=0) == [b"def"]


def test_what_a_connection_carried_makes_room_for_what_waits():
    box = mailbox()
    box.keep(b"1", now=0)
    box.keep(b"2", now=0)
    assert all(box.queue(text, now=0) for text in (b"3", b"4", b"5"))
    assert not box.queue(b"6", now=0)
    assert box.after(1, now=0) is None
    assert box.after(2, now=0) == [b"3", b"4", b"5"]


def test_what_waits_is_bounded_in_bytes():
    box = mailbox(most_bytes=5)
    assert box.queue(b"abc", now=0)
    assert not box.queue(b"def", now=0)
    assert box.queue(b"de", now=0)
    assert box.after(0, now=0) == [b"abc", b"de"]


def test_age_ends_what_was_sent():
    box = mailbox()
    box.keep(b"1", now=0)
    box.keep(b"2", now=5)
    assert box.after(0, now=9.9) == [b"1", b"2"]
    assert box.after(0, now=10) is None
    assert box.after(1, now=10) == [b"2"]


def test_what_waits_tells_when_it_has_waited_too_long():
    box = mailbox()
    box.keep(b"1", now=0)
    assert box.expires_at() is None
    box.queue(b"2", now=1)
    assert box.expires_at() == 11
    assert box.after(1, now=1) == [b"2"]
    assert box.expires_at() is None


def test_what_was_abandoned_is_a_gap_until_a_reset():
    box = mailbox()
    box.keep(b"1", now=0, sender=Sender("bob", None, 1))
    box.queue(b"2", now=0, sender=ALICE)
    box.queue(b"3", now=0)
    assert box.abandon() == [ALICE]
    assert not box.queue(b"4", now=0)
    assert box.after(box.seq, now=0) is None
    box.reset()
    assert box.after(box.seq, now=0) == []
    box.keep(b"4", now=0)
    assert box.seq == 4


@pytest.mark.parametrize("seq", [1, 100])
def test_what_was_never_sent_cannot_be_had(seq):
    assert mailbox().after(seq, now=0) is None


def test_what_the_peer_has_is_forgotten():
    box = mailbox()
    for text in (b"1", b"2", b"3"):
        box.keep(text, now=0)
    box.acknowledge(2)
    assert len(box) == 1
    assert box.after(2, now=0) == [b"3"]
    assert box.after(1, now=0) is None
    box.acknowledge(100)
    assert len(box) == box.size == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.integers(1, 6)),
        st.tuples(st.just("queue"), st.integers(1, 6)),
        st.tuples(st.just("wait"), st.integers(1, 6)),
        st.tuples(st.just("ack"), st.integers(0, 30)),
        st.tuples(st.just("after"), st.integers(0, 30)),
    ),
    max_size=40,
)


@given(STEPS)
def test_after_is_everything_or_nothing(steps):
    box = mailbox(most=4, most_bytes=12, seconds=10)
    sent, now, may_keep = [], 0, True
    for step, number in steps:
        text = b"%d" % (len(sent) + 1) * number
        if step == "wait":
            now += number
        elif step == "ack":
            box.acknowledge(number)
        elif step == "keep" and may_keep:
            box.keep(text, now=now)
            sent.append(text)
        elif step == "queue":
            may_keep = False
            if box.queue(text, now=now):
                sent.append(text)
        elif step == "after":
            missed = box.after(number, now=now)
            if missed is not None:
                may_keep = True
                assert missed == sent[number:]
        assert len(box) <= 4
        assert box.size <= 12
        assert box.seq == len(sent)
