"""Which requests are answered without Hypercorn, with what, and which are left alone."""

import json
import re

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from triocast.node import build_node
from triocast.server.shortcuts import MOST_BODY_BYTES, Shortcuts
from triocast.settings import Settings
from triocast.transports.native import NativeConnection
from triocast.transports.sse import ENCODERS, SSEConnection
from triocast.web.origins import Origins

HOST = "Host: 127.0.0.1:8000"
UPGRADE = (
    HOST,
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def shortcuts(*, origins=(), **settings):
    node = build_node(Settings(allowed_origins=origins, **settings))
    return Shortcuts(node, Origins(origins), max_head_bytes=16_384)


def request(line: str, *lines: str, behind: bytes = b"") -> bytes:
    return "\r\n".join([line, *lines, "", ""]).encode() + behind


def opened(door, data: bytes, *, secure=False, address="127.0.0.1"):
    request = door.read(data, address=address, secure=secure)
    return None if request is None else door.open(request)


def answer(data: bytes, *, secure=False, address="127.0.0.1", **options):
    return opened(shortcuts(**options), data, address=address, secure=secure)


def response_of(connection) -> h11.Response | h11.InformationalResponse:
    """The connection's preface, as an independent parser reads it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(connection.preface)
    event = client.next_event()
    assert isinstance(event, h11.Response)
    assert client.trailing_data[0] == b""
    return event


def test_a_stream_over_http_1_1():
    connection = answer(request("GET /realtime/events?channel=news&named=1 HTTP/1.1", HOST))
    assert isinstance(connection, SSEConnection)
    assert connection.encoder is ENCODERS[True, True]
    assert connection.address == "127.0.0.1"
    response = response_of(connection)
    headers = dict(response.headers)
    assert response.status_code == 200
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"transfer-encoding"] == b"chunked"
    assert b"content-length" not in headers
    assert b"no-cache" in headers[b"cache-control"]
    assert headers[b"x-accel-buffering"] == b"no"
    assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers[b"date"])


def test_a_stream_over_http_1_0_has_no_chunks():
    connection = answer(request("GET /realtime/events HTTP/1.0", HOST))
    assert connection.encoder is ENCODERS[False, False]
    headers = dict(response_of(connection).headers)
    assert headers[b"connection"] == b"close"
    assert b"transfer-encoding" not in headers


def test_a_websocket():
    client = ClientProtocol(parse_uri("ws://127.0.0.1:8000/realtime/ws"))
    client.send_request(client.connect())
    connection = answer(b"".join(client.data_to_send()))
    assert isinstance(connection, NativeConnection)
    client.receive_data(connection.preface)
    assert client.handshake_exc is None
    assert client.state.name == "OPEN"


def test_the_subprotocol_is_taken_where_it_is_offered():
    line = "GET /realtime/ws HTTP/1.1"
    connection = answer(request(line, *UPGRADE, "Sec-WebSocket-Protocol: x, triocast.v1"))
    assert b"\r\nsec-websocket-protocol: triocast.v1\r\n" in connection.preface
    connection = answer(request(line, *UPGRADE, "Sec-WebSocket-Protocol: x"))
    assert b"protocol:" not in connection.preface


def test_a_page_that_may_read_is_told_so():
    line = "GET /realtime/events HTTP/1.1"
    page = "Origin: https://app.example.com"
    connection = answer(request(line, HOST, page), origins=("https://app.example.com",))
    headers = dict(response_of(connection).headers)
    assert headers[b"access-control-allow-origin"] == b"https://app.example.com"
    assert headers[b"vary"] == b"Origin"
    connection = answer(request(line, HOST, page))
    assert b"access-control-allow-origin" not in dict(response_of(connection).headers)


STREAM, SOCKET = "GET /realtime/events HTTP/1.1", "GET /realtime/ws HTTP/1.1"


@pytest.mark.parametrize(
    "data",
    [
        request("GET /realtime/eventsx HTTP/1.1", HOST),
        request("GET /healthz HTTP/1.1", HOST),
        request("HEAD /realtime/events HTTP/1.1", HOST),
        request("POST /realtime/events HTTP/1.1", HOST, "Content-Length: 0"),
        request("GET /realtime/broadcast HTTP/1.1", HOST),
        request("GET http://127.0.0.1:8000/realtime/events HTTP/1.1", HOST),
        request(STREAM),  # HTTP/1.1 needs a Host
        request(STREAM, HOST, HOST),
        request(STREAM, "Host: evil.example"),
        request(STREAM, HOST, "X-Forwarded-For: 192.0.2.1"),
        request(STREAM, HOST, "Content-Length: 5", behind=b"hel"),
        request(STREAM, HOST, "Content-Length: 5", behind=b"hello"),
        request(STREAM, HOST, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
        request(STREAM, HOST, "Origin: https://a.example", "Origin: https://b.example"),
        request("GET /realtime/events?named=2 HTTP/1.1", HOST),
        request("GET /realtime/events?channel=%24all HTTP/1.1", HOST),
        request(STREAM, HOST, "Bad Header: x"),
        request(SOCKET, HOST),
        request("GET /realtime/ws HTTP/1.0", *UPGRADE),
        request(SOCKET, *(line for line in UPGRADE if "Connection" not in line)),
        request(SOCKET, *(line for line in UPGRADE if "Upgrade: " not in line)),
        request(SOCKET, *(line for line in UPGRADE if "Version" not in line)),
        request(SOCKET, *(line for line in UPGRADE if "Key" not in line)),
        request(SOCKET, *(line.replace("13", "8") for line in UPGRADE)),
        request(SOCKET, *UPGRADE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        request(SOCKET, *(line.replace("dGhl", "") for line in UPGRADE)),
        request(SOCKET, *(line.replace("dGhl", "!!!!") for line in UPGRADE)),
        request(SOCKET, *UPGRADE, "Origin: https://evil.example"),
        b"GET /realtime/events HTTP/1.1\r\nHost: 127.0.0.1",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
    ],
)
def test_everything_else_is_left_to_others_and_nothing_has_happened(data):
    door = shortcuts()
    assert opened(door, data) is None
    assert not door._node.connections._coming


def test_strangers_are_left_to_others():
    assert answer(request(STREAM, HOST), address="192.0.2.1") is None
    assert answer(request(STREAM, HOST), sse_enabled=False) is None
    assert answer(request(SOCKET, *UPGRADE), websocket_enabled=False) is None


def test_a_full_or_draining_server_lets_nobody_in():
    door = shortcuts(max_connections=1)
    first = opened(door, request(STREAM, HOST))
    assert first is not None
    assert opened(door, request(STREAM, HOST)) is None
    del first
    door._node.connections.draining = True
    assert opened(door, request(STREAM, HOST)) is None


@pytest.mark.parametrize("secure", [True, False])
def test_a_page_of_the_same_origin_may_open_a_websocket(secure):
    scheme = "https" if secure else "http"
    line = f"Origin: {scheme}://127.0.0.1:8000"
    assert answer(request(SOCKET, *UPGRADE, line), secure=secure) is not None
    assert answer(request(SOCKET, *UPGRADE, line), secure=not secure) is None


@given(st.integers(0, 60))
def test_beginnings_of_stream_requests_are_waited_for(length):
    door = shortcuts()
    for whole in (request(STREAM, HOST), request(SOCKET, *UPGRADE)):
        part = whole[: length + 1]
        assert door.is_candidate(part)
        assert door.needs_more(part) == (b"\r\n\r\n" not in part)


@pytest.mark.parametrize(
    "data", [b"PUT", b"POST /x", b"GET /r/", b"PRI * HTTP/2.0", b"\x16\x03", b"get"]
)
def test_nobody_waits_for_more_of_other_requests(data):
    assert not shortcuts().is_candidate(data)


def test_a_head_without_end_is_not_waited_for_in_vain():
    assert not shortcuts().needs_more(b"GET /realtime/events?" + b"x" * 16_384)


PUBLISH = "POST /realtime/broadcast HTTP/1.1"
JSON = "Content-Type: application/json"


def post(body: bytes, *lines: str, line=PUBLISH, behind=b"") -> bytes:
    return request(line, HOST, JSON, f"Content-Length: {len(body)}", *lines, behind=body + behind)


async def reply_to(data: bytes, door=None):
    """The parsed reply, its body, and what was asked."""
    door = door or shortcuts()
    asked = door.read(data, address="127.0.0.1", secure=False)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(await door.reply(asked))
    response, body = client.next_event(), b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return response, body, asked


async def test_a_publish_that_is_there_as_a_whole():
    door = shortcuts()
    data = post(b'{"channel":"news","data":1}', behind=b"GET / HTTP/1.1\r\n")
    response, body, asked = await reply_to(data, door)
    assert response.status_code == 200
    assert json.loads(body)["channel"] == "news"
    assert door._node.engine.head.seq == 1
    assert asked.behind == b"GET / HTTP/1.1\r\n"
    assert asked.keep_alive
    assert b"connection" not in dict(response.headers)


async def test_a_publisher_that_wants_to_go_is_let_go():
    response, _, asked = await reply_to(post(b'{"data":1}', "Connection: close"))
    assert not asked.keep_alive
    assert dict(response.headers)[b"connection"] == b"close"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (post(b"{"), 400, "invalid_json"),
        (post(b""), 400, "bad_request"),
        (post(b'{"data":1,"x":2}'), 400, "invalid_event"),
        (post(b'{"data":1}', "Origin: https://evil.example"), 403, "origin_refused"),
        (post(b'{"data":1}', "Content-Encoding: gzip"), 415, "wrong_content_encoding"),
        (post(b"{}", line="POST /realtime/send HTTP/1.1"), 400, "invalid_event"),
    ],
)
async def test_a_publish_that_is_refused(data, status, code):
    response, body, asked = await reply_to(data)
    assert (response.status_code, json.loads(body)["code"]) == (status, code)
    assert asked.keep_alive


async def test_an_error_of_ours_is_logged_and_tells_nothing(caplog):
    door = shortcuts()

    async def broken(*_):
        raise ZeroDivisionError("secret detail")

    door._endpoints[b"/realtime/broadcast"] = broken
    response, body, _ = await reply_to(post(b'{"data":1}'), door)
    assert (response.status_code, json.loads(body)["code"]) == (500, "internal")
    assert b"secret" not in body
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("cut", range(1, 140, 3))
def test_a_publish_is_waited_for_until_it_is_whole(cut):
    whole = post(b'{"channel":"news","data":1}')
    part = whole[:cut]
    door = shortcuts()
    assert door.is_candidate(part)
    assert door.needs_more(part) == (cut < len(whole))
    if cut < len(whole):
        assert door.read(part, address="127.0.0.1", secure=False) is None


@pytest.mark.parametrize(
    "data",
    [
        request(PUBLISH, HOST, JSON, "Content-Length: 20", "Expect: 100-continue"),
        request(PUBLISH, HOST, JSON, "Transfer-Encoding: chunked"),
        request(PUBLISH, HOST, JSON, f"Content-Length: {MOST_BODY_BYTES + 1}"),
        request(PUBLISH, HOST, JSON, "Content-Length: 9999999999999"),
    ],
)
def test_bodies_that_come_bit_by_bit_are_left_to_others(data):
    door = shortcuts()
    assert not door.needs_more(data)
    assert door.read(data, address="127.0.0.1", secure=False) is None


@pytest.mark.parametrize(
    "data",
    [
        post(b'{"data":1}', "Content-Length: 11"),
        post(b'{"data":1}', "Content-Length: 3"),
        post(b'{"data":1}', line="POST /realtime/broadcast HTTP/1.0"),
        post(b'{"data":1}', line="PUT /realtime/broadcast HTTP/1.1"),
        post(b'{"data":1}', line="POST /realtime/broadcasts HTTP/1.1"),
    ],
)
def test_odd_publishes_are_left_to_others(data):
    assert shortcuts().read(data, address="127.0.0.1", secure=False) is None
