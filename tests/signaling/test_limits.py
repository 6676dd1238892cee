"""Bounds that contradict each other are refused, and a client's rights are what was found out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling.budget import Budget
from triocast.signaling.limits import INFO_BYTES, Admission, Fresh, Limits
from triocast.signaling.mailbox import Mailbox
from triocast.signaling.messages import Sizes


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"rooms": 0}, "greater than 0"),
        ({"peers": 0}, "greater than 0"),
        ({"peers_per_room": 0}, "greater than 0"),
        ({"bans": 0}, "greater than 0"),
        ({"queue_messages": 0}, "greater than 0"),
        ({"queue_seconds": 0}, "greater than 0"),
        ({"grace_seconds": 0, "blip_seconds": 0}, "greater than 0"),
        ({"grace_seconds": 1, "blip_seconds": 2}, "not longer than grace_seconds"),
        ({"blip_seconds": -1}, "not longer than grace_seconds"),
        ({"sizes": Sizes(message_bytes=131_073)}, "twice the largest message"),
        ({"queue_bytes": 131_071}, "twice the largest message"),
        ({"kept_bytes": 524_287}, "twice queue_bytes"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits, reason):
    with pytest.raises(ValueError, match=reason):
        Limits(**limits)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"rooms": 1, "peers": 1, "peers_per_room": 1, "bans": 1, "queue_messages": 1},
        {"sizes": Sizes(message_bytes=131_072)},
        {"kept_bytes": 524_288},
        {"blip_seconds": 0},
        {"grace_seconds": 2, "blip_seconds": 2},
    ],
)
def test_limits_at_their_bounds_are_allowed(limits):
    assert Limits(**limits).relay_data is False


@given(st.integers(256, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_largest_message_can_wait_whatever_the_limits(message_bytes, more, still_more):
    limits = Limits(
        sizes=Sizes(message_bytes=message_bytes),
        queue_bytes=2 * message_bytes + more,
        kept_bytes=4 * message_bytes + 2 * more + still_more,
    )
    box = Mailbox(
        Budget(limits.kept_bytes),
        most=limits.queue_messages,
        most_bytes=limits.queue_bytes,
        seconds=limits.queue_seconds,
    )
    assert box.queue(b"x" * message_bytes, now=0)


def test_a_welcome_has_room_for_everybody_and_for_what_waited():
    limits = Limits(peers_per_room=3, sizes=Sizes(metadata_bytes=100), queue_bytes=200_000)
    assert limits.welcome_bytes == 3 * (100 + INFO_BYTES) + 200_000


@pytest.mark.parametrize(
    ("admission", "user"),
    [
        (Admission(), None),
        (Admission(is_known=True), None),
        (Admission(subject="address:192.0.2.1"), None),
        (Admission(subject="user:ann", is_known=True), "user:ann"),
    ],
)
def test_an_address_is_nobody_in_particular(admission, user):
    assert admission.user == user


def test_a_client_may_claim_and_relay_nothing_unless_it_is_said():
    admission = Admission()
    assert not admission.may_claim
    assert not admission.may_send_data
    assert not admission.is_known


def test_the_token_to_resume_with_is_not_shown():
    assert "s3cr3t" not in repr(Fresh("p1", "s3cr3t"))
