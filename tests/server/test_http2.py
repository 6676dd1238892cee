"""HTTP/2: a bad request costs its stream alone, a hostile client its connection alone."""

import json

import h2.events
import pytest
import trio
from h2.errors import ErrorCodes
from hypercorn.events import Closed, RawData
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast.floods import MAX_UNITS, MIN_DATA_BYTES, UNITS_PER_SECOND
from triocast.server.config import H2_STREAMS
from triocast.server.http1 import Flooded
from triocast.server.http2 import (
    END_SECONDS,
    FRAMES_PER_PORTION,
    PREFACE,
    RESET_UNITS,
    FrameHeads,
    SafeH2Protocol,
    SafeStreamBuffer,
)

from .clients import H2Client


def frame(length: int, kind: int = 0, stream: int = 1) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, 0)) + stream.to_bytes(4, "big") + bytes(length)


HEADERS = 1


def heads_of(chunks):
    """Return the heads in these bytes; check that no byte is lost and no portion is too large."""
    follower = FrameHeads()
    found = []
    for chunk in chunks:
        portions = list(follower.portions(chunk))
        assert b"".join(portion for portion, _ in portions) == chunk
        assert all(len(heads) <= FRAMES_PER_PORTION for _, heads in portions)
        assert all(head.kind != HEADERS for _, heads in portions for head in heads[:-1])
        found += [head for _, heads in portions for head in heads]
    return found


frames = st.tuples(st.integers(0, 100), st.integers(0, 255), st.integers(0, 2**31 - 1))


@given(st.lists(frames, max_size=30), st.lists(st.integers(0, 100), max_size=20))
def test_frames_are_followed_whatever_the_chunks(frames, sizes):
    stream = PREFACE + b"".join(frame(*each) for each in frames)
    chunks = []
    for size in [*sizes, len(stream)]:
        chunks.append(stream[:size])
        stream = stream[size:]
    assert [(h.length, h.kind, h.stream) for h in heads_of(chunks)] == frames


def test_a_length_is_known_before_its_payload_comes():
    (head,) = heads_of([PREFACE + (1 << 23).to_bytes(3, "big") + bytes(6)])
    assert head.length == 1 << 23


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


async def test_a_response_that_the_application_leaves_is_reset_behind_all_of_it(open_http2):
    """Upstream leaves it open, and its client waits for ever."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/left":
            await send({"type": "http.response.body", "body": bytes(40_000), "more_body": True})
        else:
            await send({"type": "http.response.body", "body": b"whole"})

    client, protocol, sent = await open_http2(app)
    left = client.get("/left")
    await client.talk(protocol, sent)
    assert len(client.bodies[left]) == 40_000
    assert client.resets == {left: ErrorCodes.CANCEL}
    assert client.ended == []
    assert left not in protocol.stream_buffers
    whole = client.get("/whole")
    await client.talk(protocol, sent)
    assert client.bodies[whole] == b"whole"
    assert client.ended == [whole]


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


LARGE = (b"x", b"x" * 20_000)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([(b":method", b"GET"), *WEBSOCKET[2:5], LARGE], b"431", "head_too_large"),
        ([*WEBSOCKET, LARGE], b"431", "head_too_large"),
        ([(b":method", b"get"), *WEBSOCKET[2:5]], b"501", "not_supported"),
        ([*without(b"sec-websocket-version"), (b"sec-websocket-version", b"8")], b"400",
         "upgrade_required"),
        (without(b"sec-websocket-version"), b"400", "bad_request"),
    ],
)  # fmt: skip
async def test_what_is_refused_is_told_in_json_and_others_go_on(open_http2, headers, status, code):
    app = App()
    client, protocol, sent = await open_http2(app)
    refused = client.ask(headers, end=False)
    await client.talk(protocol, sent)
    assert client.heads[refused][b":status"] == status
    assert json.loads(client.bodies[refused])["code"] == code
    assert refused in client.ended
    assert app.scopes == []
    other = client.get("/one")
    await client.talk(protocol, sent)
    assert client.bodies[other] == b"GET /one"


async def test_priority_frames_are_ignored(open_http2, autojump_clock):
    client, protocol, sent = await open_http2(App())
    for stream in range(1, 3_001, 2):
        client.connection.prioritize(stream, weight=10, depends_on=0)
        await client.talk(protocol, sent)
        await trio.sleep(1 / UNITS_PER_SECOND)
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


MOST_RESETS = MAX_UNITS // RESET_UNITS - 1
"""Streams that a client may reset at once; its settings and their acknowledgement count, too."""


@pytest.mark.parametrize("whole", [True, False])
async def test_a_flood_of_resets_before_the_answer_ends_the_connection(
    open_http2, autojump_clock, whole
):
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


async def test_a_late_answer_to_a_reset_stream_does_not_excuse_it(open_http2, autojump_clock):
    app = App(patient=True)
    client, protocol, sent = await open_http2(app)
    for _ in range(MOST_RESETS):
        client.connection.reset_stream(client.get("/slow"))
    await client.talk(protocol, sent)
    app.may_answer.set()
    await wait_all_tasks_blocked()
    app.may_answer = trio.Event()
    for _ in range(2):
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


async def test_streams_that_were_answered_may_all_be_reset_at_once(open_http2, autojump_clock):
    """A browser that is closed does so, behind a proxy that has many of them on one connection."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep_forever()

    client, protocol, sent = await open_http2(app)
    streams = [client.get("/events") for _ in range(H2_STREAMS)]
    await client.talk(protocol, sent)
    await trio.sleep(3_600)
    for stream in streams:
        client.connection.reset_stream(stream)
    await client.talk(protocol, sent)
    assert client.goodbye is None
    assert len(streams) > MOST_RESETS


# Floods.


def padded(stream: int, size: int) -> bytes:
    data = bytes((size,)) + bytes(size)
    return len(data).to_bytes(3, "big") + b"\0\x08" + stream.to_bytes(4, "big") + data


FLOODS = {
    "WINDOW_UPDATE of the connection": frame(0, 8, 0)[:9].replace(b"\0\0\0", b"\0\0\4", 1)
    + b"\0\0\0\1",
    "WINDOW_UPDATE of a stream": frame(0, 8, 1)[:9].replace(b"\0\0\0", b"\0\0\4", 1) + b"\0\0\0\1",
    "PRIORITY": b"\0\0\5\2\0\0\0\0\1" + b"\0\0\0\0\x10",
    "SETTINGS": frame(0, 4, 0),
    "SETTINGS acknowledged": b"\0\0\0\4\1\0\0\0\0",
    "PING": frame(8, 6, 0),
    "unknown": frame(3, 0x55, 1),
    "empty DATA": frame(0),
    "small DATA": frame(1),
    "padding": padded(1, 20),
    "RST_STREAM of a closed stream": frame(4, 3, 3),
    "empty DATA of a closed stream": frame(0, 0, 3),
    "DATA of a closed stream": frame(20, 0, 3),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("size", [200, 65_536])
async def test_a_flood_of_frames_that_say_nothing_ends_the_connection(
    open_http2, autojump_clock, name, size
):
    client, protocol, sent = await open_http2(Uploads())
    client.request(b"/upload", method=b"POST", end=False)
    closed = client.get("/healthz")
    assert closed == 3
    await client.talk(protocol, sent)
    assert client.ended == [closed]
    flood = FLOODS[name] * (MAX_UNITS + 20)
    for start in range(0, len(flood), size):
        await protocol.handle(RawData(flood[start : start + size]))
        await wait_all_tasks_blocked()
    client.receive(sent.take())
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM
    await protocol.handle(RawData(b"\xff" * 100))
    assert sent.take() == b""
    assert [type(event) for event in sent.events if isinstance(event, Closed)] == [Flooded]


async def test_a_flood_of_requests_that_are_refused_ends_the_connection(open_http2, autojump_clock):
    client, protocol, sent = await open_http2(App())
    for _ in range(MAX_UNITS // RESET_UNITS + 1):
        client.request(b"no path")
    await client.talk(protocol, sent)
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_settings_count_by_their_size(open_http2, autojump_clock):
    """`h2` keeps what it is told, also what it does not know."""
    client, protocol, sent = await open_http2(App())
    unknown = b"".join(number.to_bytes(2, "big") + bytes(4) for number in range(1_000, 3_000))
    for _ in range(10):
        await protocol.handle(RawData(len(unknown).to_bytes(3, "big") + b"\4" + bytes(5) + unknown))
    client.receive(sent.take())
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_one_read_of_small_frames_is_done_in_turns(
    open_http2, work, monkeypatch, autojump_clock
):
    units = SafeH2Protocol._event_units

    def count(self, event):
        work.did()
        return units(self, event)

    monkeypatch.setattr(SafeH2Protocol, "_event_units", count)
    client, protocol, _ = await open_http2(App())
    pings = MAX_UNITS - 10
    await protocol.handle(RawData(FLOODS["PING"] * pings))
    assert work.done > pings > work.PER_TURN
    assert work.longest <= work.PER_TURN + FRAMES_PER_PORTION
    assert client.goodbye is None


class Uploads(App):
    """Takes the bodies of POSTs, and answers with their size."""

    async def __call__(self, scope, receive, send):
        if scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % size})


async def test_a_client_with_many_requests_is_no_flood(open_http2, autojump_clock):
    """Browsers send frames for windows and priorities with each request."""
    client, protocol, sent = await open_http2(Uploads())
    for _ in range(MAX_UNITS):
        stream = client.request(b"/one", method=b"POST", end=False)
        client.connection.prioritize(stream, weight=10, depends_on=0)
        client.connection.increment_flow_control_window(1_000, stream)
        client.connection.increment_flow_control_window(1_000)
        client.connection.send_data(stream, b"{}")
        client.connection.send_data(stream, b"", end_stream=True)
        await client.talk(protocol, sent)
    assert client.goodbye is None
    assert len(client.ended) == MAX_UNITS


async def test_a_client_that_publishes_the_smallest_events_one_by_one_is_no_flood(
    open_http2, autojump_clock
):
    client, protocol, sent = await open_http2(Uploads())
    stream = client.request(b"/upload", method=b"POST", end=False)
    line = b'{"data":1}\n'
    assert len(line) >= MIN_DATA_BYTES
    for _ in range(4):
        for _ in range(MAX_UNITS):
            client.connection.send_data(stream, line)
        await client.talk(protocol, sent)
    client.connection.end_stream(stream)
    await client.talk(protocol, sent)
    assert client.bodies == {stream: b"%d" % (4 * MAX_UNITS * len(line))}


async def test_a_client_that_opens_its_windows_for_each_event_is_no_flood(
    open_http2, autojump_clock
):
    count = 2 * MAX_UNITS
    event = b'data: {"type":"t","timestamp":"2026-01-01T00:00:00.000Z","data":1}\n\n'

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(count):
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await trio.sleep(0.000_1)
        await send({"type": "http.response.body", "body": b""})

    client, protocol, sent = await open_http2(app)
    stream = client.get("/events")
    await client.talk(protocol, sent)
    while stream not in client.ended:
        await trio.sleep(0.000_1)
        heard = len(client.heard(h2.events.DataReceived))
        await client.talk(protocol, sent)
        more = client.heard(h2.events.DataReceived)[heard:]
        for _ in more if stream not in client.ended else ():
            client.connection.increment_flow_control_window(len(event), stream)
            client.connection.increment_flow_control_window(len(event))
    assert client.goodbye is None
    assert client.bodies[stream] == count * event


async def test_a_client_whose_windows_are_tiny_is_sent_little_for_it(open_http2, autojump_clock):
    """Each byte that it takes would be a frame of its own, without end."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(1_000_000)})

    client, protocol, sent = await open_http2(app)
    stream = client.get("/events")
    await client.talk(protocol, sent)
    assert client.connection.remote_flow_control_window(stream) == 0
    for _ in range(MAX_UNITS + 100):
        if client.goodbye is None:
            client.connection.increment_flow_control_window(1, stream)
            client.connection.increment_flow_control_window(1)
            await client.talk(protocol, sent)
    assert client.goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_small_messages_of_a_websocket_are_no_flood(open_http2, autojump_clock):
    class Texts(App):
        async def __call__(self, scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                self.scopes.append(scope)

    app = Texts()
    client, protocol, sent = await open_http2(app)
    stream = client.ask(WEBSOCKET, end=False)
    await client.talk(protocol, sent)
    for _ in range(2):
        for _ in range(MAX_UNITS):
            client.connection.send_data(stream, b"\x81\x81" + bytes(4) + b"x")
        await client.talk(protocol, sent)
    assert len(app.scopes) == 2 * MAX_UNITS
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
