"""Reading from a store: ranges of channels, the latest event of each key, and documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.documents import Write
from triocast.engines.documents import DOCUMENT_OVERHEAD
from triocast.engines.sqlite import channels, reading
from triocast.engines.sqlite.reading import (
    Range,
    read,
    read_document,
    read_document_channels,
    read_documents,
    read_latest,
)
from triocast.events import Event, pattern_matches

TIME = "2026-01-31T12:00:00.123Z"
CHANNELS = ("a", "b", "n:c")


def event(channel="a", data=b"1", **fields):
    return Event("T", data, channel, TIME, **fields)


def done(steps):
    """Return the answer of a read."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


events = st.builds(
    event,
    st.sampled_from(CHANNELS),
    st.binary(min_size=1, max_size=9),
    key=st.sampled_from([None, "k", "l", "\u00e9"]),
)
histories = st.lists(events, min_size=3, max_size=25)
NAMES = (*CHANNELS, "n:*", "n:c*", "default:*", "a*", "*", "none:*")
names = st.lists(st.sampled_from(NAMES), max_size=3).map(tuple)


def covered(names, channel):
    return any(pattern_matches(name, channel) for name in names)


@pytest.mark.parametrize("newest", [False, True], ids=["oldest", "newest"])
@pytest.mark.parametrize("seeks", [64, 0], ids=["few channels", "many channels"])
@given(
    history=histories,
    names=names,
    after=st.sampled_from([0, 0, 2, 5]),
    before=st.sampled_from([99, 99, 9, 4]),
    limit=st.sampled_from([0, 1, 2, 5, 99, 99]),
)
def test_a_range_matches_a_plain_list(
    new_store, new_tables, seeks, history, names, after, before, limit, newest
):
    with new_store() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(channels, "MAX_SEEKS", seeks)
        tables = new_tables(file.writer)
        published = tables.publish(*history)
        sources = tables.channels.sources(names, after=after)
        asked = Range(sources, after, before, limit, newest)
        found, complete, damage = done(read(file.readers[0], asked, "e", tables.channels.by_id))
        assert damage == []
    due = [p for p in published if covered(names, p.event.channel) and after < p.seq < before]
    assert found == (due[max(0, len(due) - limit) :] if newest else due[:limit])
    assert complete is (len(due) <= limit)


class TestCost:
    """What is read costs what is found, whatever else is in the store."""

    @pytest.fixture
    def cost(self, tables):
        """Count the instructions of SQLite that a read takes, in hundreds."""

        def cost(steps):
            taken = [0]

            def count():
                taken[0] += 1

            tables.db.set_progress_handler(count, 100)
            answer = done(steps)
            tables.db.set_progress_handler(None, 0)
            return answer, taken[0]

        return cost

    @pytest.fixture
    def read_page(self, tables, cost):
        def read_page(*names, after=0, limit=10, newest=False):
            sources = tables.channels.sources(names, after=after)
            asked = Range(sources, after, 10**9, limit, newest)
            (found, _, _), taken = cost(read(tables.db, asked, "e", tables.channels.by_id))
            return [publication.seq for publication in found], taken

        return read_page

    @pytest.mark.parametrize("newest", [False, True])
    @pytest.mark.parametrize("names", [["rare:*"], ["n:rare*"], ["rare:*", "n:rare*", "none:*"]])
    def test_few_events_among_many(self, tables, read_page, names, newest):
        rare = [event(c) for c in ("rare:1", "n:rare1", "rare:2", "n:rare2")]
        tables.publish(*rare)
        found, few = read_page(*names, newest=newest)
        for _ in range(2):
            tables.publish(*[event(f"n:{i % 150}") for i in range(1_000)], *[event()] * 1_000)
            tables.publish(event(f"rare:{len(found)}x"))
            again, many = read_page(*names, newest=newest)
            assert set(found) <= set(again)
            assert many <= few + 3
            assert len(again) <= len(found) + 2

    @pytest.mark.parametrize("newest", [False, True])
    @pytest.mark.parametrize("name", ["n:*", "n:x*", "*"])
    def test_a_page_of_many_channels(self, tables, read_page, name, newest):
        costs = []
        for round in range(3):
            tables.publish(*[event(f"n:x{round}-{i}") for i in range(500)])
            found, taken = read_page(name, newest=newest)
            assert len(found) == 10
            costs.append(taken)
        assert max(costs) <= costs[0] + 3

    def test_the_newest_of_a_key_whatever_number_came_before(self, tables, cost):
        costs = []
        for _ in range(3):
            tables.publish(*[event("a", key="k"), event("n:b", key="l"), event("x")] * 500)
            groups = tables.channels.groups(["a", "n:*"])
            (found, _), taken = cost(read_latest(tables.db, groups, "e", limit=9, limit_bytes=99))
            assert len(found) == 2
            costs.append(taken)
        assert max(costs) <= costs[0] + 3

    def test_a_state_beyond_its_limit_is_given_up_at_the_limit(self, tables, cost):
        costs = []
        for round in range(3):
            tables.publish(*[event("a", key=f"{round}-{i}") for i in range(500)])
            groups = tables.channels.groups(["a"])
            (found, _), taken = cost(read_latest(tables.db, groups, "e", limit=9, limit_bytes=99))
            assert found is None
            costs.append(taken)
        assert max(costs) <= costs[0] + 3

    def test_the_server_s_own_channels_are_passed_by(self, tables, cost):
        tables.publish(event("a"), *[event(f"$user:{i}") for i in range(1_000)], event("n:b"))
        groups = tables.channels.groups(["*"])
        (found, _), taken = cost(read_latest(tables.db, groups, "e", limit=9, limit_bytes=99))
        assert [publication.seq for publication in found] == [1, 1_002]
        assert taken <= 5

    def test_channels_with_documents_whatever_number_each_has(self, tables, cost):
        costs = []
        for round in range(3):
            puts = [event("d:a", key=f"{round}-{i}", write=Write(b"1")) for i in range(500)]
            tables.publish(*puts, event("d:b", key="k", write=Write(b"1")))
            found, taken = cost(read_document_channels(tables.db, "d:"))
            assert found == ("d:a", "d:b")
            costs.append(taken)
        assert max(costs) <= costs[0] + 3

    @pytest.mark.parametrize("names", [["*"], ["n:a*"], ["n:*"]])
    def test_others_can_go_on_in_between(self, tables, monkeypatch, names):
        monkeypatch.setattr(channels, "MAX_SEEKS", 0)
        tables.publish(*[event("n:a0")] * 100, *[event("n:b")] * 1_000, event("n:a1"))
        asked = Range(tables.channels.sources(names, after=0), 0, 10**9, 10**9, False)
        steps = list(read(tables.db, asked, "e", tables.channels.by_id))
        assert len(steps) >= 1_000 // reading.ROWS_PER_STEP
        groups = tables.channels.groups(["n:*"])
        tables.publish(*[event(f"n:{i}") for i in range(500)])
        steps = list(read_latest(tables.db, groups, "e", limit=9_999, limit_bytes=9_999))
        assert len(steps) >= 500 // reading.ROWS_PER_STEP


def test_what_is_below_a_floor_is_not_found(tables):
    """Rows can still be there: of a channel with damage, or while they are being removed."""
    tables.publish(*[event("n:a"), event("n:b")] * 10)
    tables.channels.get("n:a").raise_floor(15)
    for names in (["n:*"], ["n:a", "n:b"]):
        asked = Range(tables.channels.sources(names, after=0), 0, 99, 9, False)
        found, complete, _ = done(read(tables.db, asked, "e", tables.channels.by_id))
        assert [publication.seq for publication in found] == [2, 4, 6, 8, 10, 12, 14, 16, 17]
        assert not complete


room = st.sampled_from([-1, 0, 0, 1])


@given(histories, names, room, room)
def test_latest_is_the_last_event_of_each_key_of_each_channel(
    new_store, new_tables, history, names, room, room_bytes
):
    with new_store() as file:
        tables = new_tables(file.writer)
        published = tables.publish(*history)
        last = {
            (p.event.channel, p.event.key): p for p in published if covered(names, p.event.channel)
        }
        due = sorted(last.values(), key=lambda publication: publication.seq)
        limit = len(due) + room
        limit_bytes = sum(len(publication.event.data) for publication in due) + room_bytes
        groups = tables.channels.groups(names)
        limits = {"limit": limit, "limit_bytes": limit_bytes}
        found, _ = done(read_latest(file.readers[0], groups, "e", **limits))
    fits = not due or (room >= 0 and room_bytes >= 0)
    assert found == (due if fits else None)


@pytest.mark.parametrize(
    ("names", "seqs"),
    [
        (["n:c*", "a"], [1, 3, 4]),
        (["*"], [1, 2, 3, 4]),
        (["none:*"], []),
        (["a", "none", "a"], [1]),
        ([], []),
    ],
)
def test_latest_covers_all_channels_that_match(tables, names, seqs):
    tables.publish(*[event(channel) for channel in ("a", "b", "n:c", "n:cd", "$all")])
    groups = tables.channels.groups(names)
    found, _ = done(read_latest(tables.db, groups, "e", limit=9, limit_bytes=9))
    assert [publication.seq for publication in found] == seqs


@pytest.mark.parametrize("names", [["a", "b"], ["*"]])
def test_latest_shows_all_channels_at_one_moment(new_store, new_tables, names):
    with new_store() as file:
        tables = new_tables(file.writer)
        before = tables.publish(event("a"), event("b"))

        def publish_more(statement):
            if "RECURSIVE" in statement:
                tables.publish(event("a"), event("b"), event("new"))

        groups = tables.channels.groups(names)
        file.readers[0].set_trace_callback(publish_more)
        found, _ = done(read_latest(file.readers[0], groups, "e", limit=9, limit_bytes=9))
    assert found == list(before)


class TestDocuments:
    @pytest.fixture
    def written(self, tables):
        def put(channel, key, size=1):
            write = Write(b"1" * size)
            return event(channel, key=key, user="ann", write=write)

        keys = ("c", "a", "\u00e9", "b", "A")
        tables.publish(*[put("d", key) for key in keys], put("e:1", "x"), put("e:2", "x"))
        tables.publish(put("d", "a", 2), put("f", "x"))
        return tables

    def test_a_document_is_read_as_it_was_written(self, written):
        document = read_document(written.db, "d", "a")
        assert (document.channel, document.key, document.data) == ("d", "a", b"11")
        assert (document.version, document.timestamp, document.user) == (8, TIME, "ann")
        assert read_document(written.db, "d", "x") is None
        assert read_document(written.db, "x", "a") is None

    @pytest.mark.parametrize(
        ("after", "limit", "limit_bytes", "keys", "complete"),
        [
            ("", 9, 10**6, ["A", "a", "b", "c", "\u00e9"], True),
            ("", 2, 10**6, ["A", "a"], False),
            ("a", 2, 10**6, ["b", "c"], False),
            ("b", 2, 10**6, ["c", "\u00e9"], True),
            ("\u00e9", 2, 10**6, [], True),
            ("", 9, 2 * DOCUMENT_OVERHEAD + 3, ["A", "a"], False),
            ("", 9, 2 * DOCUMENT_OVERHEAD + 2, ["A"], False),
            ("", 9, 0, ["A"], False),
        ],
    )
    def test_the_documents_of_a_channel_are_read_in_pages(
        self, written, after, limit, limit_bytes, keys, complete
    ):
        limits = {"limit": limit, "limit_bytes": limit_bytes}
        for counted, right in ((False, None), (True, 5)):
            (found, is_all), count = read_documents(
                written.db, "d", after, counted=counted, **limits
            )
            assert [document.key for document in found] == keys
            assert (is_all, count) == (complete, right)

    @pytest.mark.parametrize(
        ("prefix", "names"),
        [
            ("", ("d", "e:1", "e:2", "f")),
            ("e", ("e:1", "e:2")),
            ("e:2", ("e:2",)),
            ("e:3", ()),
            ("g", ()),
        ],
    )
    def test_channels_with_documents_are_found_by_prefix(self, written, prefix, names):
        assert done(read_document_channels(written.db, prefix)) == names
