"""Server-Sent Events: what one side writes, another parser reads back, whatever is in it."""

import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.errors import InvalidEvent
from triocast.events import Event, Position, Publication, parse_key, parse_tags, parse_type
from triocast.transports.sse import ENCODERS
from triocast.wire import sse
from triocast.wire.json import encode


@dataclass
class Read:
    """What a browser knows after a block: ``data`` is None where it raised no event."""

    event: str
    id: str
    data: str | None
    retry: int | None


def read(stream: bytes) -> list[Read]:
    """Parse a stream as WHATWG's HTML says (section 9.2.6, "Interpreting an event stream")."""
    blocks, last_id, retry = [], "", None
    event, data = "", None
    for line in re.split(r"\r\n|\r|\n", stream.decode())[:-1]:
        if not line:
            text = None if data is None else data.removesuffix("\n")
            blocks.append(Read(event or "message", last_id, text, retry))
            event, data, retry = "", None, None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data = (data or "") + value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            retry = int(value)
        else:
            assert field == "", f"an unknown field: {line!r}"
    return blocks


def unchunk(stream: bytes) -> bytes:
    """Take a chunked body apart, strictly."""
    body = b""
    while stream:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size, 16)
        body += stream[:length]
        assert stream[length : length + 2] == b"\r\n"
        stream = stream[length + 2 :]
    return body


hostile = st.text() | st.text("\r\n\x00 :abdeintry0\u2028\x85\x0b\x0c\x1c", max_size=30)


@given(data=hostile, event=hostile, id=hostile, comment=hostile)
def test_a_block_is_read_back_as_one_event(data, event, id, comment):
    try:
        block = sse.block(data=data.encode(), event=event, id=id, comment=comment)
    except InvalidEvent:
        assert re.search(r"[\r\n\x00]", event + id + comment)
        return
    assert not re.search(r"[\r\n\x00]", event + id + comment)
    (read_back,) = read(block)
    assert read_back.event == (event or "message")
    assert read_back.id == id
    for character in "\u2028\u2029\x85":
        data = data.replace(character, f"\\u{ord(character):04x}")
    assert read_back.data == re.sub(r"\r\n|\r", "\n", data)
    assert read_back.retry is None


@given(
    type=hostile,
    value=hostile,
    tags=st.lists(hostile, max_size=3),
    key=hostile,
    named=st.booleans(),
    chunked=st.booleans(),
)
def test_no_publisher_writes_lines_of_their_own(type, value, tags, key, named, chunked):
    try:
        event = Event(
            parse_type(type),
            encode(value),
            "news",
            "2026-01-31T12:00:00.123Z",
            key=parse_key(key),
            tags=parse_tags(tags),
        )
    except InvalidEvent:
        return
    stream = ENCODERS[named, chunked].encode(Publication(event, Position("e", 7), prev=0))
    (read_back,) = read(unchunk(stream) if chunked else stream)
    assert read_back.event == (type if named else "message")
    assert read_back.id == "0.e.7"
    # As programs do that take Unicode's line ends for the format's own.
    lines = stream.decode().splitlines()
    assert sum(line.startswith("data: ") for line in lines) == 1
    assert json.loads(read_back.data) == {
        "type": type,
        "timestamp": "2026-01-31T12:00:00.123Z",
        "data": value,
        "channel": "news",
        "key": key,
        "id": "0.e.7",
        **({"tags": tags} if tags else {}),
    }


@pytest.mark.parametrize("type", ["error", "open"])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_event_has_the_name_of_one_of_the_browser_s_own(type, chunked):
    event = Event(type, b"1", "news", "2026-01-31T12:00:00.123Z")
    stream = ENCODERS[True, chunked].encode(Publication(event, Position("e", 7), prev=0))
    assert b"event:" not in stream
    (read_back,) = read(unchunk(stream) if chunked else stream)
    assert json.loads(read_back.data)["type"] == type


def test_an_event_for_one_connection_moves_no_cursor():
    event = Event("T", b"1", "$conn:abc", "2026-01-31T12:00:00.123Z")
    block = ENCODERS[False, False].encode(Publication(event, Position("e", 7), prev=0))
    assert b"id" not in block


def test_a_block_without_data_raises_no_event():
    block = sse.block(comment="hello", id="0.e.1", retry_ms=1500)
    assert block == b": hello\nid: 0.e.1\nretry: 1500\n\n"
    assert read(block) == [Read("message", "0.e.1", None, 1500)]


def test_data_of_several_lines_is_several_lines():
    assert sse.block(data=b"a\nb\r\nc\rd\n") == (b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n")


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\x00b"])
@pytest.mark.parametrize("field", ["event", "id", "comment"])
def test_line_ends_and_nul_are_refused(field, bad):
    with pytest.raises(InvalidEvent, match=field):
        sse.block(**{field: bad})


@given(st.lists(st.binary(min_size=1)))
def test_chunks_come_apart_again(parts):
    assert unchunk(b"".join(map(sse.chunk, parts))) == b"".join(parts)
    assert sse.LAST_CHUNK == b"0\r\n\r\n"
