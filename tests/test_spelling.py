"""What may have been meant by a name that is misspelt."""

import pytest

from triocast.spelling import MAX_NAME, nearest, unknown

NAMES = ["channel", "tag", "type", "last_event_id", "lastEventId", "SSE"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("chanel", "channel"),
        ("channels", "channel"),
        ("channel[]", "channel"),
        ("CHANNEL", "channel"),
        ("tags", "tag"),
        ("last-event-id", "last_event_id"),
        ("lasteventid", "lastEventId"),
        ("sse", "SSE"),
        ("wholly other", None),
        ("", None),
        ("[]", None),
        ("c" * 10_000, None),
    ],
)
def test_the_nearest_name_is_found(name, meant):
    assert nearest(name, NAMES) == meant


def test_it_is_said_what_was_meant_or_what_there_is():
    assert unknown("chanel", NAMES) == "'chanel' is not known here; did you mean 'channel'?"
    assert unknown("x", ["tag", "b"]) == "'x' is not known here; there are b, tag"
    assert unknown("x", []) == "'x' is not known here; there are none"
    assert len(unknown("x" * 10_000, [])) < MAX_NAME + 60
