"""The head of a request, as far as it is there."""

import h11
import pytest

from triocast.server.messages import read_head

HEAD = b"POST /realtime/broadcast?a=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


def read(data):
    return read_head(data, address="192.0.2.1", secure=True, max_head_bytes=1_000)


@pytest.mark.parametrize("behind", [b"", b"123", b"1234567890", b"1234567890GET / HTTP/1.1"])
def test_a_head_is_read_whatever_there_is_of_its_body(behind):
    call = read(HEAD + behind)
    assert (call.method, call.scheme, call.http_version) == ("POST", "https", "1.1")
    assert (call.address, call.query.get("a")) == ("192.0.2.1", "1")
    assert call.has_body


@pytest.mark.parametrize("length", [0, 1, 30, len(HEAD) - 1])
def test_a_part_of_a_head_is_none(length):
    assert read(HEAD[:length]) is None


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nx" + b"x" * 2_000])
def test_what_is_no_request_is_an_error(data):
    with pytest.raises(h11.RemoteProtocolError):
        read(data)
