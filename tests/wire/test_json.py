"""JSON from publishers: bounded, checked, passed through with its meaning."""

import json as plain
import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.errors import InvalidEvent, InvalidJSON
from triocast.wire import json

texts = st.text(st.sampled_from('ab"\\[]{}\n é\u2028'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


def depth(value) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(values, st.integers(1, 6), st.sampled_from([None, 1]), st.booleans())
def test_the_depth_is_that_of_the_value(value, max_depth, indent, ascii_only):
    text = plain.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    if depth(value) > max_depth:
        with pytest.raises(InvalidJSON):
            json.check(text, max_depth=max_depth)
    else:
        json.check(text, max_depth=max_depth)


@given(st.binary() | st.text('[]{}"\\').map(str.encode), st.integers(1, 4))
def test_checking_refuses_or_passes_whatever_it_is_given(text, max_depth):
    try:
        json.check(text, max_depth=max_depth)
    except InvalidJSON:
        pass


def check_in_steps(text: bytes, piece_bytes: int, *, max_depth: int) -> int:
    """Return the number of items, having looked at so many bytes at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "PIECE_BYTES", piece_bytes)
        steps = json.checking(text, max_depth=max_depth)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


@given(values, st.integers(1, 6), st.integers(2, 20), st.sampled_from([None, 1]))
def test_a_text_is_checked_alike_in_pieces_of_any_length(value, max_depth, piece_bytes, indent):
    text = plain.dumps(value, indent=indent).encode()
    if depth(value) > max_depth:
        with pytest.raises(InvalidJSON):
            check_in_steps(text, piece_bytes, max_depth=max_depth)
    else:
        check_in_steps(text, piece_bytes, max_depth=max_depth)


@given(st.lists(values, min_size=1, max_size=5), st.integers(2, 20))
@example(["\\"], 2)
def test_the_items_of_an_array_are_counted(value, piece_bytes):
    text = plain.dumps(value).encode()
    exact = len(value) if len(text) > piece_bytes else 0
    assert check_in_steps(text, piece_bytes, max_depth=20) == exact


@given(st.binary() | st.text('[]{}"\\,').map(str.encode), st.integers(2, 5))
def test_checking_in_pieces_comes_to_an_end(text, piece_bytes):
    try:
        check_in_steps(text, piece_bytes, max_depth=3)
    except InvalidJSON:
        pass


@pytest.mark.parametrize("before", range(6))
def test_a_long_number_is_found_wherever_a_piece_ends(before):
    number = b"1" * json.LONGEST_NUMBER
    check_in_steps(b"[" + b" " * before + number + b"]", 7, max_depth=3)
    with pytest.raises(InvalidJSON, match="digits"):
        check_in_steps(b"[" + b" " * before + number + b"1]", 7, max_depth=3)


@given(values, st.sampled_from([None, 0, 3]))
@example("\r\n", 1)
def test_compact_is_one_line_and_means_the_same(value, indent):
    text = plain.dumps(value, indent=indent).encode()
    compact = json.compact(text)
    assert plain.loads(compact) == value
    assert b"\n" not in compact
    assert b"\r" not in compact


def test_compact_passes_on_what_has_one_line_already():
    assert json.compact(b'{"a" : 1.0e2}') == b'{"a" : 1.0e2}'
    assert type(json.compact(msgspec.Raw(b"[1]"))) is bytes


def test_text_that_is_not_utf_8_is_refused():
    with pytest.raises(InvalidJSON, match="byte 1"):
        json.check(b'"\xff"', max_depth=5)


def test_a_number_that_plain_parsers_refuse_is_refused():
    json.check(b"1" * json.LONGEST_NUMBER, max_depth=5)
    json.check(b'["%b"]' % (b"1" * 5000), max_depth=5)
    with pytest.raises(InvalidJSON):
        json.check(b"[%b]" % (b"1" * (json.LONGEST_NUMBER + 1)), max_depth=5)


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 70 + b'"' + b'\\"' * 6_000,
        b"[" * 70 + b'"' * 12_001,
        b"[" * 70 + b'"' + b"\\" * 12_001,
        (b"1" * json.LONGEST_NUMBER + b",") * 1_000,
        b'["' + b"1" * 2000 + b'\\"' * 6_000,
    ],
    ids=["escaped quotes", "quotes", "backslashes", "long numbers", "quotes behind a number"],
)
def test_the_work_is_in_proportion_to_the_length(hostile):
    """A few milliseconds each; the bound leaves room for slow machines, and a text of the size of
    a message must not hold up everybody for seconds."""
    began = time.process_time()
    try:
        json.check(hostile, max_depth=64)
    except InvalidJSON:
        pass
    assert time.process_time() - began < 0.2


def test_decoding_tells_shape_from_syntax():
    decoder = msgspec.json.Decoder(int)
    assert json.decode(decoder, b"5") == 5
    with pytest.raises(InvalidEvent):
        json.decode(decoder, b'"x"')
    with pytest.raises(InvalidJSON):
        json.decode(decoder, b"5 5")
    with pytest.raises(InvalidJSON):
        json.decode(msgspec.json.Decoder(), b"[" * 100_000)


def test_what_has_no_json_form_is_refused():
    loop: list[object] = []
    loop.append(loop)
    for value in (object(), "\ud800", {("a", "b"): 1}, loop):
        with pytest.raises(InvalidEvent):
            json.encode(value)


class _Inner(msgspec.Struct, forbid_unknown_fields=True):
    candidate: str = ""


class _Outer(msgspec.Struct, forbid_unknown_fields=True):
    channel: str = ""
    inner: _Inner | None = None


@pytest.mark.parametrize(
    ("shape", "text", "hint"),
    [
        (_Outer, b'{"chanel":"a"}', "; did you mean 'channel'?"),
        (_Outer, b'{"inner":{"candidates":1}}', "; did you mean 'candidate'?"),
        (list[_Outer], b'[{"channel[]":"a"}]', "; did you mean 'channel'?"),
        (_Outer, b'{"wholly other":1}', "unknown field `wholly other`"),
        (_Outer, b'{"channel":1}', "at `$.channel`"),
    ],
)
def test_a_misspelt_field_is_told_with_what_was_meant(shape, text, hint):
    with pytest.raises(InvalidEvent) as caught:
        json.decode(msgspec.json.Decoder(shape), text)
    assert caught.value.message.endswith(hint)
