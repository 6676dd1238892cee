"""Reading from a store: ranges of channels, the latest event of each key, and documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.documents import Write
from triocast.engines.documents import DOCUMENT_OVERHEAD
from triocast.engines.sqlite import reading
from triocast.engines.sqlite.reading import (
    Range,
    read,
    read_document,
    read_document_channels,
    read_documents,
    read_latest,
)
from triocast.events import Event

TIME = "2026-01-31T12:00:00.123Z"
CHANNELS = ("a", "b", "n:c")


def event(channel="a", data=b"1", **fields):
    return Event("T", data, channel, TIME, **fields)


def ids(tables, names=CHANNELS):
    found = (tables.channels.get(name) for name in names)
    return [(channel.id, channel.name) for channel in found if channel is not None]


events = st.builds(
    event,
    st.sampled_from(CHANNELS),
    st.binary(min_size=1, max_size=9),
    key=st.sampled_from([None, "k", "l", "\u00e9"]),
)
histories = st.lists(events, min_size=3, max_size=25)
names = st.sampled_from([("a", "b"), ("b", "n:c"), CHANNELS, ("n:c",), ()])


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
        patch.setattr(reading, "_MOST_SEEKS", seeks)
        tables = new_tables(file.writer)
        published = tables.publish(*history)
        channels = [(id, name, after) for id, name in ids(tables, names)]
        asked = Range(channels, after, before, limit, newest)
        found, complete, damage = read(file.reader, asked, "e")
        assert damage == []
    due = [p for p in published if p.event.channel in names and after < p.seq < before]
    assert found == (due[max(0, len(due) - limit) :] if newest else due[:limit])
    assert complete is (len(due) <= limit)


room = st.sampled_from([-1, 0, 0, 1])


@given(histories, names, room, room)
def test_latest_is_the_last_event_of_each_key_of_each_channel(
    new_store, new_tables, history, names, room, room_bytes
):
    with new_store() as file:
        tables = new_tables(file.writer)
        published = tables.publish(*history)
        last = {(p.event.channel, p.event.key): p for p in published if p.event.channel in names}
        due = sorted(last.values(), key=lambda publication: publication.seq)
        limit = len(due) + room
        limit_bytes = sum(len(publication.event.data) for publication in due) + room_bytes
        found, _ = read_latest(file.reader, names, "e", limit=limit, limit_bytes=limit_bytes)
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
    found, _ = read_latest(tables.db, names, "e", limit=9, limit_bytes=9)
    assert [publication.seq for publication in found] == seqs


@pytest.mark.parametrize("names", [["a", "b"], ["*"]])
def test_latest_shows_all_channels_at_one_moment(new_store, new_tables, names):
    with new_store() as file:
        tables = new_tables(file.writer)
        before = tables.publish(event("a"), event("b"))

        def publish_more(statement):
            if "RECURSIVE" in statement:
                tables.publish(event("a"), event("b"), event("new"))

        file.reader.set_trace_callback(publish_more)
        found, _ = read_latest(file.reader, names, "e", limit=9, limit_bytes=9)
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
        assert read_document_channels(written.db, prefix) == names
