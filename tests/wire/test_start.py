"""Where a subscription begins: a cursor, the latest state, the last events, or a clear refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.errors import BadRequest, InvalidCursor
from triocast.events import Position
from triocast.wire import cursor
from triocast.wire.cursor import ShardPosition
from triocast.wire.start import (
    MOST_LAST,
    SHARD,
    After,
    Last,
    Latest,
    parse_cursor,
    parse_foreign_cursor,
    parse_state,
)

positions = st.builds(Position, st.text("abcXYZ019_-", min_size=1), st.integers(0, 10**19 - 1))


@pytest.mark.parametrize("parse", [parse_cursor, parse_foreign_cursor])
@given(positions.filter(lambda position: len(position.epoch) <= 32))
def test_a_cursor_is_read_as_it_was_written(parse, position):
    assert parse(cursor.encode(position)) == After(position)


@pytest.mark.parametrize("parse", [parse_cursor, parse_foreign_cursor])
def test_the_position_in_our_shard_counts_wherever_it_stands(parse):
    ours = Position("e", 7)
    shards = [ShardPosition(SHARD + 1, Position("x", 1)), ShardPosition(SHARD, ours)]
    assert parse(cursor.encode_all(shards)) == After(ours)


@pytest.mark.parametrize("parse", [parse_cursor, parse_foreign_cursor])
def test_a_cursor_without_our_shard_tells_nothing(parse):
    assert parse("1.e.5") == After(None)


@pytest.mark.parametrize("text", ["", "42", "0.e.01", "0.e.1~0.e.2", "x" * 2_000])
def test_text_that_this_server_never_wrote_is_refused_except_from_a_browser(text):
    with pytest.raises(InvalidCursor):
        parse_cursor(text)
    assert parse_foreign_cursor(text) == After(None)


@pytest.mark.parametrize(
    ("since", "last", "start"),
    [
        (None, None, None),
        ("latest", None, Latest()),
        (None, 1, Last(1)),
        (None, MOST_LAST, Last(MOST_LAST)),
    ],
)
def test_a_newcomer_gets_what_it_asks_for(since, last, start):
    assert parse_state(since, last) == start


@pytest.mark.parametrize(
    ("since", "last", "message"),
    [
        ("latest", 1, "not both"),
        ("yesterday", None, "'latest'"),
        ("", None, "'latest'"),
        (None, 0, f"from 1 to {MOST_LAST}"),
        (None, -1, f"from 1 to {MOST_LAST}"),
        (None, MOST_LAST + 1, f"from 1 to {MOST_LAST}"),
    ],
)
def test_a_start_that_means_nothing_is_refused_with_what_would_be_right(since, last, message):
    with pytest.raises(BadRequest, match=message):
        parse_state(since, last)
