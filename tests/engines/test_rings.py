"""What the memory engine keeps: each read costs what it finds, whatever else is kept."""

from itertools import islice

import pytest

from triocast.engines import rings as rings_module
from triocast.engines.order import Order, Queue
from triocast.engines.retention import Keep, Retention
from triocast.engines.rings import SKIPS_PER_PAUSE, Rings, is_whole
from triocast.events import Event, Position

TIME = "2026-01-31T12:00:00.123Z"


class Kept:
    """Rings filled like the engine's, and how many publications readers looked at."""

    def __init__(self, monkeypatch, *, events=1_000, max_bytes=10**9):
        self.rings = Rings(retention=Retention(Keep(events)), max_bytes=max_bytes)
        self.seq = 0
        self.looks = 0
        for kind in (Queue, Order):
            for way in ("forward", "backward"):
                monkeypatch.setattr(kind, way, self._counting(getattr(kind, way)))

    def _counting(self, read):
        def counting(kept, at):
            for publication in read(kept, at):
                self.looks += 1
                yield publication

        return counting

    def add(self, *channels, key=None):
        for channel in channels:
            self.seq += 1
            self.rings.add(Event("T", b"1", channel, TIME, key), Position("e", self.seq))

    def read(self, *names, after=0, before=10**9, newest=False, limit=10**9):
        """Return the ``seq`` of what is read, and how many publications were looked at."""
        before_looks = self.looks
        items = self.rings.read(names, after=after, before=before, newest=newest)
        found = islice((item for item in items if item is not None), limit)
        return [item.seq for item in found], self.looks - before_looks


@pytest.fixture
def new(monkeypatch):
    return lambda **bounds: Kept(monkeypatch, **bounds)


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("noise", [1_000, 2_000])
@pytest.mark.parametrize("pattern", ["rare:*", "n:rare*", "ra*", "rare:1"])
def test_few_events_among_many_cost_what_they_are(new, noise, newest, pattern):
    kept = new()
    rare = ["rare:1", "rare:2", "n:rare1", "n:rare2", "rare"]
    kept.add(*rare, *[f"n:{i % 300}" for i in range(noise)], *[f"{i}" for i in range(noise)], *rare)
    found, looks = kept.read(pattern, newest=newest)
    assert 2 <= len(found) <= 4
    assert looks <= len(found) + 1


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("channels", [1_000, 2_000])
def test_a_page_of_a_pattern_costs_a_page_whatever_number_of_channels_there_is(
    new, channels, newest
):
    kept = new()
    kept.add(*[f"news:{i}" for i in range(channels)], *["other:a", "$all"] * 100)
    for pattern in ("news:*", "*"):
        whole, at = [], (10**9 if newest else 0)
        total = 0
        while True:
            bound = {"before": at} if newest else {"after": at}
            found, looks = kept.read(pattern, newest=newest, limit=50, **bound)
            if not found:
                break
            assert looks <= 2 * 50 + 101
            total += looks
            whole += found
            at = found[-1]
        assert len(whole) == channels + (100 if pattern == "*" else 0)
        assert total <= 2 * len(whole) + 400


def test_a_channel_is_read_from_where_a_reader_stands(new):
    kept = new()
    kept.add(*["a"] * 900)
    assert kept.read("a", after=890) == (list(range(891, 901)), 10)
    assert kept.read("a", before=11, newest=True) == (list(range(10, 0, -1)), 10)


def test_where_nothing_is_found_others_may_run(new):
    kept = new()
    kept.add(*[f"n:{i}" for i in range(1_000)], "$all")
    kept.add(*["$user:u"] * 1_000)
    pauses = list(kept.rings.read(["*"], after=1_000, before=10**9, newest=False))
    assert pauses == [None] * (1_001 // SKIPS_PER_PAUSE)


def test_a_pattern_of_many_channels_is_read_from_the_order_of_its_namespace(new, monkeypatch):
    for seeks in (0, 100):
        monkeypatch.setattr(rings_module, "MAX_SEEKS", seeks)
        kept = new()
        kept.add(*[f"n:{'ab'[i % 2]}{i}" for i in range(20)] * 2, "m:a1")
        found, _ = kept.read("n:a*", "n:b1*", "n:a2")
        expected = [i + 1 for i in range(40) if i % 2 == 0 or f"b{i % 20}".startswith("b1")]
        assert found == expected


def test_what_is_dropped_is_not_found(new):
    kept = new(events=1)
    kept.add(*["n:a", "n:b"] * 5, "n:c")
    for names in (["n:*"], ["*"], ["n:a", "n:b", "n:c"]):
        assert kept.read(*names)[0] == [9, 10, 11]
        assert kept.read(*names, newest=True)[0] == [11, 10, 9]


def test_the_newest_of_each_key_are_found_without_the_others(new):
    kept = new(events=50)
    for round in range(200):
        kept.add("n:a", key="k")
        kept.add("n:a", key=("l", None)[round % 2])
    assert kept.looks == 0
    (ring,) = kept.rings.covered(["n:*", "*", "n:a", "m:a"])
    assert sorted(p.seq for p in ring.newest()) == [398, 399, 400]
    for _ in range(50):
        kept.add("n:a", key="m")
    assert [p.seq for p in ring.newest()] == [450]


def test_the_servers_own_channels_are_in_no_pattern(new):
    kept = new()
    kept.add("$all", "$user:a", "a", "n:a")
    assert kept.read("*")[0] == [3, 4]
    assert {ring.channel for ring in kept.rings.covered(["*"])} == {"a", "n:a"}
    assert kept.rings.floor("*", 0) == 0


@pytest.mark.parametrize(
    ("scope", "prefix", "whole"),
    [("n", "n:", True), ("default", "", True), ("n", "n:a", False), ("default", "d", False)],
)
def test_a_pattern_of_a_whole_namespace_is_known(scope, prefix, whole):
    assert is_whole(scope, prefix) is whole
