"""HTTP/1 messages: a whole request is read as it was sent, and a head is written for any client."""

from email.utils import parsedate_to_datetime

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.server import messages
from triocast.server.messages import (
    MAX_PIECES,
    RequestParser,
    error_of,
    read_request,
    skip_empty_lines,
    write_head,
)


def read(data, *, address="192.0.2.1", secure=False, max_head_bytes=4_096):
    return read_request(data, address=address, secure=secure, max_head_bytes=max_head_bytes)


GET = b"GET /a/b?c=%20d&e HTTP/1.1\r\nHost: x\r\nX-Name: One\r\nX-Name: two\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
)


def test_a_head_is_read_into_a_call():
    request = read(GET)
    assert (request.path, request.body, request.behind) == (b"/a/b", b"", b"")
    call = request.call
    assert (call.method, call.http_version, call.address) == ("GET", "1.1", "192.0.2.1")
    assert call.query.get("c") == " d"
    assert call.query.get("e") == ""
    assert call.headers.all("x-name") == ["One", "two"]


@pytest.mark.parametrize(("secure", "scheme"), [(True, "https"), (False, "http")])
def test_the_scheme_follows_the_connection(secure, scheme):
    assert read(GET, secure=secure).call.scheme == scheme


@pytest.mark.parametrize("data", [POST, CHUNKED])
def test_a_body_is_read_whole_and_what_follows_it_is_kept(data):
    request = read(data + GET)
    assert (request.path, request.body, request.behind) == (b"/p", b"hello", GET)


async def test_a_body_in_very_many_pieces_is_left_to_who_takes_it_bit_by_bit(work, monkeypatch):
    next_event = h11.Connection.next_event

    def count(self):
        work.did()
        return next_event(self)

    monkeypatch.setattr(h11.Connection, "next_event", count)
    head = CHUNKED.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert read(head + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n") is None
    assert work.done < 2 * MAX_PIECES
    assert read(head + b"1\r\nx\r\n" * MAX_PIECES + b"0\r\n\r\n").body == b"x" * MAX_PIECES


@pytest.mark.parametrize("data", [GET, POST, CHUNKED])
@given(choice=st.data())
def test_a_part_of_a_request_is_not_taken_for_a_whole_one(data, choice):
    assert read(data[: choice.draw(st.integers(0, len(data) - 1))]) is None


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: keep-alive\r\n", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.1", "Connection: x, Close\r\n", False),
        ("1.0", "", False),
    ],
)
def test_whether_the_client_stays_is_known(version, connection, keep_alive):
    data = f"GET / HTTP/{version}\r\nHost: x\r\n{connection}\r\n".encode()
    assert read(data).keep_alive is keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",  # a TLS handshake
        b"GET / HTTP/1.1\r\n\r\n",  # without a Host
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://u@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n" * 9 + GET,
        b"\r\r\n" + GET,
    ],
)
def test_bytes_that_are_not_a_request_are_an_error(data):
    with pytest.raises(h11.RemoteProtocolError) as refused:
        read(data)
    assert error_of(refused.value).code == "bad_request"


CHUNKED_HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED_HEAD + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        CHUNKED_HEAD.replace(b"\r\nTransfer", b"\r\nContent-Length: 0\r\nTransfer") + b"\r\n",
        CHUNKED_HEAD.replace(b"1.1", b"1.0") + b"\r\n0\r\n\r\n",
    ],
)
def test_a_body_whose_end_is_in_doubt_is_refused(data):
    with pytest.raises(h11.RemoteProtocolError) as refused:
        read(data)
    assert (refused.value.error_status_hint, error_of(refused.value).code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b"GET / HTTP/2.0", 505, "http_version_not_supported"),
        (b"get / HTTP/1.1", 501, "not_supported"),
        (b"CONNECT x:80 HTTP/1.1", 501, "not_supported"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked", 501, "not_supported"),
    ],
)
def test_what_http_has_and_this_server_has_not_is_told_apart(line, status, code):
    with pytest.raises(h11.RemoteProtocolError) as refused:
        read(line + b"\r\nHost: x\r\n\r\n")
    error = error_of(refused.value)
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_the_bound_of_a_head_is_the_same_whether_it_has_come_whole_or_not(end):
    with pytest.raises(h11.RemoteProtocolError) as refused:
        read(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 5_000 + end)
    assert error_of(refused.value).code == "head_too_large"


def test_a_head_of_just_the_bound_is_read_whatever_comes_behind_it():
    head = POST.partition(b"hello")[0]
    assert read(head + b"hello" + GET, max_head_bytes=len(head)).body == b"hello"
    with pytest.raises(h11.RemoteProtocolError):
        read(head + b"hello", max_head_bytes=len(head) - 1)


@pytest.mark.parametrize("lines", [b"\r\n", b"\n", b"\r\n\r\n\n"])
def test_a_few_empty_lines_before_a_request_are_passed_over(lines):
    assert read(lines + POST).body == b"hello"
    assert skip_empty_lines(lines + POST) == POST
    assert skip_empty_lines(lines) == lines
    parser = RequestParser(max_head_bytes=4_096)
    for byte in lines:
        parser.receive_data(bytes((byte,)))
        assert parser.next_event() is h11.NEED_DATA
    parser.receive_data(GET)
    assert isinstance(parser.next_event(), h11.Request)


@pytest.mark.parametrize("host", [b"", b"a_b", b"[::1]", b"[::1]:80", b"a:", b"A-1.example.:65536"])
def test_any_host_that_has_the_form_of_one_is_read(host):
    data = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    assert read(data).call.headers.get("host") == host.decode()


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://Other.example:81/a?c=1", b"/a", "Other.example:81"),
        (b"HTTPS://o?c=1", b"/", "o"),
        (b"/a?c=1", b"/a", "x"),
    ],
)
def test_the_authority_of_a_target_outweighs_the_host(target, path, host):
    request = read(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (request.path, request.call.query.get("c")) == (path, "1")
    assert request.call.headers.all("Host") == [host]


names = st.text("abcxyz019-_", max_size=20).map("x-{}".format)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)


@given(st.lists(st.tuples(names, values), max_size=5))
def test_a_head_is_read_by_an_independent_parser_as_it_was_written(headers):
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(write_head("404 Not Found", headers))
    response = client.next_event()
    assert (response.status_code, response.reason) == (404, b"Not Found")
    date, *others = response.headers.raw_items()
    assert date[0] == b"date"
    assert others == [(name.encode(), value.encode()) for name, value in headers]


def test_a_value_of_latin_1_is_written_as_it_came():
    assert b"\r\nx: \xe4\r\n" in write_head("200 OK", [("x", "ä")])


def test_the_date_goes_with_the_clock(monkeypatch):
    dates = []
    for now in (0.0, 0.9, 1.0, 1_767_225_600.5):
        monkeypatch.setattr(messages.time, "time", lambda now=now: now)
        line = write_head("200 OK", []).split(b"\r\n")[1].decode()
        dates.append(parsedate_to_datetime(line.removeprefix("date: ")).timestamp())
    assert dates == [0, 0, 1, 1_767_225_600]
