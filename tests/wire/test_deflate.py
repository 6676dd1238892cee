"""permessage-deflate: what is agreed on, and messages that others can read and write."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension

from triocast.wire.deflate import deflate, inflate, negotiate

BASE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
TAIL = b"\x00\x00\xff\xff"
BOUND = 10_000


# What is agreed on.


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        # what browsers and libraries send
        (["permessage-deflate; client_max_window_bits"], BASE),
        (["permessage-deflate; client_max_window_bits=15"], f"{BASE}; client_max_window_bits=15"),
        (["permessage-deflate"], BASE),
        (["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], BASE),
        (["x-webkit-deflate-frame, permessage-deflate"], BASE),
        (
            ["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"],
            f"{BASE}; server_max_window_bits=12; client_max_window_bits=12",
        ),
        # a window at least as large as ours, written in any way
        (
            ["permessage-deflate; server_max_window_bits=15"],
            f"{BASE}; server_max_window_bits=15",
        ),
        (
            ['permessage-deflate;server_max_window_bits="13" ; client_max_window_bits'],
            f"{BASE}; server_max_window_bits=13",
        ),
        # the first that can be met is taken
        (["permessage-deflate; server_max_window_bits=10, permessage-deflate"], BASE),
        (["permessage-deflate; mystery", "permessage-deflate"], BASE),
        (["permessage-bzip2, permessage-deflate"], BASE),
        (["permessage-deflate, permessage-deflate; server_max_window_bits=13"], BASE),
        # declined
        (["permessage-deflate; server_max_window_bits=11"], None),
        (["permessage-deflate; server_max_window_bits=8"], None),
        (["permessage-deflate; server_max_window_bits=7"], None),
        (["permessage-deflate; server_max_window_bits=16"], None),
        (["permessage-deflate; server_max_window_bits=012"], None),
        (["permessage-deflate; server_max_window_bits=a"], None),
        (["permessage-deflate; server_max_window_bits"], None),
        (["permessage-deflate; client_max_window_bits=16"], None),
        (["permessage-deflate; client_max_window_bits=0"], None),
        (["permessage-deflate; server_no_context_takeover=1"], None),
        (["permessage-deflate; client_no_context_takeover=true"], None),
        (["permessage-deflate; mystery"], None),
        (["permessage-deflate; server_max_window_bits=13; server_max_window_bits=13"], None),
        (["permessage-deflate; client_max_window_bits; client_max_window_bits"], None),
        (["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None),
        (["x-webkit-deflate-frame"], None),
        # not even a header field
        (["permessage-deflate; ="], None),
        (["permessage-deflate;;"], None),
        (["permessage-deflate permessage-deflate"], None),
        (['permessage-deflate; server_max_window_bits="13'], None),
        (["permessage-deflate", "\x00"], None),
        ([""], None),
        ([], None),
    ],
)
def test_negotiation(offers, answer):
    assert negotiate(offers) == answer


windows = st.none() | st.integers(9, 15)


@given(
    st.builds(
        ClientPerMessageDeflateFactory,
        st.booleans(),
        st.booleans(),
        windows,
        windows | st.just(True),
    )
)
def test_an_independent_client_agrees_to_what_is_answered(client):
    offer = build_extension([(client.name, client.get_request_params())])
    answer = negotiate([offer])
    if (client.server_max_window_bits or 15) < 12:
        assert answer is None
        return
    ((name, parameters),) = parse_extension(answer)
    assert name == client.name
    agreed = client.process_response_params(parameters, [])
    assert agreed.remote_no_context_takeover
    assert agreed.local_no_context_takeover
    assert agreed.remote_max_window_bits >= 12


@given(st.text())
def test_no_header_fails_it(text):
    assert negotiate([text, text]) in (None, BASE)


# Messages that others can read.


payloads = st.binary(max_size=300) | st.builds(
    lambda part, times: part * times, st.binary(min_size=1, max_size=9), st.integers(1, 5_000)
)


@given(payloads)
def test_zlib_inflates_what_was_deflated(payload):
    compressed = deflate(payload)
    assert zlib.decompressobj(-12).decompress(compressed + TAIL) == payload


def test_zlib_inflates_it_when_it_is_longer_than_the_window():
    payload = bytes(range(256)) * 300
    compressed = deflate(payload)
    assert len(compressed) < len(payload) / 50
    assert zlib.decompressobj(-12).decompress(compressed + TAIL) == payload


@given(st.lists(payloads, min_size=1, max_size=4))
def test_websockets_inflates_each_message_whatever_came_before(messages):
    theirs = PerMessageDeflate(True, True, 12, 15)
    for payload in messages:
        frame = theirs.decode(Frame(Opcode.TEXT, deflate(payload), rsv1=True))
        assert frame.data == payload


# Messages of others.


def by_others(payload, *, bits=15, level=9, strategy=zlib.Z_DEFAULT_STRATEGY, last=False):
    """A message's payload as RFC 7692, section 7.2.1, has it: ``last`` as in section 7.2.3.4."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits, 9, strategy)
    if last:
        return compressor.compress(payload) + compressor.flush() + b"\x00"
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(TAIL)


anybody = st.builds(
    dict,
    bits=st.integers(9, 15),
    level=st.integers(0, 9),
    strategy=st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED]),
    last=st.booleans(),
)


@given(payloads, anybody)
def test_what_anybody_deflated_is_inflated(payload, how):
    compressed = by_others(payload, **how)
    assert inflate(compressed, most=len(payload)) == payload
    if payload:
        with pytest.raises(PayloadTooBig):
            inflate(compressed, most=len(payload) - 1)


@pytest.mark.parametrize(
    "example",
    [
        "f2 48 cd c9 c9 07 00",
        "00 05 00 fa ff 48 65 6c 6c 6f 00",  # not compressed
        "f3 48 cd c9 c9 07 00 00",  # the block says it is the last
        "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",  # two blocks
    ],
)
def test_the_examples_of_the_rfc(example):
    assert inflate(bytes.fromhex(example), most=5) == b"Hello"


def test_an_empty_message():
    assert inflate(b"\x00", most=0) == b""
    assert inflate(deflate(b""), most=0) == b""


@given(st.binary(max_size=100))
def test_anything_is_inflated_within_the_bound_or_refused(payload):
    try:
        assert len(inflate(payload, most=50)) <= 50
    except (ProtocolError, PayloadTooBig):
        pass


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"not compressed",
        bytes.fromhex("4abc00ff"),
        by_others(b"x" * 50, last=True) + b"more",
        by_others(b"x", last=True) + by_others(b"y", last=True),
    ],
)
def test_what_is_not_compressed_data_is_refused(payload):
    with pytest.raises(ProtocolError):
        inflate(payload, most=BOUND)


@pytest.mark.parametrize("most", [0, 1, BOUND])
def test_what_is_beyond_the_bound_is_not_inflated(most):
    """A bomb is not unpacked: what is behind the bound is never reached, not even nonsense."""
    large = BOUND + 1_000
    broken = by_others(b"\x00" * large) + TAIL + b"\xff"
    with pytest.raises(ProtocolError):
        inflate(broken, most=large)
    with pytest.raises(PayloadTooBig):
        inflate(broken, most=most)
