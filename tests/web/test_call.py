"""What endpoints see of a request, whichever server read it."""

from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.errors import BadRequest, WrongContentEncoding
from triocast.web.call import MOST_QUERY_FIELDS, Call


def call(query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> Call:
    return Call(
        method="GET",
        scheme="http",
        http_version="1.1",
        query_string=query,
        headers=headers or [],
        address="127.0.0.1",
    )


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=8))
def test_a_query_gives_back_what_was_put_in(fields):
    fields = [(name.encode(errors="replace").decode(), value) for name, value in fields]
    fields = [(name, value.encode(errors="replace").decode()) for name, value in fields]
    text = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in fields)
    query = call(text.encode()).query
    for name, _ in fields:
        values = [value for other, value in fields if other == name]
        assert query.all(name) == values
        assert query.get(name) == values[0]
        assert name in query
    assert query.get("not there") is None
    assert query.all("not there") == []


@given(st.binary(max_size=60))
def test_no_bytes_in_a_query_are_an_error(raw):
    call(raw).query.get("channel")


def test_a_field_without_a_value_is_there():
    assert call(b"named&tag=").query.get("named") == ""
    assert call(b"named&tag=").query.all("tag") == [""]


def test_a_query_of_very_many_fields_is_refused():
    call(b"&".join([b"a=1"] * MOST_QUERY_FIELDS)).query.get("a")
    with pytest.raises(BadRequest):
        call(b"&".join([b"a=1"] * (MOST_QUERY_FIELDS + 1))).query.get("a")


def test_headers_are_found_in_any_case():
    headers = call(headers=[(b"accept", b"a"), (b"accept", b"b, c"), (b"x-latin", b"\xe9")]).headers
    assert headers.get("Accept") == "a"
    assert headers.all("ACCEPT") == ["a", "b, c"]
    assert headers.tokens("Accept") == ["a", "b", "c"]
    assert "X-Latin" in headers
    assert headers.get("x-latin") == "é"
    assert "host" not in headers
    assert headers.get("host") is None


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        (None, ""),
        (b"application/json", "application/json"),
        (b"Application/JSON; charset=utf-8", "application/json"),
        (b" text/plain ;x", "text/plain"),
    ],
)
def test_the_media_type(value, media_type):
    assert (
        call(headers=[] if value is None else [(b"content-type", value)]).content_type == media_type
    )


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (None, None),
        (b"12", 12),
        (b"x", None),
        (b"-1", None),
        *((text, 2**63 - 1) for text in (b"0" * 9_999, b"9223372036854775808")),
    ],
)
def test_the_announced_length(value, length):
    headers = [] if value is None else [(b"content-length", value)]
    assert call(headers=headers).content_length == length


@pytest.mark.parametrize("lines", [[], [b""], [b"identity"], [b"Identity, identity", b""]])
def test_a_body_as_it_is_may_be_sent(lines):
    call(headers=[(b"content-encoding", line) for line in lines]).check_encoding()


@pytest.mark.parametrize(
    "lines", [[b"gzip"], [b"br"], [b"identity, gzip"], [b"identity", b"zstd"], [b"GZIP"], [b"x y"]]
)
def test_an_encoded_body_is_refused(lines):
    with pytest.raises(WrongContentEncoding, match="identity"):
        call(headers=[(b"content-encoding", line) for line in lines]).check_encoding()


def test_an_asgi_scope():
    scope = {
        "type": "websocket",
        "scheme": "wss",
        "http_version": "2",
        "query_string": b"a=b",
        "headers": [(b"host", b"h")],
        "client": ("192.0.2.1", 5),
    }
    made = Call.of_scope(scope)
    assert (made.method, made.scheme, made.http_version) == ("GET", "wss", "2")
    assert (made.address, made.query.get("a"), made.headers.get("Host")) == ("192.0.2.1", "b", "h")
    assert Call.of_scope(scope | {"client": None}).address is None
