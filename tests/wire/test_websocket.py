"""WebSocket frames: read under any chunking, refused with the right code, never an exception."""

import struct
import zlib
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.wire import websocket
from triocast.wire.websocket import BINARY, CLOSE, PING, PONG, TEXT, FrameBounds, FrameReader

CONT = 0x0
BOUND = 300


def client_frame(opcode, payload, *, fin=True, mask=b"\x01\x02\x03\x04", rsv=0) -> bytes:
    """A frame as a client writes it, by the book (RFC 6455, section 5.2)."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    size, masked = len(payload), 0x80 if mask else 0
    if size < 126:
        head += bytes([masked | size])
    elif size < 2**16:
        head += struct.pack("!BH", masked | 126, size)
    else:
        head += struct.pack("!BQ", masked | 127, size)
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def server_frames(stream: bytes) -> list[tuple[int, bytes]]:
    """What a client reads: whole, unmasked frames."""
    frames = []
    while stream:
        first, size, stream = stream[0], stream[1], stream[2:]
        assert first & 0xF0 == 0x80
        assert size < 128
        if size == 126:
            (size,), stream = struct.unpack("!H", stream[:2]), stream[2:]
        elif size == 127:
            (size,), stream = struct.unpack("!Q", stream[:8]), stream[8:]
        assert len(stream) >= size
        frames.append((first & 0xF, stream[:size]))
        stream = stream[size:]
    return frames


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
    return [stream[a:b] for a, b in pairwise(edges)]


def receive(reader, data):
    """The messages that these bytes complete."""
    return [message for message in reader.receive(data) if message is not None]


def feed(chunks, bound=BOUND, deflate=False):
    reader = FrameReader(max_message_bytes=bound, deflate=deflate)
    messages, replies = [], b""
    for chunk in chunks:
        messages += receive(reader, chunk)
        replies += reader.take_replies()
    return messages, replies, reader.close_code


def units(chunks, deflate=False):
    """What is counted for these bytes."""
    reader = FrameReader(max_message_bytes=BOUND, deflate=deflate)
    for chunk in chunks:
        receive(reader, chunk)
    return reader.take_units()


masks = st.binary(min_size=4, max_size=4)
cuts = st.lists(st.integers(0, 10**6), max_size=12)
frames = st.builds(
    client_frame,
    st.integers(0, 15),
    st.binary(max_size=140) | st.text(max_size=20).map(str.encode),
    fin=st.booleans(),
    mask=masks | st.just(b""),
    rsv=st.sampled_from([0, 0, 0, 0, 1, 4, 7]),
)


def deflated(payload: bytes, *, last=False) -> bytes:
    """A compressed payload; ``last`` makes its block say that it is the last one."""
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(payload)
    if last:
        return data + compressor.flush() + b"\x00"
    return (data + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


@st.composite
def conversations(draw, compressing=False):
    """A valid client's frames: messages in fragments, with pings between; and what they mean."""
    stream, messages, pongs = b"", [], []
    for message in draw(st.lists(st.text(max_size=60) | st.binary(max_size=BOUND), max_size=6)):
        raw = message.encode() if isinstance(message, str) else message
        rsv = 0
        if compressing and draw(st.booleans()):
            compressed = deflated(raw, last=draw(st.booleans()))
            if len(compressed) <= BOUND:
                raw, rsv = compressed, 4
        pieces = cut(raw, draw(st.lists(st.integers(0, 400), max_size=4))) or [b""]
        opcode = TEXT if isinstance(message, str) else BINARY
        for index, piece in enumerate(pieces):
            for ping in draw(st.lists(st.binary(max_size=125), max_size=2)):
                stream += client_frame(PING, ping, mask=draw(masks))
                pongs.append((PONG, ping))
            if draw(st.booleans()):
                stream += client_frame(PONG, b"late", mask=draw(masks))
            last = index == len(pieces) - 1
            stream += client_frame(
                opcode if index == 0 else CONT,
                piece,
                fin=last,
                mask=draw(masks),
                rsv=rsv if index == 0 else 0,
            )
        messages.append(message)
    return stream, messages, pongs


NOT_UTF8 = client_frame(TEXT, b"\x80")


@given(st.binary() | st.lists(frames, max_size=8).map(b"".join), cuts, st.booleans())
@example(NOT_UTF8 + client_frame(CONT, b"", mask=b""), [], False).via("found by random search")
@example(NOT_UTF8 + client_frame(PING, b"too late"), [], False)
@example(client_frame(TEXT, b"\xff", rsv=4) + client_frame(PING, b"too late"), [], True)
@example(b"\x81\xfe\x00\x02" + bytes(4) + b"hi", [], False).via("a size of two bytes in vain")
@example(client_frame(TEXT, b"x" * 126) + client_frame(BINARY, b"x" * (BOUND + 1)), [], False)
def test_any_bytes_mean_the_same_in_any_chunks(stream, cuts, deflate):
    at_once = feed([stream], deflate=deflate)
    assert feed(cut(stream, cuts), deflate=deflate) == at_once
    assert feed((stream[i : i + 1] for i in range(len(stream))), deflate=deflate) == at_once
    assert units(cut(stream, cuts), deflate) == units([stream], deflate)
    messages, replies, code = at_once
    assert all(len(m if isinstance(m, bytes) else m.encode()) <= BOUND for m in messages)
    answers = server_frames(replies)
    closes = [payload for opcode, payload in answers if opcode == CLOSE]
    assert len(closes) == (code is not None)
    assert all(opcode in (PONG, CLOSE) for opcode, _ in answers)


@given(conversations(), cuts)
def test_a_valid_clients_messages_come_out_whole(conversation, cuts):
    stream, messages, pongs = conversation
    received, replies, code = feed(cut(stream, cuts))
    assert received == messages
    assert server_frames(replies) == pongs
    assert code is None


@given(conversations(), st.binary(max_size=200), cuts)
def test_nothing_comes_out_behind_a_close_frame(conversation, more, cuts):
    stream, messages, pongs = conversation
    stream += client_frame(CLOSE, struct.pack("!H", 1000) + b"bye") + more
    received, replies, code = feed(cut(stream, cuts))
    assert received == messages
    *answers, (opcode, payload) = server_frames(replies)
    assert answers == pongs
    assert (opcode, payload[:2], code) == (CLOSE, struct.pack("!H", 1000), 1000)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (client_frame(TEXT, b"x" * (BOUND + 1)), 1009),
        (client_frame(BINARY, b"x" * (BOUND + 1)), 1009),
        (client_frame(TEXT, b"x" * 200, fin=False) + client_frame(CONT, b"x" * 101), 1009),
        (b"\x82\xff\x7f" + b"\xff" * 7, 1009),
        (client_frame(TEXT, b"\xff"), 1007),
        (client_frame(TEXT, b"\xc3", fin=False) + client_frame(CONT, b"x"), 1007),
        (client_frame(TEXT, b"\xed\xa0\x80"), 1007),
        (client_frame(TEXT, b"hi", mask=b""), 1002),
        (client_frame(0x3, b""), 1002),
        (client_frame(0xB, b""), 1002),
        (client_frame(TEXT, b"", rsv=4), 1002),
        (client_frame(CONT, b"x"), 1002),
        (client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(PING, b"", fin=False), 1002),
        (client_frame(CLOSE, b"x"), 1002),
        (client_frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
    ],
)
def test_what_breaks_the_rules_ends_with_its_code(stream, code):
    whole = client_frame(TEXT, b"before")
    messages, replies, close_code = feed([whole + stream, client_frame(TEXT, b"behind")])
    assert messages == ["before"]
    assert close_code == code
    ((opcode, payload),) = server_frames(replies)
    assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))


@pytest.mark.parametrize("behind", [client_frame(TEXT, b"", mask=b""), client_frame(PING, b"")])
def test_the_first_error_on_the_wire_is_told_and_nothing_behind_it_is_read(behind):
    _, replies, code = feed([client_frame(TEXT, b"\xff") + behind])
    assert code == 1007
    ((opcode, payload),) = server_frames(replies)
    assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1007))


@pytest.mark.parametrize(
    "fragments",
    [
        client_frame(TEXT, b"half", fin=False),
        client_frame(BINARY, b"", fin=False) + client_frame(CONT, b"more", fin=False),
    ],
)
@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 4001) + b"bye"])
def test_a_close_frame_within_a_message_is_answered_as_it_came(fragments, payload):
    messages, replies, _ = feed([fragments + client_frame(CLOSE, payload)])
    assert messages == []
    assert server_frames(replies) == [(CLOSE, payload)]


sizes = st.sampled_from([0, 1, 5, 125, 126, 127, 300, 65_535, 65_536, 66_000])


def follow(chunks):
    """Where the pieces end that a stream falls into."""
    bounds, before = FrameBounds(), 0
    for chunk in chunks:
        position = 0
        while position < len(chunk):
            position = bounds.follow(chunk, position)
            yield before + position, bounds.is_between
        before += len(chunk)


@given(st.lists(st.tuples(sizes, masks | st.just(b"")), min_size=1, max_size=6), cuts)
def test_the_end_of_each_frame_is_found(frames, cuts):
    written = [client_frame(BINARY, b"x" * size, mask=mask) for size, mask in frames]
    found = list(follow(cut(b"".join(written), cuts)))
    ends = [end for end, _ in found]
    assert ends == sorted(set(ends))
    assert [end for end, is_between in found if is_between] == list(accumulate(map(len, written)))


def test_a_message_of_the_bound_is_taken():
    text = "é" * (BOUND // 2)
    assert feed([client_frame(TEXT, text.encode())])[0] == [text]


def test_a_character_may_be_cut_by_fragments():
    stream = client_frame(TEXT, b"\xc3", fin=False) + client_frame(CONT, b"\xa9")
    assert feed([stream])[0] == ["é"]


def test_the_reader_knows_who_closed():
    reader = FrameReader(max_message_bytes=BOUND)
    assert receive(reader, client_frame(CLOSE, b"")) == []
    assert reader.closed_by_peer
    reader = FrameReader(max_message_bytes=BOUND)
    assert receive(reader, client_frame(TEXT, b"\xff")) == []
    assert not reader.closed_by_peer


def test_control_frames_have_room_in_a_message_of_the_bound():
    stream = client_frame(TEXT, b"x" * BOUND, fin=False)
    stream += client_frame(PING, b"p" * 125) + client_frame(CONT, b"")
    messages, replies, code = feed([stream])
    assert (messages, server_frames(replies), code) == (["x" * BOUND], [(PONG, b"p" * 125)], None)


# Compressed messages.


@given(conversations(compressing=True), cuts)
def test_compressed_messages_come_out_as_they_were(conversation, cuts):
    stream, messages, pongs = conversation
    received, replies, code = feed(cut(stream, cuts), deflate=True)
    assert received == messages
    assert server_frames(replies) == pongs
    assert code is None


BOMB = deflated(b" " * 200_000)  # 209 bytes


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (client_frame(TEXT, BOMB, rsv=4), 1009),
        (client_frame(TEXT, deflated(b" " * (BOUND + 1)), rsv=4), 1009),
        (
            client_frame(TEXT, BOMB[:100], fin=False, rsv=4)
            + client_frame(PING, b"")
            + client_frame(CONT, BOMB[100:]),
            1009,
        ),
        (
            client_frame(TEXT, b"\x00" * 200, fin=False, rsv=4) + client_frame(CONT, b"x" * 101),
            1009,
        ),
        (client_frame(TEXT, deflated(b"\xff"), rsv=4), 1007),
        (client_frame(TEXT, b"\xff", rsv=4), 1002),
        (client_frame(TEXT, deflated(b"x", last=True) + b"more", rsv=4), 1002),
        (client_frame(PING, b"", rsv=4), 1002),
        (client_frame(CLOSE, b"", rsv=4), 1002),
        (client_frame(CONT, b"x", rsv=4), 1002),
        (
            client_frame(TEXT, deflated(b"x"), fin=False, rsv=4) + client_frame(CONT, b"", rsv=4),
            1002,
        ),
        (client_frame(TEXT, b"x", fin=False) + client_frame(CONT, b"", rsv=4), 1002),
        (client_frame(TEXT, b"x", fin=False) + client_frame(TEXT, deflated(b"x"), rsv=4), 1002),
        (client_frame(TEXT, deflated(b"x"), rsv=6), 1002),
        (client_frame(TEXT, deflated(b"x"), rsv=5), 1002),
    ],
)
def test_compressed_messages_that_break_the_rules_end_with_their_code(stream, code):
    whole = client_frame(TEXT, deflated(b"before"), rsv=4)
    messages, replies, close_code = feed([whole + stream, whole], deflate=True)
    assert messages == ["before"]
    assert close_code == code
    *_, (opcode, payload) = server_frames(replies)
    assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))


def test_without_agreement_nothing_may_be_compressed():
    messages, _, code = feed([client_frame(TEXT, deflated(b"x"), rsv=4)])
    assert (messages, code) == ([], 1002)


def test_a_compressed_message_of_the_bound_is_taken():
    stream = client_frame(TEXT, deflated(b"x" * BOUND), rsv=4)
    assert feed([stream], deflate=True)[0] == ["x" * BOUND]


def test_messages_are_inflated_one_at_a_time():
    """What came in one read may be a thousand times as large, and is never there at once: one that
    cannot be inflated does no harm before it is its turn."""
    whole = client_frame(BINARY, deflated(b"x" * BOUND), rsv=4)
    reader = FrameReader(max_message_bytes=BOUND, deflate=True)
    messages = reader.receive(whole * 3 + client_frame(BINARY, BOMB, rsv=4) + whole)
    for _ in range(3):
        assert next(messages) == b"x" * BOUND
        assert reader.close_code is None
    assert list(messages) == []
    assert reader.close_code == 1009


def test_what_a_client_sends_behind_the_end_does_not_add_up():
    """Fragments of a compressed message count as they come, also those that mean nothing."""
    reader = FrameReader(max_message_bytes=BOUND, deflate=True)
    stream = client_frame(TEXT, deflated(b"{}", last=True), fin=False, rsv=4)
    assert receive(reader, stream) == []
    for _ in range(3):
        assert receive(reader, client_frame(CONT, b"x" * 120, fin=False)) == []
    assert reader.close_code == 1009


# What says nothing.


EMPTY = client_frame(CONT, b"", fin=False)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (client_frame(TEXT, b"x") * 9, 0),
        (client_frame(BINARY, b"x") * 9, 0),
        (client_frame(TEXT, deflated(b"x"), rsv=4) * 9, 0),
        (client_frame(TEXT, b"") * 9, 9),
        (client_frame(BINARY, b"") * 9, 9),
        (client_frame(TEXT, deflated(b""), rsv=4) * 9, 9),
        (client_frame(PING, b"x" * 125) * 9, 9),
        (client_frame(PONG, b"") * 9, 9),
        (client_frame(TEXT, b"", fin=False) + EMPTY * 9, 8),
        (client_frame(TEXT, b"a", fin=False) + client_frame(CONT, b"b", fin=False) * 9, 8),
        (
            client_frame(TEXT, b"x" * 20, fin=False) + client_frame(CONT, b"y" * 20, fin=False) * 9,
            0,
        ),
        ((client_frame(TEXT, b"", fin=False) + client_frame(CONT, b"")) * 9, 9),
        # How `websockets` sends what comes from an iterator.
        ((client_frame(TEXT, b"a", fin=False) + client_frame(CONT, b"")) * 9, 0),
    ],
)
def test_frames_that_say_nothing_are_counted(stream, expected):
    assert units([stream], deflate=True) == expected


def test_between_two_messages_each_frame_gives_its_reader_a_turn():
    reader = FrameReader(max_message_bytes=BOUND)
    stream = client_frame(TEXT, b"a") + client_frame(PING, b"") * 3 + client_frame(TEXT, b"b")
    assert list(reader.receive(stream)) == ["a", None, None, None, "b"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_frames_are_written_by_the_book(size):
    payload = b"x" * size
    assert server_frames(websocket.text_frame(payload)) == [(TEXT, payload)]
    assert server_frames(websocket.frame(PING, payload)) == [(PING, payload)]


@given(st.text())
def test_a_close_frame_is_a_valid_control_frame(reason):
    ((opcode, payload),) = server_frames(websocket.close_frame(4001, reason))
    assert opcode == CLOSE
    assert len(payload) <= 125
    assert payload[:2] == struct.pack("!H", 4001)
    assert reason.startswith(payload[2:].decode())
