"""Cursors: what a client gives back is what it was given, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.errors import InvalidCursor
from triocast.events import Position
from triocast.wire import cursor
from triocast.wire.cursor import ShardPosition

epochs = st.text("abcXYZ019_-", min_size=1, max_size=32)
positions = st.builds(Position, epochs, st.integers(0, 10**19 - 1))
shard_positions = st.builds(ShardPosition, st.integers(0, 9999), positions)


@given(positions)
def test_one_position_comes_back(position):
    assert cursor.decode(cursor.encode(position)) == (ShardPosition(0, position),)


@given(st.lists(shard_positions, min_size=1, max_size=15, unique_by=lambda p: p.shard))
def test_several_shards_come_back_in_order(several):
    assert cursor.decode(cursor.encode_all(several)) == tuple(several)


@given(st.lists(shard_positions, min_size=1, max_size=8, unique_by=lambda p: p.shard))
def test_a_cursor_needs_no_escaping_in_a_header_or_query(several):
    text = cursor.encode_all(several)
    assert text.isascii()
    assert all(c.isalnum() or c in "._-~" for c in text)


@given(st.one_of(st.text(), st.text("0123456789.~ab-", max_size=30)))
def test_whatever_is_taken_was_written_here(text):
    try:
        several = cursor.decode(text)
    except InvalidCursor:
        return
    assert cursor.encode_all(several) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "0.e",
        "0.e.",
        "0..1",
        "0.e.-1",
        "0.e.01",
        "00.e.1",
        "0.e.1\n",
        "0.e.1 ",
        "0.e.٣",
        "0.e.1~",
        "~0.e.1",
        "0.e.1~0.e.2",
        "0.e.1e3",
        "0.e." + "9" * 20,
        "0." + "e" * 33 + ".1",
        "~".join(f"{shard}.e.1" for shard in range(65)),
        "0.e.1" * 300,
    ],
)
def test_what_this_server_never_wrote_is_refused(text):
    with pytest.raises(InvalidCursor):
        cursor.decode(text)


def test_a_cursor_that_names_an_event_from_before_stands_where_the_client_does():
    stands, position = Position("e", 9), Position("e", 7)
    text = cursor.encode_behind(stands, position)
    first, named = cursor.decode(text)
    assert (first.shard, first.position, named.position) == (0, stands, position)
    assert text != cursor.encode_behind(stands, Position("e", 8))
