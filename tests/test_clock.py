from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast import clock


def test_it_is_now():
    before = datetime.now(UTC)
    written = datetime.fromisoformat(clock.timestamp())
    assert before - timedelta(milliseconds=1) <= written <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_769_861_520_007_999_999, "2026-01-31T12:12:00.007Z"),
        (1_769_861_520_999_999_999, "2026-01-31T12:12:00.999Z"),
    ],
)
def test_it_has_milliseconds_and_is_never_ahead(monkeypatch, nanoseconds, text):
    monkeypatch.setattr(clock.time, "time_ns", lambda: nanoseconds)
    assert clock.timestamp() == text


@given(st.lists(st.integers(0, 4_000_000_000_000), min_size=1, max_size=5))
def test_each_moment_has_its_own_text(moments):
    for moment in moments:
        exact = datetime.fromtimestamp(moment // 1000, UTC) + timedelta(milliseconds=moment % 1000)
        assert clock._written(moment) == exact.isoformat(timespec="milliseconds")[:-6] + "Z"


def test_what_happens_very_often_is_logged_seldom_and_counted():
    seldom = clock.Seldom(10)
    assert [seldom.count(now) for now in (100, 101, 109, 110, 111, 130)] == [1, 0, 0, 3, 0, 2]
