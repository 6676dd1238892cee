"""Explicit nulls count as left out, where something may be left out."""

import json as standard

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from triocast.errors import InvalidEvent
from triocast.wire import json
from triocast.wire.nulls import without_nulls


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    needed: int
    optional: list[str] = []


class Outer(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    raw: msgspec.Raw
    word: str = "w"
    or_none: int | None = 5
    or_unset: int | UnsetType = UNSET
    inner: Inner | None = None
    inners: list[Inner] = []
    some_raw: msgspec.Raw | UnsetType = UNSET


class A(msgspec.Struct, tag_field="kind", tag="a"):
    x: int = 1


class B(msgspec.Struct, tag_field="kind", tag="b"):
    x: int
    y: bool = False


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ('{"raw":null,"word":null}', '{"raw":null}'),
        ('{"raw": {"word":null} ,"word" : null }', '{"raw":{"word":null}}'),
        ('{"raw":1,"word":"null","orNone":null,"orUnset":null}', None),
        ('{"raw":1,"inner":{"needed":1,"optional":null},"inners":[{"optional":null}]}', None),
        ('{"raw":1,"inners":null,"someRaw":null,"word":null}', '{"raw":1,"someRaw":null}'),
        ('{"raw":1,"oops":null}', '{"raw":1,"oops":null}'),
        ("[null]", "[null]"),
        ("null", "null"),
    ],
)
def test_only_what_may_be_left_out_is(text, cleaned):
    expected = {
        '{"raw":1,"word":"null","orNone":null,"orUnset":null}': (
            '{"raw":1,"word":"null","orNone":null}'
        ),
        '{"raw":1,"inner":{"needed":1,"optional":null},"inners":[{"optional":null}]}': (
            '{"raw":1,"inner":{"needed":1},"inners":[{}]}'
        ),
    }.get(text, cleaned)
    assert without_nulls(Outer, text.encode()).decode() == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"kind":"a","x":null}', A()),
        ('{"kind":"b","x":2,"y":null}', B(2)),
    ],
)
def test_the_tag_says_what_may_be_left_out(text, value):
    assert json.decode(msgspec.json.Decoder(A | B), text) == value


@pytest.mark.parametrize(
    "text", ['{"kind":"b","x":null}', '{"kind":null}', '{"kind":"c","x":null}', '{"x":null}']
)
def test_what_is_needed_is_still_needed(text):
    with pytest.raises(InvalidEvent):
        json.decode(msgspec.json.Decoder(A | B), text)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["raw", "word", "orNone", "inner", "inners", "needed", "optional"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
decoder = msgspec.json.Decoder(Outer)


@given(values)
def test_what_was_taken_means_the_same(value):
    text = standard.dumps(value).encode()
    try:
        taken = decoder.decode(text)
    except msgspec.ValidationError:
        without_nulls(Outer, text)
        return
    again = decoder.decode(without_nulls(Outer, text))
    for name in Outer.__struct_fields__:
        if name not in ("raw", "some_raw"):
            assert getattr(again, name) == getattr(taken, name)


def test_a_long_list_of_nulls_is_gone_through_once():
    text = b"[" + b",".join([b'{"kind":"a","x":null}'] * 1_000) + b"]"
    assert json.decode(msgspec.json.Decoder(list[A]), text) == [A()] * 1_000
