"""Conditional headers mean what RFC 9110 says, whatever form they are written in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.documents import ABSENT, PRESENT, AnyVersion, Precondition
from triocast.errors import BadRequest, VersionConflict
from triocast.web.call import Headers
from triocast.web.preconditions import is_current, parse_tags, read_precondition, tag_of

opaque = st.text(st.sampled_from("!#$%,.*W/abc019~\xff"), max_size=8)
gaps = st.text(st.sampled_from(", \t"), max_size=3)


@given(st.lists(st.tuples(opaque, st.booleans(), gaps), min_size=1, max_size=5), gaps)
def test_a_list_is_read_with_commas_within_tags_and_empty_elements(tags, before):
    text = before
    for tag, weak, gap in tags:
        text += f'{"W/" * weak}"{tag}"{gap},'
    assert parse_tags("If-Match", [text]) == tuple(tag for tag, _, _ in tags)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["*"], AnyVersion.ANY),
        ([" * "], AnyVersion.ANY),
        (['"*"'], ("*",)),
        (['""'], ("",)),
        (['"a"', 'W/"b"'], ("a", "b")),
    ],
)
def test_lines_are_one_list(lines, expected):
    assert parse_tags("If-Match", lines) == expected


@pytest.mark.parametrize(
    "text",
    ["", ",", "a", "'a'", '"a', 'a"', '"a" "b"', '"a""b"', 'w/"a"', 'W/ "a"', '*, "a"', '"a b"'],
)
def test_what_is_no_list_of_tags_is_refused_with_the_headers_name(text):
    with pytest.raises(BadRequest, match="If-None-Match"):
        parse_tags("If-None-Match", [text])


def read(**headers):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return read_precondition(Headers(raw), "e")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"if_match": "*"}, PRESENT),
        ({"if_none_match": "*"}, ABSENT),
        ({"if_match": tag_of("e", 7)}, Precondition(match=(7,))),
        ({"if_match": '"other.7", "e.x", "e.", "e.9999999999999999999"'}, Precondition(match=())),
        ({"if_match": "*", "if_none_match": '"e.1"'}, Precondition(AnyVersion.ANY, (1,))),
    ],
)
def test_tags_of_this_store_name_versions_and_others_none(headers, expected):
    assert read(**headers) == expected


@pytest.mark.parametrize(
    ("precondition", "true_at"),
    [
        (Precondition(), {0, 1, 2}),
        (PRESENT, {1, 2}),
        (ABSENT, {0}),
        (Precondition(match=(1,)), {1}),
        (Precondition(match=()), set()),
        (Precondition(none_match=(1,)), {0, 2}),
        (Precondition(match=(1, 2), none_match=(1,)), {2}),
        (Precondition(match=(0,)), set()),
    ],
)
def test_a_precondition_is_true_of_these_versions(precondition, true_at):
    assert {version for version in range(3) if precondition.mismatch(version) is None} == true_at


@pytest.mark.parametrize(
    ("headers", "current"),
    [
        ({}, False),
        ({"if-none-match": '"a"'}, True),
        ({"if-none-match": 'W/"b", W/"a"'}, True),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": '"b"'}, False),
        ({"if-match": '"a"'}, False),
        ({"if-match": "*", "if-none-match": '"a"'}, True),
    ],
)
def test_a_client_has_what_its_tags_name(headers, current):
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert is_current(Headers(raw), '"a"') is current


def test_a_client_that_wants_another_one_is_told_of_the_conflict():
    with pytest.raises(VersionConflict):
        is_current(Headers([(b"if-match", b'"b"')]), '"a"')
