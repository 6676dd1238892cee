"""A channel is kept by the rule of its namespace, or else by the usual rule."""

import pytest

from triocast.engines.retention import Keep, Retention

USUAL = Keep(100)
RULES = {
    "news": Keep(5),
    "default": Keep(6),
    "$all": Keep(7),
    "$user": Keep(8),
    "$presence": Keep(9),
}


@pytest.mark.parametrize(
    ("channel", "keep"),
    [
        ("news:a", Keep(5)),
        ("news:a:b", Keep(5)),
        ("newspaper:a", USUAL),
        ("news", Keep(6)),
        ("$all", Keep(7)),
        ("$user:ann", Keep(8)),
        ("$presence:news:a", Keep(9)),
        ("$conn:x", USUAL),
    ],
)
def test_a_channel_has_the_rule_of_its_namespace(channel, keep):
    assert Retention(USUAL, RULES).of(channel) == keep
    assert Retention(USUAL).of(channel) == USUAL


@pytest.mark.parametrize(
    ("usual", "namespaces", "by_age"),
    [
        (Keep(1), {}, False),
        (Keep(1, 60), {}, True),
        (Keep(1), {"a": Keep(1), "b": Keep(1, 60)}, True),
        (Keep(1), {"a": Keep(1, size=60)}, False),
    ],
)
def test_by_age_says_whether_any_rule_has_an_age(usual, namespaces, by_age):
    assert Retention(usual, namespaces).by_age is by_age


def test_later_changes_of_the_mapping_have_no_effect():
    rules = dict(RULES)
    retention = Retention(USUAL, rules)
    rules["news"] = Keep(0)
    assert retention.of("news:a") == Keep(5)
