"""A repeated publish gets its first answer; another publish under the same key is refused."""

import time

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.documents import Write, at
from triocast.engines.idempotency import (
    RECORD_OVERHEAD,
    Record,
    Records,
    check_batch,
    fresh,
    place_of,
)
from triocast.engines.usage import Bounds, Usage
from triocast.errors import IdempotencyConflict
from triocast.events import Event, Once, Pending, Position, Publication


def event(key=None, digest=b"1", *, scope="ann", index=0):
    once = None if key is None else Once(scope, key, index, digest)
    return Event("T", b"1", "a", "2026-01-31T12:00:00.123Z", once=once)


def place(key, scope="ann", index=0):
    return (scope, key, index)


def test_an_event_is_recorded_by_publisher_key_and_index():
    assert place_of(Once("ann", "k", 3, b"1")) == ("ann", "k", 3)


class TestAnswer:
    def test_it_is_the_first_position_and_version(self):
        again = attrs.evolve(event("k"), key="d", write=Write(b"1", at(3)))
        answer = Record(b"1", seq=7, version=4, epoch="e").answer(again)
        assert isinstance(answer, Publication)
        assert (answer.position, answer.event.version) == (Position("e", 7), 4)
        assert answer.event.write is None

    def test_what_was_held_back_is_pending_again(self):
        answer = Record(b"1", seq=0, version=4).answer(event("k"))
        assert isinstance(answer, Pending)
        assert answer.event.version == 4


CASES = [
    # events, recorded digests, and the indexes of the events to publish, or None for a conflict
    ([event(), event()], {}, [0, 1]),
    ([event("k"), event("l")], {}, [0, 1]),
    ([event("k"), event("k"), event()], {}, [0, 2]),
    ([event("k"), event("k", b"2")], {}, None),
    ([event("k"), event("k", b"2", index=1), event("k", b"3", scope="bob")], {}, [0, 1, 2]),
    ([event("k"), event()], {place("k"): b"1"}, [1]),
    ([event(), event("k", b"2")], {place("k"): b"1"}, None),
    ([event("k"), event("k", b"2")], {place("k"): b"1"}, None),
    ([event("k", b"2")], {place("k", "bob"): b"1", place("k", index=1): b"1"}, [0]),
]


@pytest.mark.parametrize(("events", "known", "published"), CASES)
def test_a_key_publishes_one_event_once(events, known, published):
    if published is None:
        with pytest.raises(IdempotencyConflict, match="'k'"):
            check_batch(events, known)
    else:
        new = {place_of(e.once): e.once.digest for e in events if e.once is not None}
        assert check_batch(events, known) == {
            at: digest for at, digest in new.items() if at not in known
        }
        found = fresh(events, known)
        assert [id(event) for event in found] == [id(events[number]) for number in published]


@pytest.fixture
def clock(monkeypatch):
    """Return a list with the one number that is the time."""
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


class TestRecords:
    def test_what_was_accepted_is_known(self, clock):
        records = Records(seconds=60, bounds=Bounds())
        records.add(attrs.evolve(event("k"), version=4), 7, "e")
        records.add(event(), 8, "e")
        again = event("k", b"2")
        assert records.find(again) == Record(b"1", 7, 4, "e")
        assert records.digests([again, event("l"), event()]) == {place("k"): b"1"}
        assert records.find(event("k", scope="bob")) is None
        assert records.find(event()) is None

    def test_it_is_known_for_its_time(self, clock):
        records = Records(seconds=60, bounds=Bounds())
        for key in "kl":
            records.add(event(key), 1, "e")
            clock[0] += 30
        asked = [event("k"), event("l")]
        assert records.digests(asked) == {place("k"): b"1", place("l"): b"1"}
        clock[0] += 0.5
        assert records.digests(asked) == {place("l"): b"1"}
        assert records.find(asked[0]) is None
        records.add(asked[0], 2, "e")
        assert records.find(asked[0]) == Record(b"1", 2, None, "e")

    def test_nothing_is_known_where_it_is_off(self, clock):
        records = Records(seconds=0, bounds=Bounds())
        records.add(event("k"), 1, "e")
        assert records.digests([event("k")]) == {}
        assert records.find(event("k")) is None

    @pytest.mark.parametrize(
        "bounds", [Bounds(records=3), Bounds(record_bytes=3 * (4 + RECORD_OVERHEAD))]
    )
    def test_beyond_a_bound_the_oldest_go(self, clock, bounds):
        records = Records(seconds=60, bounds=bounds)
        for key in "abcde":
            records.add(event(key), 1, "e")
        assert [key for key in "abcde" if records.find(event(key))] == ["c", "d", "e"]
        assert records.usage == Usage(records=3, record_bytes=3 * (4 + RECORD_OVERHEAD))
        clock[0] += 61
        records.digests([])
        assert records.usage == Usage()


steps = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from([b"1", b"2"]), st.integers(0, 40))
)


@given(steps)
def test_each_key_is_accepted_once_per_window(steps):
    now = 0.0
    accepted: dict[str, tuple[float, bytes]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now)
        records = Records(seconds=60, bounds=Bounds())
        for seq, (key, digest, wait) in enumerate(steps, 1):
            now += wait
            asked = event(key, digest)
            since, first = accepted.get(key, (-100.0, b""))
            is_known = now - since <= 60
            known = records.digests([asked])
            if is_known and first != digest:
                with pytest.raises(IdempotencyConflict):
                    check_batch([asked], known)
                continue
            check_batch([asked], known)
            assert bool(fresh([asked], known)) is not is_known
            if not is_known:
                records.add(asked, seq, "e")
                accepted[key] = (now, digest)
