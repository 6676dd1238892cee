"""The channels of a store, in memory: which names cover them, and their floors."""

import pytest

from triocast.engines.retention import Keep, Retention
from triocast.engines.sqlite.channels import MAX_SEEKS, Channels, Source
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


SPACES = {"default": 3, "m": 4, "n": 5}
"""The numbers of namespaces: they are numbered as their channels come, in order."""


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        ([], []),
        (["a", "nobody", "n:a", "a"], [Source(channel=1), Source(channel=2)]),
        (["n:a", "n:a*", "$all"], [Source(channel=2), Source(channel=3), Source(channel=5)]),
        (["n:*"], [Source(namespace=SPACES["n"])]),
        (["default:*", "*"], [Source(namespace=SPACES[n]) for n in ("default", "m", "n")]),
        (["none:*", "b*", "n:b*"], []),
    ],
)
def test_events_are_looked_for_where_there_may_be_some(channels, names, sources):
    assert channels.sources(names, after=0) == sources


def test_nothing_is_looked_for_in_channels_that_were_quiet_since(channels):
    names = ["a", "n:a", "n:a*", "m:a*"]
    assert channels.sources(names, after=102) == [Source(channel=3), Source(channel=4)]
    assert channels.sources(names, after=200) == []


@pytest.mark.parametrize(("count", "sources"), [(MAX_SEEKS, MAX_SEEKS), (MAX_SEEKS + 1, 1)])
def test_few_namespaces_are_looked_for_one_by_one(count, sources):
    channels = Channels((), {}, RULES)
    for number in range(count):
        channels.add(f"n{number}:x")
    found = channels.sources(["*"], after=0)
    assert len(found) == sources
    assert (found == [Source()]) is (sources == 1)


def test_a_prefix_of_many_channels_is_looked_for_in_its_namespace():
    channels = Channels((), {}, RULES)
    for number in range(MAX_SEEKS + 1):
        channels.add(f"n:a{number}").last = 1
    assert channels.sources(["n:a*"], after=0) == [Source(namespace=1, prefix="n:a")]
    channels.discard(channels.get("n:a1"))
    assert all(source.channel for source in channels.sources(["n:a*"], after=0))


def test_a_namespaces_number_is_never_reused(channels):
    first = channels.add("x:a")
    channels.discard(first)
    assert channels.add("y:a").namespace not in {0, first.namespace}
    assert channels.add("n:z").namespace == channels.get("n:a").namespace


def test_floors_of_patterns_follow_those_of_their_channels(channels):
    channels.get("n:ab").raise_floor(70)
    channels.get("$all").raise_floor(90)
    names = ("n:*", "n:a*", "n:b*", "*", "m:*", "a*")
    assert [channels.floor(name) for name in names] == [70, 70, 25, 70, 40, 10]
    # Where nobody asks for what is below, any number will do.
    assert channels.floor("n:b*", 80) <= 80


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
