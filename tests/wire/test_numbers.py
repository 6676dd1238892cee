"""Whole numbers from clients: digits and nothing else, within bounds, of a bounded length."""

import pytest

from triocast.wire.numbers import parse_whole


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("10", 10),
        ("11", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.0", None),
        ("1_0", None),
        (" 1", None),
        ("\u0663", None),
        ("\u00b2", None),
        ("x", None),
        ("0" * 9_999 + "1", None),
        ("9" * 9_999, None),
    ],
)
def test_a_number_is_digits_within_bounds(text, number):
    assert parse_whole(text, most=10) == number


def test_a_number_can_have_a_lower_bound():
    assert parse_whole("0", least=1, most=10) is None
    assert parse_whole("1", least=1, most=10) == 1
