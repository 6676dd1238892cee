"""The edges of the takeover: where HTTP ends and a stream of our own begins.

Each of these was a way to lose bytes, to send them twice, or to write into the wrong response.
They run over our own server with and without the takeover: nobody should see a difference.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from e2e.conftest import Servers
from e2e.crowd import NO_LINGER, Crowd, sse_request, ws_frame, ws_request
from e2e.raw import Wire, head_of
from e2e.rest import call, publish, stats, until
from e2e.servers import Server

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.fixture(params=["taken over", "portable"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.connect()) as connected:
        yield connected


def get(channel: str, version: str = "1.1") -> str:
    return f"GET /realtime/events?channel={channel} HTTP/{version}"


def test_http_1_0_gets_blocks_without_chunks(
    server: Server, way: str, channel: str, wire: Wire
) -> None:
    wire.send(get(channel, "1.0"), "Host: localhost")
    wire.until(b"retry:")
    way_there = "taken_over" if way == "taken over" else "portable"
    assert stats(server)[way_there] >= 1
    assert stats(server)["portable" if way == "taken over" else "taken_over"] == 0
    publish(server, channel=channel, data="one")
    publish(server, channel=channel, data="two")
    data = wire.until(b'"two"')
    status, headers = head_of(data)
    assert status == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "transfer-encoding" not in headers
    assert "content-length" not in headers
    blocks = data.partition(b"\r\n\r\n")[2].split(b"\n\n")
    assert [sorted(line.split(b":")[0] for line in block.split(b"\n")) for block in blocks] == [
        [b"", b"data", b"id", b"retry"],
        [b"data", b"id"],
        [b"data", b"id"],
        [b""],
    ]


def test_http_1_0_keep_alive_is_no_chunked_stream(server: Server, channel: str, wire: Wire) -> None:
    wire.send(get(channel, "1.0"), "Host: localhost", "Connection: keep-alive")
    wire.until(b"retry:")
    publish(server, channel=channel, data="one")
    assert b"\r\n" not in wire.until(b'"one"').partition(b"\r\n\r\n")[2]


def test_http_1_1_gets_whole_chunks(server: Server, channel: str, wire: Wire) -> None:
    wire.send(get(channel), f"Host: {server.authority}")
    wire.until(b"retry:")
    publish(server, channel=channel, data="one")
    data = wire.until(lambda data: data.endswith(b"}\n\n\r\n"))
    assert head_of(data)[1]["transfer-encoding"] == "chunked"
    rest = data.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        assert length > 0
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]


def test_head_leaves_the_connection_to_the_next_request(
    server: Server, channel: str, wire: Wire
) -> None:
    host = f"Host: {server.authority}"
    wire.send(get(channel).replace("GET", "HEAD"), host)
    first = wire.until(b"\r\n\r\n")
    assert head_of(first)[0] == 200
    wire.data = b""
    wire.send("GET /healthz HTTP/1.1", host)
    assert wire.until(b'{"status":"ok"}').startswith(b"HTTP/1.1 200 ")


def test_a_request_pipelined_behind_a_stream_is_not_answered(
    server: Server, channel: str, wire: Wire
) -> None:
    host = f"Host: {server.authority}"
    wire.send(get(channel), host, body=f"GET /healthz HTTP/1.1\r\n{host}\r\n\r\n".encode())
    wire.until(b"retry:")
    wire.send("GET /readyz HTTP/1.1", host)
    publish(server, channel=channel, data="one")
    publish(server, channel=channel, data="two")
    data = wire.until(b'"two"')
    assert data.count(b"HTTP/1.1 ") == 1
    assert b'"status"' not in data


def test_a_stream_after_other_requests_on_one_connection(
    server: Server, channel: str, wire: Wire
) -> None:
    host = f"Host: {server.authority}"
    body = json.dumps({"channel": channel, "data": "before"}).encode()
    post = (
        "POST /realtime/broadcast HTTP/1.1",
        host,
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    for number in range(1, 4):
        wire.send(*post, body=body)
        wire.until(lambda data, number=number: data.count(b'"subscribers":') == number)
    wire.data = b""
    wire.send(get(channel), host)
    wire.until(b"retry:")
    publish(server, channel=channel, data="one")
    data = wire.until(b'"one"')
    assert head_of(data)[0] == 200
    assert b"before" not in data


def test_a_stream_pipelined_behind_a_post(server: Server, channel: str, wire: Wire) -> None:
    host = f"Host: {server.authority}"
    body = json.dumps({"channel": channel, "data": "before"}).encode()
    stream = f"{get(channel)}\r\n{host}\r\n\r\n".encode()
    wire.send(
        "POST /realtime/broadcast HTTP/1.1",
        host,
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        body=body + stream,
    )
    wire.until(b"retry:")
    publish(server, channel=channel, data="one")
    data = wire.until(b'"one"')
    assert re.findall(rb"HTTP/1\.1 (\d+)", data) == [b"200", b"200"]
    assert b'"subscribers":0' in data


@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_a_request_that_comes_byte_by_byte(
    server: Server, way: str, channel: str, wire: Wire, kind: str
) -> None:
    wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = sse_request(server, f"channel={channel}") if kind == "sse" else ws_request(server)
    for byte in request:
        wire.sock.sendall(bytes((byte,)))
    wire.until(b"retry:" if kind == "sse" else b"connected")
    counts = stats(server)
    assert counts["taken_over" if way == "taken over" else "portable"] >= 1
    assert wire.data.count(b"HTTP/1.1 ") == 1


def test_a_header_that_looks_like_a_request_for_a_stream_is_none(
    server: Server, channel: str, wire: Wire
) -> None:
    """The head of a request comes in two segments, and the second begins like a stream's."""
    before = stats(server)["sse_count"]
    for _ in range(2):
        wire.sock.sendall(b"GET /healthz HTTP/1.1\r\nX-Note: ")
        stats(server)  # what was sent has been read by now
        wire.send(get(channel), f"Host: {server.authority}")
        assert wire.until(b'{"status":"ok"}').count(b"HTTP/1.1 ") == 1
        wire.data = b""
    assert stats(server)["sse_count"] == before


def test_frames_in_the_segment_of_the_upgrade(server: Server, channel: str, wire: Wire) -> None:
    subscribe = json.dumps({"type": "subscribe", "channel": channel, "id": "s"}).encode()
    say = json.dumps(
        {"type": "publish", "event": {"channel": channel, "data": "mine"}, "id": "p"}
    ).encode()
    wire.send(
        "GET /realtime/ws HTTP/1.1",
        f"Host: {server.authority}",
        *UPGRADE,
        body=ws_frame(subscribe) + ws_frame(say) + ws_frame(b'{"type":"ping","id":"h"}')[:7],
    )
    data = wire.until(b'"id":"p"')
    assert data.index(b'"connected"') < data.index(b'"id":"s"') < data.index(b'"id":"p"')
    wire.until(b'"data":"mine"')
    wire.sock.sendall(ws_frame(b'{"type":"ping","id":"h"}')[7:])
    wire.until(b'"id":"h"')


def test_expect_100_continue(server: Server, channel: str, wire: Wire) -> None:
    host = f"Host: {server.authority}"
    body = json.dumps({"channel": channel, "data": 1}).encode()
    wire.send(
        "POST /realtime/broadcast HTTP/1.1",
        host,
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Expect: 100-continue",
    )
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    wire.data = b""
    wire.sock.sendall(body)
    assert wire.until(b'"subscribers":').startswith(b"HTTP/1.1 200 ")


def test_a_stream_that_expects_100_continue(server: Server, channel: str, wire: Wire) -> None:
    wire.send(get(channel), f"Host: {server.authority}", "Expect: 100-continue")
    wire.until(b"retry:")
    publish(server, channel=channel, data="one")
    data = wire.until(b'"one"')
    assert re.findall(rb"HTTP/1\.1 (\d+)", data)[-1] == b"200"


def test_a_stream_request_with_a_body(server: Server, channel: str, wire: Wire) -> None:
    wire.send(get(channel), f"Host: {server.authority}", "Content-Length: 5", body=b"hello")
    wire.until(b"retry:")
    publish(server, channel=channel, data="one")
    assert b"hello" not in wire.until(b'"one"')


@pytest.mark.parametrize("later", [False, True], ids=["one segment", "later"])
def test_the_end_of_a_client_that_pipelined_is_noticed(
    server: Server, channel: str, later: bool
) -> None:
    """What nobody reads must not hide the end of the client behind it."""
    host = f"Host: {server.authority}"
    more = f"GET /healthz HTTP/1.1\r\n{host}\r\n\r\n".encode()
    with Wire(server.connect()) as wire:
        wire.send(get(channel), host, body=b"" if later else more)
        wire.until(b"retry:")
        if later:
            wire.sock.sendall(more)
        assert stats(server)["channels"][channel] == 1
    until(lambda: channel not in stats(server)["channels"], "end of the stream")


@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_a_half_close_ends_a_connection(
    server: Server, channel: str, wire: Wire, kind: str
) -> None:
    before = stats(server)["ended"].get("client_closed", 0)
    if kind == "sse":
        wire.send(get(channel), f"Host: {server.authority}")
        wire.until(b"retry:")
    else:
        wire.send("GET /realtime/ws HTTP/1.1", f"Host: {server.authority}", *UPGRADE)
        wire.until(b'"connected"')
    wire.sock.shutdown(socket.SHUT_WR)
    wire.end()
    until(lambda: stats(server)["ended"].get("client_closed", 0) == before + 1, "end")


def test_a_half_close_behind_a_post_still_gets_its_answer(
    server: Server, channel: str, wire: Wire
) -> None:
    body = json.dumps({"channel": channel, "data": 1}).encode()
    wire.send(
        "POST /realtime/broadcast HTTP/1.1",
        f"Host: {server.authority}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        body=body,
    )
    wire.sock.shutdown(socket.SHUT_WR)
    assert b'"subscribers":0' in wire.end()


def test_a_portable_server_takes_nothing_over(servers: Servers, channel: str) -> None:
    server = servers.get("portable")
    with Wire(server.connect()) as wire:
        wire.send(get(channel), f"Host: {server.authority}")
        wire.until(b"retry:")
        assert stats(server)["taken_over"] == 0
        assert stats(server)["portable"] >= 1


@pytest.mark.parametrize("kind", ["sse", "websocket"])
def test_a_hundred_resets_during_the_hand_over_leave_nothing(
    servers: Servers, way: str, channel: str, kind: str
) -> None:
    """Each client resets a little later than the one before: from "before the server has read
    the request" to "after the first frame"."""
    server = servers.fresh(way)
    request = (
        ws_request(server) + ws_frame(b'{"type":"subscribe","channel":"%b"}' % channel.encode())
        if kind == "websocket"
        else sse_request(server, f"channel={channel}")
    )
    stats(server)  # what is made on first use is there
    before = server.open_files()
    seen = [
        lambda data: True,
        lambda data: data,
        lambda data: b"\r\n\r\n" in data,
        lambda data: b"retry:" in data or b"connected" in data,
    ]
    for number in range(100):
        with Wire(server.connect()) as wire:
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            wire.sock.sendall(request)
            if number % 5 == 4:  # and while something is published to it
                publish(server, channel=channel, data="x" * 30_000)
            wire.until(seen[number % 4])
    until(lambda: _connections(server) == 0, "end of all connections")
    until(lambda: server.open_files() <= before, "return of the descriptors")
    assert channel not in stats(server)["channels"]
    assert publish(server, channel=channel, data="nobody is left")["subscribers"] == 0
    server.stop()


def _connections(server: Server) -> int:
    counts = stats(server)
    return int(counts["sse_count"]) + int(counts["websocket_count"])


def test_strangers_who_take_a_descriptor_hear_nothing(
    serve: Callable[..., Server], way: str
) -> None:
    """Clients leave while frames of theirs still wait; strangers take their descriptors at once."""
    takeover = "--takeover" if way == "taken over" else "--no-takeover"
    patience = ("--handshake-seconds", "300", "--keep-alive-seconds", "300")  # with strangers
    server = serve(takeover, "--log-level", "warning", "--outbox-bytes", "4000000", *patience)
    count, event_bytes, events = 300, 50_000, 30
    with ExitStack() as stack, Crowd(server) as crowd:
        # Small windows: what is published waits on the server's side.
        members = crowd.join(count, sse_request(server, "channel=secret"), receive_buffer=8_192)
        crowd.pump(lambda: all(b"retry:" in member.data for member in members), "greeting")
        line = b'{"channel":"secret","data":"%b"}\n' % (b"s" * event_bytes)
        with ThreadPoolExecutor(1) as pool:
            published = pool.submit(
                call, server, "POST", "/realtime/broadcast", line * events, "application/x-ndjson"
            )
            crowd.pump(lambda: any(b"sss" in member.data for member in members), "first event")
            strangers = []
            for number, member in enumerate(members[: count // 2]):
                crowd.leave(member, reset=number % 2 == 0)
                stranger = server.connect()
                stack.callback(stranger.close)
                strangers.append(stranger)
                crowd.read()
            least = events * event_bytes
            crowd.pump(
                lambda: all(len(member.data) > least for member in members[count // 2 :]),
                "everything at those who stayed",
                60,
            )
            assert published.result(30).json["published"] == events
        until(lambda: stats(server)["sse_count"] == count - count // 2, "end of those who left")
        for stranger in strangers:
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(1 << 16)
