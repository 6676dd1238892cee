"""Hostile HTTP/1.1 requests."""

from __future__ import annotations

import json
import re

import pytest

from e2e.servers import Server

from .attacker import (
    finish,
    receive_head,
    receive_to_end,
    receive_until,
    request,
    send,
    send_while_taken,
    status,
    statuses,
)
from .bystanders import unharmed

POST = b"/realtime/broadcast"
JSON = b"Content-Type: application/json"
EVENT = json.dumps({"type": "smuggled", "data": {"mark": "smuggled"}}).encode()

# name -> the bytes, and the statuses one of which must be the first answer; None stands for a
# close without one
MALFORMED: dict[str, tuple[bytes, set[int | None]]] = {
    "garbage": (bytes(range(256)) * 8, {400, None}),
    "a line break and garbage": (b"\r\n\r\n\xff\xfe\xfd\r\n\r\n", {400, None}),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", {400, None}),
    "no Host": (b"GET /healthz HTTP/1.1\r\n\r\n", {400}),
    "two Hosts": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
    "NUL in the target": (b"GET /heal\0thz HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "NUL in a header": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n", {400}),
    "non-ASCII in the target": (b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", {400, 404}),
    "space before the colon": (b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n", {400}),
    "empty header name": (b"GET /healthz HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", {400}),
    "bare CR in a header": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n", {400}),
    "64 kB header": (
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 65536 + b"\r\n\r\n",
        {400, 431, None},
    ),
    "64 kB target": (
        b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        {400, 414, 431, None},
    ),
    "10 000 headers": (
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X-Filler: yyyyyyyyyy\r\n" * 10_000 + b"\r\n",
        {400, 431, None},
    ),
    "conflicting lengths": (
        b"POST /realtime/broadcast HTTP/1.1\r\nHost: a\r\n"
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhelloo",
        {400},
    ),
    "negative length": (
        b"POST /realtime/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        {400},
    ),
    "length in words": (
        b"POST /realtime/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: ten\r\n\r\n",
        {400},
    ),
    "length beyond all numbers": (
        b"POST /realtime/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: "
        + b"9" * 30
        + b"\r\n\r\n",
        {400, 413},
    ),
    "unknown transfer encoding": (
        b"POST /realtime/broadcast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\n",
        {400, 501},
    ),
    "PRI preface and garbage": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200, {None}),
    "half a PRI preface": (b"PRI * HTTP/2.0\r\n\r\n", {400, None}),
    "PRI preface with another rest": (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", {400, None}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_head_is_refused_and_the_connection_closed(server: Server, name: str) -> None:
    data, allowed = MALFORMED[name]
    with unharmed(server) as scene:
        answered = scene.attacker.fire(data).status
    assert answered in allowed


# Chunked bodies that are wrong behind a correct head
CHUNKS = {
    "size in words": b"zz\r\nhello\r\n0\r\n\r\n",
    "negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "size of 30 digits": b"f" * 30 + b"\r\nhello\r\n0\r\n\r\n",
    "no line break behind the chunk": b"5\r\nhelloworld\r\n0\r\n\r\n",
    "endless extension": b"5;" + b"a" * 65536 + b"\r\nhello\r\n0\r\n\r\n",
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "the end missing": b"5\r\nhello\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_malformed_body_publishes_nothing(server: Server, name: str) -> None:
    with unharmed(server) as scene:
        head = request(server, POST, JSON, b"Transfer-Encoding: chunked", method=b"POST")
        ending = scene.attacker.fire(head + CHUNKS[name])
    assert ending.status is None or 400 <= ending.status < 500, ending
    assert "smuggled" not in scene.bystanders[0].marks


def test_a_body_cut_short_publishes_nothing(server: Server) -> None:
    with unharmed(server) as scene:
        head = request(server, POST, JSON, b"Content-Length: %d" % (len(EVENT) + 1), method=b"POST")
        ending = scene.attacker.fire(head + EVENT)
    assert ending.status is None or 400 <= ending.status < 500, ending
    assert "smuggled" not in scene.bystanders[0].marks


def test_bytes_behind_a_body_are_the_next_request_and_no_part_of_it(server: Server) -> None:
    with unharmed(server) as scene:
        head = request(server, POST, JSON, b"Content-Length: 2", method=b"POST")
        ending = scene.attacker.fire(head + b"{}" + EVENT)
    assert statuses(ending.data)[-1] == 400, ending
    assert "smuggled" not in scene.bystanders[0].marks


def test_a_length_beside_chunks_does_not_smuggle_a_request(server: Server) -> None:
    """RFC 9112, 6.3: chunked outweighs the length, so what looks like a request is one, or all
    is refused.
    What must not happen is that the length is believed and the rest taken for a request that
    chunks would hide."""
    hidden = request(
        server, POST, JSON, b"Content-Length: %d" % len(EVENT), method=b"POST", body=EVENT
    )
    with unharmed(server) as scene:
        lengths = (b"Content-Length: 4", b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
        ending = scene.attacker.fire(request(server, POST, JSON, *lengths, method=b"POST") + body)
    assert len(statuses(ending.data)) <= 1, ending
    assert "smuggled" not in scene.bystanders[0].marks


@pytest.mark.parametrize("length", [b"99999999999", b"9223372036854775808"])
def test_an_announced_giant_is_refused_before_its_body(server: Server, length: bytes) -> None:
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(server, POST, JSON, b"Content-Length: " + length, method=b"POST"))
        assert status(receive_head(sock)) in (400, 413)


def test_a_giant_that_was_not_announced_is_cut_off(server: Server) -> None:
    """A body in chunks that never ends: the server answers when it has had enough, and closes."""
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(server, POST, JSON, b"Transfer-Encoding: chunked", method=b"POST"))
        chunk = b"100000\r\n" + b"a" * (1 << 20) + b"\r\n"
        send_while_taken(sock, chunk, 16 << 20, stalled_after=5)
        ending = receive_to_end(sock)
    assert ending.status == 413 or (ending.status is None and ending.reset)


# Well-formed for HTTP/1.1, and still nasty: must not be a server error
NASTY: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "bad UTF-8 in the path": (b"/%ff%fe", ()),
    "NUL in the path": (b"/%00", ()),
    "up and out": (b"/../../../../etc/passwd", ()),
    "up and out, encoded": (b"/%2e%2e/%2e%2e/etc/passwd", ()),
    "bad UTF-8 in a parameter": (b"/realtime/events?channel=%ff%00", ()),
    "a channel of line breaks": (b"/realtime/events?channel=a%0d%0ab", ()),
    "1 000 channels": (
        b"/realtime/events?" + b"&".join(b"channel=a%d" % n for n in range(1000)),
        (),
    ),
    "bad cursor": (b"/realtime/events", (b"Last-Event-ID: \xff\xfe\xfd",)),
    "long cursor": (b"/realtime/events", (b"Last-Event-ID: " + b"9" * 8000,)),
    "bad token": (b"/realtime/events", (b"Authorization: Bearer \xff\xfe",)),
    "bad scheme": (b"/realtime/events", (b"Authorization: \xff",)),
    "bad cookie": (b"/realtime/events", (b"Cookie: \xff=\xff; ;;=",)),
    "bad Origin": (b"/realtime/events", (b"Origin: \xff\xfe",)),
    "bad Accept": (b"/realtime/events", (b"Accept: text/\xff;q=\xff, text/event-stream",)),
    "bad forwarded address": (
        b"/realtime/events",
        (b"X-Forwarded-For: \xff, 999.1.1.1", b"Forwarded: for=\xff"),
    ),
    "absolute target": (b"http://elsewhere:99999/healthz", ()),
    "malformed IPv6 target": (b"http://[::1/healthz", ()),
    "asterisk": (b"*", ()),
    "unknown expectation": (b"/healthz", (b"Expect: \xff",)),
    "range of nonsense": (b"/healthz", (b"Range: bytes=\xff-",)),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_values_are_no_server_error(server: Server, name: str) -> None:
    target, headers = NASTY[name]
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(server, target, *headers))
        answered = status(receive_head(sock))
    assert (answered or 500) < 500


BODIES = {
    "empty": b"",
    "bad UTF-8": b'{"type":"a","data":"\xff\xfe"}',
    "half a surrogate": b'{"type":"a\\ud800","data":null}',
    "100 000 brackets": b"[" * 100_000,
    "nested objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "deep data": b'{"type":"a","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "huge number": b'{"type":"a","data":' + b"9" * 10_000 + b"}",
    "not a number": b'{"type":"a","data":NaN}',
    "NUL": b"\0" * 100,
}


@pytest.mark.parametrize("name", BODIES)
def test_a_nasty_body_is_no_server_error(server: Server, name: str) -> None:
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        length = b"Content-Length: %d" % len(BODIES[name])
        sock.sendall(request(server, POST, JSON, length, method=b"POST", body=BODIES[name]))
        answered = status(receive_head(sock))
    assert (answered or 500) < 500


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE", b"PRI", b"BREW", b"A" * 1000])
def test_strange_methods_are_no_server_error(server: Server, method: bytes) -> None:
    with unharmed(server) as scene:
        ending = scene.attacker.fire(
            request(server, b"/healthz", b"Connection: close", method=method)
        )
    assert ending.status is None or 400 <= ending.status < 500 or ending.status == 501


UPGRADES = {
    "h2c": (
        b"Upgrade: h2c",
        b"Connection: Upgrade, HTTP2-Settings",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
    ),
    "h2c without settings": (b"Upgrade: h2c", b"Connection: Upgrade"),
    "h2c with bad settings": (b"Upgrade: h2c", b"Connection: Upgrade", b"HTTP2-Settings: !!!!"),
    "h2c with half a base64": (b"Upgrade: h2c", b"Connection: Upgrade", b"HTTP2-Settings: AAAAA"),
    "h2c with half a setting": (b"Upgrade: h2c", b"Connection: Upgrade", b"HTTP2-Settings: AAMA"),
    "h2c with a forbidden window": (
        b"Upgrade: h2c",
        b"Connection: Upgrade",
        b"HTTP2-Settings: AAT_____",
    ),
    "h2c with settings beyond ASCII": (
        b"Upgrade: h2c",
        b"Connection: Upgrade",
        b"HTTP2-Settings: \xff",
    ),
    "something else": (b"Upgrade: TLS/1.0, \xff", b"Connection: Upgrade"),
}


@pytest.mark.parametrize("name", UPGRADES)
def test_upgrades_to_other_protocols(server: Server, name: str) -> None:
    """Ignored, refused, or carried out; then garbage follows."""
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(server, b"/healthz", *UPGRADES[name]))
        receive_until(sock, bool)
        send(sock, b"\xff" * 1000)
        finish(sock)
        receive_to_end(sock)


def test_a_thousand_pipelined_requests_are_answered(server: Server) -> None:
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(server) * 999 + request(server, b"/healthz", b"Connection: close"))
        ending = receive_to_end(sock, patience=20)
    assert statuses(ending.data) == [200] * 1000


def test_a_thousand_pipelined_streams_open_one(server: Server) -> None:
    """The 2nd request behind an event stream can never be answered; closing must be noticed all
    the same."""
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(server, b"/realtime/events", b"Accept: text/event-stream") * 1000)
        data = receive_until(sock, lambda data: b"\r\n\r\n" in data)
        assert statuses(data) == [200]
        sock.close()


def test_what_follows_a_stream_request_ends_the_stream(server: Server) -> None:
    """16 MB behind the GET of an event stream: some of it is passed over, then there is an end."""
    with unharmed(server) as scene, scene.ends("policy"):
        sock = scene.attacker.connect()
        sock.sendall(request(server, b"/realtime/events", b"Accept: text/event-stream"))
        receive_head(sock)
        send_while_taken(sock, b"a" * (1 << 16), 16 << 20, stalled_after=5)
        receive_to_end(sock)
        sock.close()


def test_a_request_in_single_bytes(server: Server) -> None:
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        for byte in request(server):
            sock.sendall(bytes([byte]))
        assert status(receive_head(sock)) == 200


def test_no_answer_tells_a_traceback(server: Server) -> None:
    with unharmed(server) as scene:
        told = [scene.attacker.fire(data).data for data, _ in MALFORMED.values()]
    assert not re.search(rb"Traceback|site-packages|\.py\b", b"".join(told))
