"""A ban keeps one subject out of one room until it ends, and only so many are remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling.bans import Bans


def test_a_ban_is_of_one_subject_in_one_room() -> None:
    bans = Bans(10)
    bans.add("r", "ann", until=5, now=0)
    assert bans.until("r", "ann", now=0) == 5
    assert bans.until("r", "bob", now=0) is None
    assert bans.until("s", "ann", now=0) is None


def test_a_ban_ends_at_its_time() -> None:
    bans = Bans(10)
    bans.add("r", "ann", until=5, now=0)
    assert bans.until("r", "ann", now=4.9) == 5
    assert bans.until("r", "ann", now=5) is None


@pytest.mark.parametrize("until", [3, 9])
def test_a_later_ban_of_the_same_subject_replaces_the_earlier_one(until: float) -> None:
    bans = Bans(10)
    bans.add("r", "ann", until=5, now=0)
    bans.add("r", "ann", until=until, now=0)
    assert bans.until("r", "ann", now=0) == until
    assert len(bans) == 1


def test_a_ban_is_lifted() -> None:
    bans = Bans(10)
    bans.add("r", "ann", until=5, now=0)
    bans.remove("r", "ann")
    bans.remove("r", "nobody")
    assert bans.until("r", "ann", now=0) is None
    assert len(bans) == 0


def test_bans_that_have_ended_are_forgotten() -> None:
    bans = Bans(10)
    for subject, until in (("ann", 5), ("bob", 6), ("eve", 7)):
        bans.add("r", subject, until=until, now=0)
    bans.forget_old(6)
    assert len(bans) == 1
    assert bans.until("r", "eve", now=6) == 7


def test_beyond_the_bound_what_has_ended_goes_first_and_then_what_ends_first() -> None:
    bans = Bans(2)
    bans.add("r", "ann", until=5, now=0)
    bans.add("r", "bob", until=9, now=0)
    bans.add("r", "eve", until=8, now=5)
    assert bans.until("r", "bob", now=5) == 9
    assert bans.until("r", "eve", now=5) == 8
    bans.add("r", "zoe", until=7, now=5)
    assert bans.until("r", "zoe", now=5) is None
    assert len(bans) == 2


def test_all_that_have_ended_go_when_the_bound_is_reached() -> None:
    bans = Bans(3)
    for subject, until in (("ann", 1), ("bob", 2), ("eve", 9), ("zoe", 9)):
        bans.add("r", subject, until=until, now=0 if until < 9 else 5)
    assert len(bans) == 2


STEPS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([0, 1, 3]), st.integers(0, 10), st.booleans()),
    max_size=40,
)


@given(STEPS, st.integers(1, 4))
def test_within_the_bound_no_ban_is_lost_and_beyond_it_none_is_made_up(
    steps: list[tuple[int, int, int, bool]], most: int
) -> None:
    bans, truth, now, may_be_missing = Bans(most), dict[str, int](), 0, False
    for number, passed, seconds, is_lifted in steps:
        now += passed
        subject = f"user{number}"
        if is_lifted:
            bans.remove("r", subject)
            truth.pop(subject, None)
        else:
            bans.add("r", subject, until=now + seconds, now=now)
            truth[subject] = now + seconds
        truth = {name: until for name, until in truth.items() if until > now}
        may_be_missing = may_be_missing or len(truth) > most
        assert len(bans) <= most
        found = {name: bans.until("r", name, now=now) for name in truth}
        assert all(found[name] in (truth[name], None) for name in truth)
        if not may_be_missing:
            assert found == truth
