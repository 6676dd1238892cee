"""An outbox at its bound: what each policy takes out, keeps, counts and tells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.events import Event, Position, Publication
from triocast.outbox import LEAST_FOR_LOSSES, Entry, Loss, Outbox, Overflow, rest_of
from triocast.resume import GapReason
from triocast.settings import Namespace, Namespaces

BOUND = 1_000
NAMESPACES = Namespaces({"l": Namespace(overflow="latest"), "d": Namespace(overflow="drop")})
EVERYTHING = 10**9


@pytest.fixture
def overflow():
    return Overflow(NAMESPACES)


@pytest.fixture
def outbox(overflow):
    return Outbox(overflow, BOUND)


def event(seq, channel, key=None):
    return Publication(Event("t", b"null", channel, "", key=key), Position("e", seq), 0)


def put(outbox, seq, channel, *, key=None, size=100):
    return outbox.put(b"x" * size, event(seq, channel, key))


def take(outbox, most=EVERYTHING):
    """Take and write all; return seqs, and (first, last, channels) of losses."""
    taken = outbox.take(most)
    outbox.written()
    return [
        (entry.first.seq, entry.last.seq, list(entry.channels))
        if isinstance(entry, Loss)
        else entry.seq
        for entry in taken
    ]


class TestDisconnect:
    def test_up_to_the_bound_all_is_kept(self, outbox, overflow):
        assert all(put(outbox, seq, "x", key="k") for seq in range(1, 11))
        assert outbox.bytes == BOUND
        assert take(outbox) == list(range(1, 11))
        assert (outbox.bytes, bool(outbox)) == (0, False)
        assert overflow.acts == {"disconnected": 0, "merged": 0, "dropped": 0}

    def test_beyond_it_the_client_is_too_slow(self, outbox):
        assert put(outbox, 1, "x", size=BOUND)
        assert not put(outbox, 2, "x", size=1)

    def test_what_is_being_written_counts_until_it_is_written(self, outbox):
        put(outbox, 1, "x", size=600)
        assert [entry.seq for entry in outbox.take(1)] == [1]
        assert outbox.bytes == 600
        outbox.written()
        assert outbox.bytes == 0

    def test_frames_of_the_protocol_have_no_other_policy(self, outbox):
        for _ in range(10):
            assert outbox.put(b"x" * 100)
        assert not outbox.put(b"x")


class TestLatest:
    def test_below_the_bound_nothing_is_merged(self, outbox):
        for seq in range(1, 11):
            assert put(outbox, seq, "l:a", key="k")
        assert take(outbox) == list(range(1, 11))

    def test_at_the_bound_the_newest_of_each_key_stays_in_its_place(self, outbox, overflow):
        for seq in range(1, 11):
            assert put(outbox, seq, "l:a", key="ab"[seq % 2])
        assert put(outbox, 11, "x")
        assert outbox.bytes == 300
        assert outbox.removed == overflow.acts["merged"] == 8
        assert take(outbox) == [9, 10, 11]

    def test_channels_have_keys_of_their_own(self, outbox):
        for seq in range(1, 11):
            put(outbox, seq, f"l:{seq % 5}", key="k")
        assert put(outbox, 11, "l:0", key="k")
        assert take(outbox) == [6, 7, 8, 9, 11]

    def test_without_a_key_nothing_is_merged(self, outbox):
        for seq in range(1, 11):
            assert put(outbox, seq, "l:a")
        assert not put(outbox, 11, "l:a")
        assert take(outbox) == list(range(1, 12))

    def test_keys_of_other_namespaces_are_not_merged(self, outbox):
        for seq in range(1, 11):
            put(outbox, seq, "x", key="k")
        assert not put(outbox, 11, "l:a", key="k")

    def test_what_is_being_written_stays(self, outbox):
        put(outbox, 1, "l:a", key="k", size=500)
        outbox.take(1)
        put(outbox, 2, "l:a", key="k", size=400)
        assert put(outbox, 3, "l:a", key="k", size=400)
        assert outbox.bytes == 900
        outbox.written()
        assert take(outbox) == [3]

    def test_what_is_half_written_stays(self, outbox):
        frames, publications = [b"a" * 300, b"b" * 300], [event(1, "l:a", "k"), event(2, "l:a")]
        frames, publications = rest_of(frames, publications, 100)
        for frame, publication in zip(frames, publications, strict=True):
            outbox.put(frame, publication)
        put(outbox, 3, "l:a", key="k", size=400)
        assert put(outbox, 4, "l:a", key="k", size=400)
        first, *others = outbox.take(EVERYTHING)
        assert bytes(first.frame) == b"a" * 200
        assert [entry.seq for entry in others] == [2, 4]

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["l:a", "l:b", "x", None, "take"]),
                st.sampled_from([None, "k", "m", "n"]),
                st.integers(1, 400),
            ),
            max_size=60,
        )
    )
    def test_the_newest_of_each_key_arrives_in_order_and_nothing_without_a_key_is_lost(self, steps):
        outbox = Outbox(Overflow(NAMESPACES), BOUND)
        put_in, got = [], []
        alive = True
        for seq, (channel, key, size) in enumerate(steps, 1):
            if channel == "take":
                got += outbox.take(size)
                outbox.written()
                continue
            publication = None if channel is None else event(seq, channel, key)
            entry = Entry(b"%d " % seq + b"x" * size, publication)
            before = outbox.bytes
            put_in.append(entry)
            alive = outbox.put(entry.frame, publication)
            assert alive == (outbox.bytes <= BOUND)
            if before + len(entry.frame) <= BOUND:
                assert outbox.bytes == before + len(entry.frame), "merged without need"
            if not alive:
                break
        rest = outbox.take(EVERYTHING)
        if not alive:  # all that could go is gone
            keys = [k for e in rest if (k := mergeable(e))]
            assert len(keys) == len(set(keys))
        got += rest
        outbox.written()
        assert outbox.bytes == 0
        order = {entry.frame: place for place, entry in enumerate(put_in)}
        places = [order[entry.frame] for entry in got]
        assert places == sorted(set(places))
        assert len(put_in) - len(got) == outbox.removed
        arrived = set(places)
        newest = {mergeable(entry): place for place, entry in enumerate(put_in)}
        for place, entry in enumerate(put_in):
            if mergeable(entry) is None or newest[mergeable(entry)] == place:
                assert place in arrived


def mergeable(entry):
    """The channel and key by which an entry may be superseded; None if it may not."""
    publication = entry.publication
    if publication is None or publication.event.key is None:
        return None
    channel = publication.event.channel
    return (channel, publication.event.key) if channel.startswith("l:") else None


class TestDrop:
    def test_at_the_bound_new_events_are_not_taken_and_a_loss_says_so(self, outbox, overflow):
        for seq in range(1, 21):
            assert put(outbox, seq, f"d:{seq % 2}")
        assert outbox.bytes <= BOUND + LEAST_FOR_LOSSES
        assert take(outbox) == [*range(1, 9), (9, 20, ["d:1", "d:0"])]
        assert outbox.removed == overflow.acts["dropped"] == 12
        assert overflow.acts["disconnected"] == 0

    def test_what_a_gap_says(self, outbox):
        for seq in (1, 5, 7, 9):
            put(outbox, seq, "d:a", size=500)
        _, loss = outbox.take(EVERYTHING)
        gap = loss.gap(loss.last)
        assert (gap.reason, gap.channels) == (GapReason.OVERFLOW, ("d:a",))
        assert (gap.start, gap.end) == (Position("e", 4), Position("e", 9))

    def test_once_something_is_lost_half_must_be_free_again(self, outbox):
        for seq in range(1, 11):
            put(outbox, seq, "d:a")
        assert take(outbox, 300) == [1, 2, 3]
        put(outbox, 11, "d:a")
        assert take(outbox, 400) == [4, 5, 6, 7]
        put(outbox, 12, "d:a")
        assert take(outbox) == [8, (9, 11, ["d:a"]), 12]

    def test_others_go_on_and_a_loss_is_told_before_what_is_newer(self, outbox):
        for seq in range(1, 11):
            put(outbox, seq, "d:a")
        assert put(outbox, 11, "x", size=50)
        put(outbox, 12, "d:a")
        assert take(outbox) == [*range(1, 9), (9, 10, ["d:a"]), 11, (12, 12, ["d:a"])]

    def test_others_disconnect_at_the_bound_all_the_same(self, outbox):
        for seq in range(1, 11):
            put(outbox, seq, "d:a")
        assert not put(outbox, 11, "x", size=300)

    def test_events_that_latest_may_take_out_go_before_anything_is_dropped(self, outbox):
        for seq in range(1, 9):
            put(outbox, seq, "l:a", key="k")
        put(outbox, 9, "d:a")
        assert take(outbox) == [8, 9]

    def test_an_event_as_large_as_the_outbox_is_taken_when_it_is_empty(self, outbox):
        assert put(outbox, 1, "d:a", size=BOUND)
        assert take(outbox) == [1]
        assert put(outbox, 2, "d:a", size=BOUND + 1)
        assert take(outbox) == [(2, 2, ["d:a"])]

    def test_however_long_it_lasts_the_memory_is_bounded(self, outbox):
        for seq in range(1, 100_000):
            assert put(outbox, seq, "d:a")
        assert outbox.bytes < BOUND + LEAST_FOR_LOSSES
        assert len(outbox.take(EVERYTHING)) == 9

    def test_too_many_channels_to_name_end_the_client(self, outbox):
        seqs = iter(range(1, 10_000))
        while put(outbox, seq := next(seqs), f"d:{seq}"):
            pass
        assert seq < 100
        assert outbox.bytes < BOUND + LEAST_FOR_LOSSES + 400

    def test_losses_that_nothing_stands_between_any_more_are_one(self, outbox):
        put(outbox, 1, "x", size=800)
        for seq in range(2, 1_000, 2):
            assert put(outbox, seq, "l:a", key="k", size=50)
            assert put(outbox, seq + 1, "d:a", size=100)
        first, *losses, state, last = take(outbox)
        assert (first, state, last) == (1, 998, (999, 999, ["d:a"]))
        assert (losses[0][0], losses[-1][1]) == (3, 997)
        assert len(losses) < 40

    def test_many_gaps_are_bounded_too(self, outbox):
        put(outbox, 1, "x", size=900)
        seqs = iter(range(2, 10_000))
        while put(outbox, seq := next(seqs), "d:a") and outbox.put(b""):
            pass
        assert seq < 100
        assert outbox.bytes < BOUND + LEAST_FOR_LOSSES + 400

    @given(
        st.lists(
            st.tuples(st.sampled_from(["d:a", "d:b", "x", "take"]), st.integers(1, 400)),
            max_size=60,
        )
    )
    def test_every_position_is_true(self, steps):
        """What is not above a position was given or told, and told before newer events."""
        outbox = Outbox(Overflow(NAMESPACES), BOUND)
        channels = {}
        got = []
        alive = True
        for seq, (channel, size) in enumerate(steps, 1):
            if channel == "take":
                got += outbox.take(size)
                outbox.written()
                continue
            channels[seq] = channel
            alive = put(outbox, seq, channel, size=size)
            if not alive:
                break
        got += outbox.take(EVERYTHING)
        at = 0
        due = iter(sorted(channels))
        for entry in got:
            assert entry.seq > at
            if isinstance(entry, Loss):
                at = entry.last.seq
                lost = [next(due)]
                while lost[-1] < at:
                    lost.append(next(due))
                assert lost[0] == entry.first.seq
                assert {channels[seq] for seq in lost} == set(entry.channels)
                assert all(name.startswith("d:") for name in entry.channels)
            else:
                at = entry.seq
                assert next(due) == at
        assert next(due, None) is None


def test_what_is_held_is_taken_by_position(outbox):
    for seq in range(1, 12):
        put(outbox, seq, "d:a")
    put(outbox, 12, "x", size=50)
    taken = outbox.take_until(7, 100)
    assert [entry.seq for entry in taken] == [1, 2, 3, 4, 5, 6, 7]
    assert [entry.seq for entry in outbox.take_until(8, 100)] == [8]
    loss, newest = outbox.take_until(EVERYTHING, 100)
    assert (loss.first.seq, loss.last.seq, newest.seq) == (9, 11, 12)
    assert outbox.bytes == 0


@pytest.mark.parametrize(
    ("sent", "left"),
    [(0, [b"aaa", b"bb", b"c"]), (2, [b"a", b"bb", b"c"]), (3, [b"bb", b"c"]), (6, [])],
)
def test_the_rest_of_what_was_sent(sent, left):
    publications = [event(1, "x"), event(2, "x"), event(3, "x")]
    frames, theirs = rest_of([b"aaa", b"bb", b"c"], publications, sent)
    assert [bytes(frame) for frame in frames] == left
    assert len(theirs) == len(frames)
    assert (sent == 2) == (None in theirs)
