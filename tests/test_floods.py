"""What only makes work is counted, and what carries data is not."""

import pytest

from triocast.floods import (
    FREE_FRAGMENTS,
    MAX_UNITS,
    MIN_DATA_BYTES,
    UNITS_PER_SECOND,
    FloodLimiter,
    fragment_units,
)


def test_a_client_has_so_many_units_at_once():
    limiter = FloodLimiter(now=5.0)
    assert all(limiter.spend(1, 5.0) for _ in range(MAX_UNITS))
    assert not limiter.spend(1, 5.0)


def test_units_come_back_with_time_and_do_not_add_up_beyond_the_bound():
    limiter = FloodLimiter(now=0.0)
    assert limiter.spend(MAX_UNITS, 0.0)
    assert limiter.spend(UNITS_PER_SECOND, 1.0)
    assert not limiter.spend(1, 1.0)
    assert limiter.spend(MAX_UNITS, 1_000.0)
    assert not limiter.spend(1, 1_000.0)


def test_a_client_that_pings_every_second_never_comes_near_the_bound():
    limiter = FloodLimiter(now=0.0)
    assert all(limiter.spend(1, second) for second in range(100_000))
    assert limiter.spend(MAX_UNITS, 100_000)


def test_units_are_given_back_up_to_the_bound():
    limiter = FloodLimiter(now=0.0)
    limiter.give_back(MAX_UNITS)
    assert limiter.spend(MAX_UNITS, 0.0)
    assert not limiter.spend(1, 0.0)
    limiter.give_back(2)
    assert limiter.spend(1, 0.0)
    assert not limiter.spend(1, 0.0)


@pytest.mark.parametrize(
    ("number", "size", "units"),
    [
        (1, 0, 0),
        (FREE_FRAGMENTS, 0, 0),
        (FREE_FRAGMENTS + 1, 0, 1),
        (FREE_FRAGMENTS + 1, MIN_DATA_BYTES - 1, 1),
        (FREE_FRAGMENTS + 1, MIN_DATA_BYTES, 0),
        (10_000, MIN_DATA_BYTES, 0),
    ],
)
def test_small_fragments_count_if_a_message_has_many_of_them(number, size, units):
    assert fragment_units(number, size) == units
