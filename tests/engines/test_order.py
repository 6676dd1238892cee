"""Publications in order: read from any place, forward and backward, and merged."""

from bisect import bisect_left, bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.engines import order as order_module
from triocast.engines.order import SEQ, Order, Queue, merge
from triocast.events import Event, Position, Publication


def publication(seq):
    event = Event("T", b"1", "a", "2026-01-31T12:00:00.123Z")
    return Publication(event, Position("e", seq), 0)


def seqs(publications):
    return [publication.seq for publication in publications]


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "MAX_PIECE", 3)
        yield


@given(st.lists(st.booleans()), st.integers(-1, 40))
def test_a_queue_agrees_with_a_list(steps, at):
    queue, model = Queue(), []
    for seq, is_added in enumerate(steps, 1):
        if is_added:
            queue.append(publication(seq))
            model.append(seq)
        elif model:
            assert queue.first.seq == model[0]
            assert queue.popleft().seq == model.pop(0)
        assert len(queue) == len(model)
    assert seqs(queue.forward(at)) == model[bisect_right(model, at) :]
    assert seqs(queue.backward(at)) == model[: bisect_left(model, at)][::-1]


# What happens to an order: an event comes, any one goes, the oldest is taken, or what is up to some
# seq is known to have gone.
steps = st.lists(
    st.just(("append", 0))
    | st.tuples(st.sampled_from(["append", "drop", "popleft", "trim"]), st.integers(0, 60)),
    max_size=120,
)


@given(steps, st.integers(-1, 130))
def test_an_order_has_all_that_is_not_gone(steps, at):
    kept: set[int] = set()
    order = Order(lambda publication: publication.seq in kept)
    for seq, (step, number) in enumerate(steps, 1):
        match step:
            case "append":
                kept.add(seq)
                order.append(publication(seq), len(kept))
            case "drop":
                kept.discard(number)
            case "popleft" if kept:
                oldest = order.popleft().seq
                assert oldest <= min(kept)
                kept.discard(oldest)
            case "trim":
                kept -= set(range(number + 1))
                order.trim(number)
    forward, backward = seqs(order.forward(at)), seqs(order.backward(at))
    assert forward == sorted(set(forward))
    assert backward == sorted(set(backward), reverse=True)
    assert [seq for seq in forward if seq in kept] == sorted(seq for seq in kept if seq > at)
    assert [s for s in backward if s in kept] == sorted((s for s in kept if s < at), reverse=True)
    assert all(seq > at for seq in forward)
    assert all(seq < at for seq in backward)


def test_what_is_gone_does_not_add_up():
    kept: set[int] = set()
    order = Order(lambda publication: publication.seq in kept)
    for seq in range(1, 10_001):
        kept.add(seq)
        order.append(publication(seq), len(kept))
        if seq % 100:  # Some stay for ever, between those that go.
            kept.discard(seq - 3)
        assert len(list(order._pieces)) <= len(kept) + 10
    assert order.count <= 3 * len(kept)
    assert [seq for seq in seqs(order.forward(0)) if seq in kept] == sorted(kept)


def test_a_reader_finds_its_place_again():
    """What is read may change after each publication."""
    kept = set(range(1, 41))
    order = Order(lambda publication: publication.seq in kept)
    for seq in range(1, 41):
        order.append(publication(seq), 0)
    found = []
    for each in order.forward(0):
        found.append(each.seq)
        kept -= {each.seq, each.seq + 7}
        if len(found) < 30:
            kept.add(40 + len(found))
            order.append(publication(40 + len(found)), len(kept))
    assert found == sorted(set(found))
    assert kept - set(found) == set()


@given(st.lists(st.lists(st.integers(0, 30) | st.none())), st.booleans())
def test_sources_are_merged_in_one_order_each_once(sources, newest):
    def ordered(source):
        places = iter(sorted({n for n in source if n is not None}, reverse=newest))
        return [None if n is None else next(places, None) for n in source]

    sources = [ordered(source) for source in sources]
    merged = list(merge(map(iter, sources), lambda n: n, newest=newest))
    everything = {n for source in sources for n in source if n is not None}
    assert [n for n in merged if n is not None] == sorted(everything, reverse=newest)
    # Work that finds nothing is told of as it is done.
    assert merged.count(None) == sum(source.count(None) for source in sources)


def test_no_source_is_read_further_than_what_is_taken():
    read = []

    def source(first):
        for number in range(first, 100, 2):
            read.append(number)
            yield number

    merged = merge([source(1), source(2)], lambda n: n, newest=False)
    assert [next(merged) for _ in range(4)] == [1, 2, 3, 4]
    assert len(read) <= 6


def test_seq_is_what_a_publication_has():
    assert SEQ(publication(7)) == 7
