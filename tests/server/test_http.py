"""One client's HTTP: answers in order, deadlines, and a clean end for leaving and for draining."""

import json
import socket

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.connection import Connection
from triocast.floods import MAX_UNITS
from triocast.server.http import HTTP, MOST_HELD_BYTES
from triocast.server.http2 import PREFACE
from triocast.server.turnstile import Turnstile
from triocast.transports.native import NativeConnection
from triocast.transports.sse import SSEConnection

HANDSHAKE = 10.0
KEEP_ALIVE = 20.0
SEND = 30.0

STREAM = b"GET /realtime/events HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def get(path, *lines):
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: x", *lines, b"", b""])


def publish(number, *lines):
    body = b'{"channel":"x","data":%d}' % number
    length = b"Content-Length: %d" % len(body)
    head = [b"POST /realtime/broadcast HTTP/1.1", b"Host: x", length, *lines]
    return b"\r\n".join([*head, b"Content-Type: application/json", b"", body])


class App:
    """Answers with the path, as soon as it may. Knows which requests are under way."""

    def __init__(self):
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.under_way = []

    def hold(self):
        """Have requests wait from now on."""
        self.may_answer = trio.Event()

    async def __call__(self, scope, receive, send):
        self.under_way.append(scope["path"])
        try:
            await self.may_answer.wait()
            body = scope["path"].encode()
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            self.under_way.remove(scope["path"])


@attrs.define
class Session:
    """One client, and its HTTP on the server."""

    client: object
    site: object
    stream: trio.SocketStream
    http: HTTP
    ended: trio.Event = attrs.field(factory=trio.Event)
    taken: Connection | None = None

    async def serve(self):
        self.taken = await self.http.serve()
        self.ended.set()
        if self.taken is None:
            self.stream.socket.close()


@pytest.fixture
async def open_http(open_site, pair, nursery):
    """Open a connection to a site; requests that are no shortcuts go to an application."""

    def open_http(app, *, site=None, sndbuf=None, **options):
        bounds = {"keep_alive_seconds": KEEP_ALIVE, "heartbeat_seconds": SEND}
        site = site or open_site(app, **(bounds | options))
        client, accepted = pair()
        if sndbuf is not None:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        http = HTTP(site.service, stream, trio.current_time() + HANDSHAKE)
        http.look_at_peer()
        session = Session(client, site, stream, http)
        nursery.start_soon(session.serve)
        return session

    return open_http


async def ends_within(session, seconds):
    """Whether the HTTP ends in this time."""
    with trio.move_on_after(seconds):
        await session.ended.wait()
    return session.ended.is_set()


# Floods.

CHUNK_FLOOD = (
    b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n" + b"1\r\n \r\n" * (MAX_UNITS + 10)
)
PING = b"\0\0\x08\6" + bytes(13)
PING_FLOOD = PREFACE + b"\0\0\0\4" + bytes(5) + PING * (MAX_UNITS + 10)


@pytest.mark.parametrize(
    "flood", [CHUNK_FLOOD % b"/realtime/broadcast", CHUNK_FLOOD % b"/a", PING_FLOOD]
)
async def test_a_flood_is_counted_and_logged(open_http, autojump_clock, caplog, flood):
    async def take_body(scope, receive, send):
        while (await receive())["type"] == "http.request":
            pass

    caplog.set_level("INFO", logger="triocast.access")
    session = open_http(take_body)
    await session.client.send(flood)
    assert await ends_within(session, 3)
    assert session.site.node.connections.refused == {"flood": 1}
    assert "refuse code=flood" in caplog.text
    assert session.http.linger


# Requests and their order.


async def test_requests_of_all_kinds_share_a_connection(open_http, autojump_clock):
    session = open_http(App())
    for number in (1, 2):
        assert (await session.client.ask(get(b"/a"))).body == b"/a"
        reply = await session.client.ask(publish(number))
        assert json.loads(reply.body)["channel"] == "x"
        assert session.site.node.engine.head.seq == number


async def test_requests_that_come_together_are_answered_in_their_order(open_http, autojump_clock):
    session = open_http(App())
    data = publish(1) + publish(2) + get(b"/a") + get(b"/b") + get(b"/c")
    await session.client.send(data)
    ids = [json.loads((await session.client.response()).body)["id"] for _ in range(2)]
    assert [id.rpartition(".")[2] for id in ids] == ["1", "2"]
    bodies = [(await session.client.response()).body for _ in range(3)]
    assert bodies == [b"/a", b"/b", b"/c"]


async def test_a_request_that_comes_in_pieces_is_answered(open_http, autojump_clock):
    session = open_http(App())
    for data in (publish(1), get(b"/a")):
        for byte in data:
            await session.client.send(bytes((byte,)))
            await wait_all_tasks_blocked()
        assert (await session.client.response()).status == 200


async def test_a_small_response_leaves_in_one_write(open_http, autojump_clock):
    session = open_http(App())
    writes = []
    send_all = session.stream.send_all

    async def note(data):
        writes.append(bytes(data))
        await send_all(data)

    session.stream.send_all = note
    await session.client.ask(get(b"/a"))
    assert len(writes) == 1
    assert writes[0].endswith(b"\r\n\r\n/a")


async def test_established_clients_do_not_queue_behind_new_ones(
    open_http, open_site, autojump_clock
):
    site = open_site(App())
    arrivals = Turnstile(1)  # it does not turn
    site = attrs.evolve(site, service=attrs.evolve(site.service, arrivals=arrivals))
    first, second = open_http(None, site=site), open_http(None, site=site)
    assert (await first.client.ask(publish(1))).status == 200
    await second.client.send(STREAM)
    assert (await first.client.ask(publish(2))).status == 200
    await wait_all_tasks_blocked()
    assert second.taken is None


@pytest.mark.parametrize(
    "data", [publish(1, b"Connection: close"), get(b"/a", b"Connection: close")]
)
async def test_a_client_that_asks_to_close_is_answered_first(open_http, data, autojump_clock):
    session = open_http(App())
    response = await session.client.ask(data)
    assert (response.status, response.headers[b"connection"]) == (200, b"close")
    assert await ends_within(session, 0.1)
    assert session.http.linger
    assert await session.client.rest() == b""


async def test_bytes_that_are_not_a_request_get_a_400_and_end_the_connection(
    open_http, autojump_clock
):
    session = open_http(App())
    response = await session.client.ask(b"\0\1\2\3\r\n\r\n")
    assert response.status == 400
    await session.ended.wait()
    assert session.http.linger


@pytest.mark.parametrize("data", [b"GET /a HT", STREAM[:-2], publish(1)[:30]])
async def test_a_request_that_does_not_come_in_time_is_answered_so(open_http, data, autojump_clock):
    session = open_http(App())
    response = await session.client.ask(data)
    assert (response.status, json.loads(response.body)["code"]) == (408, "timeout")
    assert response.headers[b"connection"] == b"close"
    await session.ended.wait()
    assert session.http.linger


async def test_a_client_that_says_nothing_is_let_go_without_a_word(open_http, autojump_clock):
    session = open_http(App())
    assert await session.client.rest() == b""


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n"])
async def test_empty_lines_before_a_request_are_passed_over(open_http, lines):
    session = open_http(App())
    for _ in range(2):
        assert (await session.client.ask(lines + publish(1))).status == 200
        assert (await session.client.ask(lines + get(b"/a"))).status == 200
    await session.client.send(lines + STREAM)
    await session.ended.wait()
    assert session.taken is not None


async def test_a_client_that_pipelines_too_much_has_to_wait(open_http, nursery, autojump_clock):
    app = App()
    app.hold()
    session = open_http(app)
    session.client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    large = get(b"/a", b"X-Padding: " + b"x" * 8_000)
    count = 6 * MOST_HELD_BYTES // len(large)
    taken = 0

    async def ask():
        nonlocal taken
        for _ in range(count):
            await session.client.send(large)
            taken += len(large)

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    assert MOST_HELD_BYTES < taken < 3 * MOST_HELD_BYTES
    app.may_answer.set()
    bodies = [(await session.client.response()).body for _ in range(count)]
    assert bodies == [b"/a"] * count


# Streams.


@pytest.mark.parametrize("before", [b"", publish(1), get(b"/a")])
async def test_a_request_for_a_stream_ends_the_http_wherever_it_comes(
    open_http, before, autojump_clock
):
    session = open_http(App())
    if before:
        await session.client.ask(before)
    await session.client.send(STREAM)
    assert await ends_within(session, 0.1)
    assert isinstance(session.taken, SSEConnection)
    assert not session.http.linger


async def test_a_websocket_ends_the_http_too(open_http, autojump_clock):
    session = open_http(App())
    await session.client.send(UPGRADE % b"/realtime/ws")
    await session.ended.wait()
    assert isinstance(session.taken, NativeConnection)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (STREAM, {"takeover": False}),
        (STREAM, {"sse_enabled": False}),
        (STREAM.replace(b"events", b"events?named=2"), {}),
    ],
)
async def test_a_stream_that_is_not_taken_over_is_left_to_the_application(
    open_http, data, options, autojump_clock
):
    session = open_http(App(), **options)
    assert (await session.client.ask(data)).body == b"/realtime/events"
    assert session.taken is None


async def test_bytes_behind_an_upgrade_reach_the_application_once_it_accepts(
    open_http, autojump_clock
):
    texts = []

    async def app(scope, receive, send):
        await receive()
        await trio.sleep(1)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            texts.append(message["text"])

    session = open_http(app)
    frame = bytes((0x81, 0x82)) + bytes(4)
    await session.client.send(UPGRADE % b"/ws" + frame + b"e1")
    await session.client.send(frame + b"e2")
    await session.client.read_until(b"\r\n\r\n")
    await session.client.send(frame + b"e3")
    await wait_all_tasks_blocked()
    assert texts == ["e1", "e2", "e3"]


# Deadlines.


@pytest.mark.parametrize(
    "data",
    [b"", b"G", b"GET /realtime/even", STREAM[:-1], get(b"/a")[:-1], b"PRI"],
)
async def test_a_request_that_does_not_come_in_time_ends_the_connection(
    open_http, data, autojump_clock
):
    session = open_http(App())
    await session.client.send(data)
    assert not await ends_within(session, HANDSHAKE - 0.1)
    assert await ends_within(session, 0.2)
    assert session.http.linger
    assert session.taken is None


async def test_a_head_sent_byte_by_byte_gains_no_time(open_http, autojump_clock):
    session = open_http(App())

    async def drip():
        for byte in get(b"/a"):
            await session.client.send(bytes((byte,)))
            await trio.sleep(HANDSHAKE / 10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        assert not await ends_within(session, HANDSHAKE - 0.1)
        assert await ends_within(session, 0.2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("data", [get(b"/a"), publish(1)])
async def test_the_next_request_has_its_own_time(open_http, data, autojump_clock):
    session = open_http(App())
    for _ in range(3):
        await session.client.ask(data)
        assert not await ends_within(session, KEEP_ALIVE - 0.1)
    assert await ends_within(session, 0.2)
    assert session.http.linger


async def test_a_request_under_way_may_take_as_long_as_it_needs(open_http, autojump_clock):
    app = App()
    app.hold()
    session = open_http(app)
    await session.client.send(get(b"/a"))
    assert not await ends_within(session, 10 * KEEP_ALIVE)
    app.may_answer.set()
    assert (await session.client.response()).body == b"/a"


async def test_a_publish_whose_rest_comes_late_is_left_to_the_application(
    open_http, autojump_clock
):
    async def app(scope, receive, send):
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    session = open_http(app)
    data = publish(1)
    await session.client.send(data[:-1])
    await trio.sleep(HANDSHAKE / 2)
    assert (await session.client.ask(data[-1:])).body == data.partition(b"\r\n\r\n")[2]
    assert session.site.node.engine.head.seq == 0


async def test_a_client_that_reads_nothing_is_disconnected(open_http, autojump_clock):
    ended = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await trio.sleep(0.1)
                await send(
                    {"type": "http.response.body", "body": bytes(100_000), "more_body": True}
                )
        finally:
            ended.append(scope["path"])

    session = open_http(app, sndbuf=4_096)
    await session.client.send(get(b"/a"))
    assert not await ends_within(session, SEND - 0.1)
    await ends_within(session, 2)
    assert session.ended.is_set()
    assert ended == ["/a"]


# The end.


@pytest.mark.parametrize("before", [b"", publish(1), get(b"/a")])
async def test_a_client_that_leaves_between_requests_ends_the_connection(
    open_http, before, autojump_clock
):
    session = open_http(App())
    if before:
        await session.client.ask(before)
    session.client.close()
    assert await ends_within(session, 1.1)


async def test_an_application_is_told_that_its_client_left(open_http, autojump_clock):
    told = []

    async def app(scope, receive, send):
        while not told or told[-1]["type"] != "http.disconnect":
            told.append(await receive())

    session = open_http(app)
    await session.client.send(get(b"/a"))
    await wait_all_tasks_blocked()
    session.client.close()
    assert await ends_within(session, 0.1)
    assert told[-1] == {"type": "http.disconnect"}


async def test_an_application_that_does_not_listen_is_cancelled(open_http, autojump_clock):
    app = App()
    app.hold()
    session = open_http(app)
    await session.client.send(get(b"/a"))
    await wait_all_tasks_blocked()
    session.client.close()
    assert await ends_within(session, 1.1)
    assert app.under_way == []


@pytest.mark.parametrize("before", [b"", publish(1), get(b"/a")])
async def test_a_drain_ends_an_idle_connection_at_once(open_http, before, autojump_clock):
    session = open_http(App())
    if before:
        await session.client.ask(before)
    await wait_all_tasks_blocked()
    session.http.drain()
    assert await ends_within(session, 0.001)
    assert session.http.linger


async def test_a_drain_lets_a_request_under_way_be_answered(open_http, autojump_clock):
    app = App()
    app.hold()
    session = open_http(app)
    await session.client.send(get(b"/a"))
    await wait_all_tasks_blocked()
    session.http.drain()
    assert not await ends_within(session, 10 * KEEP_ALIVE)
    app.may_answer.set()
    assert (await session.client.response()).body == b"/a"
    assert await ends_within(session, 0.1)
    assert session.http.linger
