"""Windows of events that come too fast: what is accepted, when, and in which order."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.engines import debounce as windows
from triocast.engines.debounce import Debounce
from triocast.events import Event


def event(data, *, channel="a", type="T", key="k", **fields):
    return Event(type, b"%d" % data, channel, "2026-01-31T12:00:00.123Z", key=key, **fields)


def numbers(events):
    return [int(event.data) for event in events]


class Play:
    """Events with the times at which they come, and what is accepted."""

    def __init__(self, **namespaces):
        self.debounce = Debounce(1.0, namespaces)
        self.now = 100.0
        self.accepted = []

    def wait(self, seconds):
        """Let time pass; what is due on the way is accepted when it is."""
        end = self.now + seconds
        while self.debounce.next_due <= end:
            self.now = max(self.now, self.debounce.next_due)
            self._take(self.debounce.due(self.now))
        self.now = end

    def publish(self, event):
        self._take(self.debounce.add(event, self.now))
        return self

    def _take(self, events):
        self.accepted += [(self.now, event) for event in events]
        self.debounce.settle()

    @property
    def numbers(self):
        return numbers(event for _, event in self.accepted)


class TestOneSlot:
    def test_the_first_goes_at_once_and_of_the_others_the_last_at_the_end(self):
        play = Play()
        for n in range(1, 5):
            play.publish(event(n))
            play.wait(0.2)
        assert play.numbers == [1]
        assert play.debounce.next_due == 101.0
        play.wait(1)
        assert play.numbers == [1, 4]
        assert play.debounce.merged == 2

    def test_of_many_windows_that_end_together_some_are_released_at_a_time(self):
        play, count = Play(), 3 * windows.MAX_RELEASED
        for n in range(count):
            play.publish(event(n, key=f"{n}")).publish(event(count + n, key=f"{n}"))
        found = []
        while play.debounce.next_due <= 101.0:
            some = play.debounce.due(101.0)
            assert 0 < len(some) <= windows.MAX_RELEASED
            found += numbers(some)
        assert found == list(range(count, 2 * count))

    def test_a_window_with_nothing_held_just_ends(self):
        play = Play()
        play.publish(event(1)).wait(1)
        play.publish(event(2)).wait(0)
        assert play.numbers == [1, 2]
        assert play.debounce.merged == 0

    def test_a_release_begins_the_next_window(self):
        play = Play()
        play.publish(event(1)).publish(event(2)).wait(1.1)
        play.publish(event(3)).wait(0.8)
        assert play.numbers == [1, 2]
        play.wait(0.2)
        assert play.numbers == [1, 2, 3]

    @pytest.mark.parametrize("other", [{"channel": "b"}, {"type": "U"}, {"key": "l"}])
    def test_another_channel_type_or_key_has_a_window_of_its_own(self, other):
        play = Play()
        play.publish(event(1)).publish(event(2, **other))
        assert play.numbers == [1, 2]

    @pytest.mark.parametrize("urgent", [False, True])
    def test_events_without_a_key_are_never_merged(self, urgent):
        play = Play()
        for n in range(5):
            play.publish(event(n, key=None, urgent=urgent))
        assert play.numbers == [0, 1, 2, 3, 4]
        assert play.debounce.next_due == math.inf
        assert play.debounce.merged == 0

    def test_where_nothing_is_debounced_everything_goes(self):
        play = Play(chat=0)
        for channel in ("chat:x", "$user:alice", "$conn:x"):
            play.publish(event(1, channel=channel)).publish(event(1, channel=channel))
        assert play.numbers == [1] * 6
        play.publish(event(2, channel="$all")).publish(event(3, channel="$all"))
        assert play.numbers == [1] * 6 + [2]


class TestUrgent:
    def test_it_goes_at_once_and_nothing_held_comes_after_it(self):
        play = Play()
        play.publish(event(1, type="ON")).publish(event(2, type="ON"))
        play.publish(event(3, type="OFF", urgent=True)).wait(9)
        assert play.numbers == [1, 3]
        assert play.debounce.merged == 1

    def test_others_are_not_touched(self):
        play = Play()
        play.publish(event(1)).publish(event(2)).publish(event(3, key="l", urgent=True)).wait(9)
        assert play.numbers == [1, 3, 2]

    def test_it_begins_a_window(self):
        play = Play()
        play.publish(event(1, urgent=True)).publish(event(2)).publish(event(3, urgent=True))
        assert play.numbers == [1, 3]


class TestOrder:
    def test_what_is_held_goes_before_a_later_event_of_its_key(self):
        play = Play()
        play.publish(event(1, type="ON")).publish(event(2, type="ON"))
        play.publish(event(3, type="OFF"))
        assert play.numbers == [1, 2, 3]

    def test_what_is_held_goes_before_what_was_held_later(self):
        play = Play()
        play.publish(event(1, type="OFF"))
        play.wait(0.5)
        play.publish(event(2, type="ON")).publish(event(3, type="ON")).publish(event(4, type="OFF"))
        # The window of OFF ends first.
        play.wait(0.5)
        assert play.numbers == [1, 2, 3, 4]


class TestDocuments:
    @pytest.mark.parametrize("later", [{}, {"urgent": True}, {"type": "U", "urgent": True}])
    def test_another_event_does_not_take_the_place_of_a_version(self, later):
        play = Play()
        play.publish(event(1)).publish(event(2, version=7)).publish(event(3, **later)).wait(9)
        assert play.numbers == [1, 2, 3]
        assert play.debounce.merged == 0

    @pytest.mark.parametrize("later", [{}, {"urgent": True}, {"type": "U", "urgent": True}])
    def test_a_newer_version_does(self, later):
        play = Play()
        play.publish(event(1)).publish(event(2, version=7))
        play.publish(event(3, version=8, **later)).wait(9)
        assert play.numbers == [1, 3]
        assert play.debounce.merged == 1

    def test_an_urgent_event_drops_the_others_all_the_same(self):
        play = Play()
        for type in ("T", "U", "V"):
            play.publish(event(1, type=type))
        play.publish(event(2)).publish(event(3, type="U", version=7)).publish(event(4, type="V"))
        play.publish(event(5, urgent=True)).wait(9)
        assert play.numbers == [1, 1, 1, 3, 5]


class TestBounds:
    def test_beyond_so_many_windows_nothing_is_held(self, monkeypatch):
        monkeypatch.setattr(windows, "MOST_WINDOWS", 1)
        play = Play()
        for n in range(4):
            play.publish(event(n, key=f"{n % 2}"))
        assert play.numbers == [0, 1, 3]

    def test_beyond_so_many_bytes_nothing_is_held(self, monkeypatch):
        monkeypatch.setattr(windows, "MOST_HELD_BYTES", windows.EVENT_OVERHEAD)
        play = Play()
        play.publish(event(1)).publish(event(2)).publish(event(3, key="l"))
        play.publish(event(4, key="l")).publish(event(5))
        play.wait(9)
        # 2 was superseded by 5, which there was no room for either.
        assert play.numbers == [1, 3, 4, 5]

    def test_its_notes_do_not_grow_with_the_events(self):
        play = Play()
        for n in range(20_000):
            play.publish(event(n, urgent=n % 3 == 0))
        debounce = play.debounce
        assert len(debounce._ends) + len(debounce._due) < 5_000
        play.wait(9)
        assert play.numbers[-1] == 19_999
        debounce.due(play.now)
        assert not debounce._windows


class TestKeeping:
    def test_what_is_restored_comes_as_a_whole(self):
        """Before anything else, whatever number there is."""
        debounce, count = Debounce(1.0), 2 * windows.MAX_RELEASED
        debounce.restore([(n, event(n, key=f"{n}")) for n in range(1, count)])
        assert numbers(debounce.due(0.0)) == list(range(1, count))

    def test_what_is_restored_is_due_at_once_in_its_order(self):
        debounce = Debounce(1.0)
        debounce.restore([(7, event(1, type="ON")), (9, event(2, type="OFF")), (12, event(3))])
        assert debounce.next_due == -math.inf
        assert numbers(debounce.due(0.0)) == [1, 2, 3]
        assert [change.removed for change in debounce.changes()] == [7, 9, 12]
        assert debounce.next_due == math.inf

    def test_a_new_event_does_not_overtake_what_was_restored(self):
        debounce = Debounce(1.0)
        debounce.restore([(7, event(1, type="ON"))])
        assert numbers(debounce.add(event(2, type="OFF"), 0.0)) == [1, 2]

    def test_changes_tell_what_is_held(self):
        debounce = Debounce(1.0)
        debounce.add(event(1), 0.0)
        assert list(debounce.changes()) == []
        debounce.add(event(2), 0.0)
        (first,) = debounce.changes()
        assert (first.removed, first.event) == (None, event(2))
        debounce.settle()
        debounce.add(event(3), 0.0)
        (second,) = debounce.changes()
        assert (second.removed, second.event) == (first.added, event(3))

    def test_what_a_channel_holds_can_be_forgotten(self):
        play = Play()
        play.publish(event(1)).publish(event(2))
        play.publish(event(3, channel="b")).publish(event(4, channel="b"))
        assert play.debounce.forget(["a", "c"]) == 1
        play.wait(9)
        assert play.numbers == [1, 3, 4]


steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.3, 0.7, 1.0, 2.5]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["T", "U", "V"]),
        st.sampled_from(["k", "l", None]),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=40,
)


def play_through(script):
    play = Play()
    published = []
    for number, (seconds, channel, type, key, urgent) in enumerate(script):
        play.wait(seconds)
        published.append(event(number, channel=channel, type=type, key=key, urgent=urgent))
        play.publish(published[-1])
    play.wait(10)
    return play, published


@given(steps)
def test_the_last_state_arrives_in_order(script):
    play, published = play_through(script)
    assert len(play.numbers) + play.debounce.merged == len(published)
    for channel in ("a", "b"):
        for key in ("k", "l", None):
            ours = [e for e in published if (e.channel, e.key) == (channel, key)]
            accepted = [e for _, e in play.accepted if (e.channel, e.key) == (channel, key)]
            assert accepted[-1:] == ours[-1:]
            assert numbers(accepted) == sorted(numbers(accepted))
            assert all(e in accepted for e in ours if e.urgent or e.key is None)


@given(steps)
def test_one_type_goes_no_faster_than_its_windows(script):
    play, _ = play_through([(s, channel, "T", key, False) for s, channel, _, key, _ in script])
    for channel in ("a", "b"):
        for key in ("k", "l"):
            times = [t for t, e in play.accepted if (e.channel, e.key) == (channel, key)]
            assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(times))


@given(steps, steps, steps)
def test_what_is_undone_has_not_happened(before, undone, after):
    """One that undoes a batch goes on as one that never saw it."""
    plays = [play_through(before)[0], play_through(before)[0]]
    first = plays[0].debounce
    for number, (_, channel, type, key, urgent) in enumerate(undone):
        happening = event(number, channel=channel, type=type, key=key, urgent=urgent)
        first.add(happening, plays[0].now)
    first.due(plays[0].now + 0.5)
    first.undo()
    assert not list(first.changes())
    for play in plays:
        play.accepted.clear()
        for number, (seconds, channel, type, key, urgent) in enumerate(after):
            play.wait(seconds)
            play.publish(event(number, channel=channel, type=type, key=key, urgent=urgent))
        play.wait(10)
    assert plays[0].accepted == plays[1].accepted
    assert plays[0].debounce.merged == plays[1].debounce.merged
