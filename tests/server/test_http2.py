"""HTTP/2: a bad request costs its stream alone, a hostile client its connection alone."""

import h2.events
import pytest
import trio
from h2.errors import ErrorCodes
from hypercorn.events import RawData
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast.server.http2 import (
    END_SECONDS,
    MOST_RESETS,
    PREFACE,
    FrameHeads,
    SafeH2Protocol,
    SafeStreamBuffer,
)

from .clients import H2Client


def frame(length: int) -> bytes:
    return length.to_bytes(3, "big") + bytes(6) + bytes(length)


@given(
    st.lists(st.integers(0, 100), max_size=5),
    st.lists(st.integers(0, 100), max_size=20),
)
def test_frame_lengths_are_known_whatever_the_chunks(lengths, sizes):
    stream = PREFACE + b"".join(frame(length) for length in lengths)
    heads = FrameHeads()
    for size in [*sizes, len(stream)]:
        heads.feed(stream[:size])
        stream = stream[size:]
    assert heads.longest == max(lengths, default=0)


def test_a_length_is_known_before_its_payload_comes():
    heads = FrameHeads()
    heads.feed(PREFACE + (1 << 23).to_bytes(3, "big") + bytes(6))
    assert heads.longest == 1 << 23


async def test_a_writer_waits_until_little_is_left(nursery, autojump_clock):
    buffer = SafeStreamBuffer(EventWrapper)
    written = []

    async def write() -> None:
        for number in range(4):
            await buffer.push(bytes(20_000))
            written.append(number)

    nursery.start_soon(write)
    await wait_all_tasks_blocked()
    assert written == [0]  # the second one made it too much, and waits
    await buffer.pop(100)
    await wait_all_tasks_blocked()
    assert written == [0]  # little was taken, so much is left
    await buffer.pop(39_000)
    await wait_all_tasks_blocked()
    assert written == [0, 1, 2]


# The protocol.


class App:
    """Answers with the method and path; ``patient``: once it may. Remembers scopes and ends."""

    def __init__(self, *, patient=False):
        self.scopes = []
        self.ended = trio.Event()
        self.may_answer = trio.Event()
        if not patient:
            self.may_answer.set()

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await trio.sleep_forever()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = f"{scope['method']} {scope['path']}".encode()
        await send({"type": "http.response.body", "body": body})
        self.ended.set()


@pytest.fixture
async def open_http2(open_protocol):
    """Open a connection to an application; return its client, the protocol and what it `Sent`."""

    async def open_http2(app, **options):
        protocol, sent = await open_protocol(SafeH2Protocol, app, **options)
        client = H2Client()
        client.begin()
        await client.talk(protocol, sent)
        return client, protocol, sent

    return open_http2


async def test_streams_of_one_connection_are_answered_apart(open_http2):
    client, protocol, sent = await open_http2(App())
    first, second = client.get("/one"), client.request(b"/two", method=b"DELETE")
    await client.talk(protocol, sent)
    assert client.bodies == {first: b"GET /one", second: b"DELETE /two"}
    assert sorted(client.ended) == [first, second]


async def test_a_body_larger_than_the_window_comes_through(open_http2):
    async def app(scope, receive, send):
        size = 0
        while (message := await receive())["more_body"]:
            size += len(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % size})

    client, protocol, sent = await open_http2(app)
    stream = client.request(b"/upload", method=b"POST", end=False)
    for _ in range(20):
        client.connection.send_data(stream, bytes(10_000))
        await client.talk(protocol, sent)
    client.connection.end_stream(stream)
    await client.talk(protocol, sent)
    assert client.bodies == {stream: b"200000"}


WEBSOCKET = (
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":authority", b"x"),
    (b":path", b"/ws"),
    (b"sec-websocket-version", b"13"),
)


def without(name):
    return [field for field in WEBSOCKET if field[0] != name]


@pytest.mark.parametrize(
    "headers",
    [
        [(b":method", b"GET"), *WEBSOCKET[2:4], (b":path", b"x")],
        [(b":method", b"GET"), *WEBSOCKET[2:4], (b":path", b"/caf\xe9")],
        [(b":method", b"G\xcbT"), *WEBSOCKET[2:5]],
        [*WEBSOCKET, (b"sec-websocket-protocol", b"caf\xe9")],
        [*WEBSOCKET, (b"sec-websocket-extensions", b"caf\xe9")],
        [(b":method", b"CONNECT"), (b":authority", b"x:80")],
        [(b":protocol", b"other"), *without(b":protocol")],
    ],
)
async def test_a_request_that_hypercorn_would_fail_on_is_reset_alone(open_http2, headers):
    app = App()
    client, protocol, sent = await open_http2(app)
    wrong = client.ask(headers)
    right = client.get("/right")
    await client.talk(protocol, sent)
    assert client.resets == {wrong: ErrorCodes.PROTOCOL_ERROR}
    assert client.bodies == {right: b"GET /right"}
    assert [scope["path"] for scope in app.scopes] == ["/right"]


async def test_a_websocket_is_opened_without_compression(open_http2):
    app = App()
    client, protocol, sent = await open_http2(app)
    offer = (b"sec-websocket-extensions", b"permessage-deflate")
    stream = client.ask([*WEBSOCKET, offer], end=False)
    await client.talk(protocol, sent)
    assert client.heads[stream][b":status"] == b"200"
    (scope,) = app.scopes
    assert (scope["type"], scope["path"]) == ("websocket", "/ws")
    assert offer not in scope["headers"]


async def test_priority_frames_are_ignored(open_http2):
    client, protocol, sent = await open_http2(App())
    for stream in range(1, 3_001, 2):
        client.connection.prioritize(stream, weight=10, depends_on=0)
    await client.talk(protocol, sent)
    stream = client.get("/one")
    await client.talk(protocol, sent)
    assert client.bodies == {stream: b"GET /one"}


async def test_data_behind_a_response_that_came_early_does_no_harm(open_http2):
    client, protocol, sent = await open_http2(App())
    stream = client.request(b"/upload", method=b"POST", end=False)
    await client.talk(protocol, sent)
    assert client.bodies == {stream: b"POST /upload"}
    before = client.connection.local_flow_control_window(stream)
    sent_bytes = 0
    while sent_bytes < 3 * 65_535:  # more than the windows have room for at first
        size = min(10_000, client.connection.local_flow_control_window(stream))
        assert size, "the server opens no window"
        client.connection.send_data(stream, bytes(size))
        sent_bytes += size
        await client.talk(protocol, sent)
    assert client.connection.local_flow_control_window(stream) > before - 65_535
    assert client.goodbye is None
    other = client.get("/one")
    await client.talk(protocol, sent)
    assert client.bodies[other] == b"GET /one"


@pytest.mark.parametrize("whole", [True, False])
async def test_a_flood_of_resets_before_the_answer_ends_the_connection(open_http2, whole):
    """CVE-2023-44487, with requests that are whole and such that are not."""
    client, protocol, sent = await open_http2(App(patient=True))

    async def reset_one():
        client.connection.reset_stream(client.request(b"/slow", end=whole))
        await client.talk(protocol, sent)

    for _ in range(MOST_RESETS):
        await reset_one()
    assert client.goodbye is None
    await reset_one()
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM
    assert sent.is_closed


async def test_a_late_answer_to_a_reset_stream_does_not_excuse_it(open_http2):
    app = App(patient=True)
    client, protocol, sent = await open_http2(app)
    for _ in range(MOST_RESETS):
        client.connection.reset_stream(client.get("/slow"))
    await client.talk(protocol, sent)
    app.may_answer.set()
    await wait_all_tasks_blocked()
    app.may_answer = trio.Event()
    client.connection.reset_stream(client.get("/slow"))
    await client.talk(protocol, sent)
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_resets_of_streams_that_were_answered_are_no_flood(open_http2):
    """A page that closes its stream of events has no other way to do so."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep_forever()

    client, protocol, sent = await open_http2(app)
    for _ in range(MOST_RESETS + 1):
        stream = client.get("/events")
        await client.talk(protocol, sent)
        client.connection.reset_stream(stream)
    await client.talk(protocol, sent)
    assert client.goodbye is None


async def test_resets_among_requests_that_are_answered_are_no_flood(open_http2):
    client, protocol, sent = await open_http2(App())
    for _ in range(MOST_RESETS + 1):
        client.connection.reset_stream(client.get("/a"))
        client.get("/b")
        await client.talk(protocol, sent)
    assert client.goodbye is None


async def test_a_frame_beyond_the_bound_is_refused_before_its_payload_comes(open_http2):
    client, protocol, sent = await open_http2(App())
    bound = protocol.config.h2_max_inbound_frame_size
    await protocol.handle(RawData((bound + 1).to_bytes(3, "big") + bytes(6)))
    client.receive(sent.take())
    assert client.goodbye == ErrorCodes.FRAME_SIZE_ERROR
    assert sent.is_closed


async def test_in_a_drain_a_response_ends_before_its_connection(open_http2):
    context = WorkerContext(None)
    app = App(patient=True)
    client, protocol, sent = await open_http2(app, context=context)
    stream = client.get("/slow")
    await client.talk(protocol, sent)
    await context.terminated.set()
    app.may_answer.set()
    await wait_all_tasks_blocked()
    client.receive(sent.take())
    kinds = [type(event) for event in client.events]
    assert kinds.index(h2.events.StreamEnded) < kinds.index(h2.events.ConnectionTerminated)
    assert client.bodies == {stream: b"GET /slow"}
    assert client.goodbye == ErrorCodes.NO_ERROR


async def test_in_a_drain_a_new_request_is_refused(open_http2):
    context = WorkerContext(None)
    app = App()
    client, protocol, sent = await open_http2(app, context=context)
    await context.terminated.set()
    stream = client.get("/late")
    await client.talk(protocol, sent)
    assert stream in client.resets
    assert app.scopes == []


async def test_waiting_for_the_end_of_a_stream_has_a_deadline(
    open_http2, autojump_clock, monkeypatch
):
    app = App(patient=True)
    client, protocol, sent = await open_http2(app)
    client.get("/slow")
    await client.talk(protocol, sent)

    async def take_nothing(event):
        if isinstance(event, RawData):
            await trio.sleep_forever()

    async def send_head_only(event):
        monkeypatch.setattr(protocol, "send", take_nothing)

    monkeypatch.setattr(protocol, "send", send_head_only)
    app.may_answer.set()
    await wait_all_tasks_blocked()
    assert not app.ended.is_set()
    with trio.fail_after(END_SECONDS + 0.1):
        await app.ended.wait()
