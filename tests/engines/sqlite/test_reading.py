"""What is read of a store: ranges of channels, the latest of each key, and documents."""

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
histories = st.lists(events, max_size=25)
names = st.lists(st.sampled_from(CHANNELS), unique=True)


@pytest.mark.parametrize("seeks", [64, 0], ids=["few channels", "many channels"])
@given(histories, names, st.integers(0, 26), st.integers(0, 27), st.integers(0, 26), st.booleans())
def test_a_range_is_that_of_a_plain_list(
    new_store, new_tables, seeks, history, names, after, before, limit, newest
):
    with new_store() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_MOST_SEEKS", seeks)
        tables = new_tables(file.writer)
        published = tables.publish(*history)
        asked = Range(ids(tables, names), after, before, limit, newest)
        found, complete = read(file.reader, asked, "e")
    due = [p for p in published if p.event.channel in names and after < p.seq < before]
    assert found == (due[max(0, len(due) - limit) :] if newest else due[:limit])
    assert complete is (len(due) <= limit)


@given(histories, names, st.integers(0, 9), st.integers(0, 40))
def test_the_latest_is_the_last_of_each_key_of_each_channel(
    new_store, new_tables, history, names, limit, limit_bytes
):
    with new_store() as file:
        tables = new_tables(file.writer)
        published = tables.publish(*history)
        limits = {"limit": limit, "limit_bytes": limit_bytes}
        found = read_latest(file.reader, ids(tables, names), "e", **limits)
    last = {(p.event.channel, p.event.key): p for p in published if p.event.channel in names}
    due = sorted(last.values(), key=lambda publication: publication.seq)
    fits = len(due) <= limit and sum(len(p.event.data) for p in due) <= limit_bytes
    assert found == (due if fits else None)


def test_the_latest_of_all_channels_is_of_one_moment(new_store, new_tables):
    with new_store() as file:
        tables = new_tables(file.writer)
        before = tables.publish(event("a"), event("b"))

        def channels():
            a, b = ids(tables)
            yield a
            tables.publish(event("b", b"2"))
            yield b

        found = read_latest(file.reader, channels(), "e", limit=9, limit_bytes=9)
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

    def test_one_comes_as_it_was_written(self, written):
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
    def test_a_channels_come_in_pages(self, written, after, limit, limit_bytes, keys, complete):
        limits = {"limit": limit, "limit_bytes": limit_bytes}
        found = read_documents(written.db, "d", after, **limits)
        assert ([document.key for document in found[0]], found[1]) == (keys, complete)

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
    def test_channels_that_have_some_are_found_by_their_beginning(self, written, prefix, names):
        assert read_document_channels(written.db, prefix) == names
