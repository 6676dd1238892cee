"""The channels of a store, in memory: which names cover them, and their floors."""

import pytest

from triocast.engines.retention import Keep, Retention
from triocast.engines.sqlite.channels import Channels
from triocast.engines.sqlite.rows import Channel

RULES = Retention(Keep(9), {"n": Keep(5)})


@pytest.fixture
def channels():
    """Return loaded channels with the ids 1, 2, 3... and the floors 10, 20, 30..."""
    names = ("a", "n:a", "n:ab", "m:a", "$all", "$user:u")
    loaded = [Channel(n, name, 10 * n, 100 + n, RULES.of(name)) for n, name in enumerate(names, 1)]
    return Channels(loaded, {"default": 7, "n": 25, "gone": 45, "$user": 99}, RULES)


def test_a_new_channel_has_the_floor_and_the_retention_of_its_namespace(channels):
    channel = channels.add("n:new")
    assert (channel.floor, channel.last, channel.keep) == (25, 25, Keep(5))
    assert (channel.count, channel.size) == (0, 0)
    assert channels.get("n:new") is channels.by_id[channel.id] is channel
    assert channels.add("x:new").floor == 0


def test_an_id_is_never_reused(channels):
    before = set(channels.by_id)
    first = channels.add("new")
    channels.discard(first)
    assert channels.get("new") is None
    assert set(channels.by_id) == before
    second = channels.add("new")
    assert second.id not in {*before, first.id}


def test_an_empty_store_begins_with_id_1_and_floor_0():
    channels = Channels((), {}, RULES)
    assert channels.floor("a") == channels.floor("*") == 0
    assert channels.add("a").id == 1


def test_a_forgotten_channel_continues_from_its_last_event(channels):
    channel = channels.get("n:a")
    channels.forget(channel)
    assert channels.get("n:a") is None
    assert channels.floor("n:a") == channels.floor("n:never") == channel.last
    again = channels.add("n:a")
    assert (again.floor, again.last) == (channel.last, channel.last)


def test_the_floor_of_a_namespace_never_falls(channels):
    channels.forget(channels.get("n:ab"))
    channels.forget(channels.get("n:a"))
    assert channels.floor("n:never") == 103


@pytest.mark.parametrize(
    ("names", "covered"),
    [
        ([], []),
        (["a", "nobody", "n:a", "a"], ["a", "n:a"]),
        (["n:*"], ["n:a", "n:ab"]),
        (["n:a", "n:a*", "$all"], ["n:a", "n:ab", "$all"]),
        (["*"], ["a", "n:a", "n:ab", "m:a"]),
        (["none:*"], []),
    ],
)
def test_names_and_patterns_cover_each_channel_once(channels, names, covered):
    assert [channel.name for channel in channels.covered(names)] == covered


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("a", 10),
        ("never", 7),
        ("n:ab", 30),
        ("n:never", 25),
        ("x:never", 0),
        ("$user:u", 60),
        ("$user:v", 99),
        ("a*", 10),
        ("b*", 7),
        ("n:*", 30),
        ("n:b*", 25),
        ("x:*", 0),
        ("*", 45),
    ],
)
def test_the_floor_of_a_name_is_the_highest_floor_that_it_covers(channels, name, floor):
    assert channels.floor(name) == floor
