"""HTTP/1.1: one request at a time, bad heads are refused, and no byte behind an upgrade is lost."""

import json

import pytest
import trio
from hypercorn.events import Closed, RawData
from trio.testing import wait_all_tasks_blocked

from triocast.errors import Timeout
from triocast.floods import MAX_UNITS
from triocast.server.http1 import Flooded, SafeH11Protocol

UPGRADE = (
    b"Host: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def get(path, *lines):
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: x", *lines, b"", b""])


def upgrade(*lines):
    return b"GET /ws HTTP/1.1\r\n" + UPGRADE + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def text_frame(text):
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text


class App:
    """Answers each request with its path once it may, and remembers the scopes."""

    def __init__(self, *, patient=False):
        self.scopes = []
        self.may_answer = trio.Event()
        self.texts = []
        if not patient:
            self.may_answer.set()

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        await self.may_answer.wait()
        if scope["type"] == "websocket":
            await self.talk(receive, send)
            return
        head = {"type": "http.response.start", "status": 200, "headers": []}
        await send(head)
        await send({"type": "http.response.body", "body": scope["raw_path"]})

    async def talk(self, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.texts.append(message["text"])


@pytest.fixture
async def open_http1(open_protocol):
    async def open_http1(app):
        return await open_protocol(SafeH11Protocol, app)

    return open_http1


async def feed(protocol, data):
    await protocol.handle(RawData(data))
    await wait_all_tasks_blocked()


def statuses(data):
    """Return the status lines in these bytes."""
    return [int(line[9:12]) for line in data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# Turns.


async def test_requests_on_one_connection_are_answered_one_after_the_other(open_http1):
    protocol, sent = await open_http1(App())
    for path in (b"/a", b"/b"):
        assert protocol.at_rest
        await feed(protocol, get(path))
        data = sent.take()
        assert statuses(data) == [200]
        assert path in data
        assert sent.idle
    assert not sent.is_closed


async def test_a_request_behind_one_under_way_waits_for_its_turn(open_http1):
    app = App(patient=True)
    protocol, sent = await open_http1(app)
    await feed(protocol, get(b"/a") + get(b"/b"))
    assert [scope["path"] for scope in app.scopes] == ["/a"]
    assert protocol.paused
    assert protocol.held_bytes == len(get(b"/b"))
    await feed(protocol, get(b"/c"))
    assert protocol.held_bytes == len(get(b"/b") + get(b"/c"))
    app.may_answer.set()
    await wait_all_tasks_blocked()
    assert [scope["path"] for scope in app.scopes] == ["/a"]  # until somebody says so
    for path in ("/b", "/c"):
        assert protocol.paused
        await protocol.resume()
        await wait_all_tasks_blocked()
        assert app.scopes[-1]["path"] == path
    assert not protocol.paused
    assert protocol.held_bytes == 0
    assert statuses(sent.take()) == [200] * 3


async def test_a_client_that_leaves_while_a_request_waits_is_noticed(open_http1):
    told = []

    async def app(scope, receive, send):
        await receive()
        told.append(await receive())

    protocol, _ = await open_http1(app)
    await feed(protocol, get(b"/a") + get(b"/b"))
    await protocol.handle(Closed())
    await wait_all_tasks_blocked()
    assert told == [{"type": "http.disconnect"}]


async def test_it_is_known_whether_the_next_byte_begins_a_request(open_http1):
    app = App(patient=True)
    protocol, _ = await open_http1(app)
    assert protocol.at_rest
    await feed(protocol, get(b"/a")[:10])
    assert not protocol.at_rest
    await feed(protocol, get(b"/a")[10:])
    assert not protocol.at_rest
    app.may_answer.set()
    await wait_all_tasks_blocked()
    assert protocol.at_rest
    await feed(protocol, upgrade())
    assert not protocol.at_rest


# Upgrades.


async def test_bytes_behind_an_upgrade_are_held_until_it_is_accepted(open_http1):
    app = App(patient=True)
    protocol, sent = await open_http1(app)
    early = text_frame(b"early")
    await feed(protocol, upgrade() + early[:4])
    await feed(protocol, early[4:])
    assert protocol.held_bytes == len(early)
    assert sent.take() == b""
    app.may_answer.set()
    await wait_all_tasks_blocked()
    assert statuses(sent.take()) == [101]
    protocol.let_through()
    assert protocol.held_bytes == 0
    await protocol.resume()
    await feed(protocol, text_frame(b"late"))
    assert app.texts == ["early", "late"]


async def test_bytes_behind_a_refused_upgrade_are_not_read(open_http1):
    async def app(scope, receive, send):
        assert scope["type"] == "websocket"
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    protocol, sent = await open_http1(app)
    await feed(protocol, upgrade() + get(b"/b"))
    assert statuses(sent.take()) == [403]
    assert sent.is_closed


async def test_an_upgrade_that_lacks_something_is_refused_and_ends_the_connection(open_http1):
    app = App()
    protocol, sent = await open_http1(app)
    await feed(protocol, upgrade().replace(b"Sec-WebSocket-Version: 13\r\n", b""))
    assert statuses(sent.take()) == [400]
    assert sent.is_closed
    assert app.scopes == []


async def test_compression_is_not_offered_to_the_application(open_http1):
    app = App(patient=True)
    protocol, _ = await open_http1(app)
    await feed(protocol, upgrade(b"Sec-WebSocket-Extensions: permessage-deflate", b"X-Other: 1"))
    names = [name for name, _ in app.scopes[0]["headers"]]
    assert b"x-other" in names
    assert b"sec-websocket-extensions" not in names


@pytest.mark.parametrize(
    "data",
    [
        upgrade().replace(b"GET", b"POST"),
        upgrade().replace(b"WebSocket", b"other"),
        upgrade().replace(b"keep-alive, Upgrade", b"keep-alive"),
        upgrade().replace(b"keep-alive, Upgrade", b"x-upgrade"),
    ],
)
async def test_a_request_that_is_not_an_upgrade_is_served_as_http(open_http1, data):
    app = App()
    protocol, _ = await open_http1(app)
    await feed(protocol, data)
    assert app.scopes[0]["type"] == "http"


@pytest.mark.parametrize(
    "data",
    [
        upgrade(b"Sec-WebSocket-Protocol: caf\xe9"),
        upgrade(b"Sec-WebSocket-Extensions: caf\xe9"),
        get(b"http://[/"),
        get(b"realtime"),
        get(b"x:"),
    ],
)
async def test_a_head_that_hypercorn_or_quart_would_fail_on_is_refused(open_http1, data):
    app = App()
    protocol, sent = await open_http1(app)
    await feed(protocol, data)
    assert statuses(sent.take()) == [400]
    assert sent.is_closed
    assert app.scopes == []


@pytest.mark.parametrize("target", [b"/", b"/a?b", b"http://x/a", b"*"])
async def test_every_form_of_target_that_makes_sense_is_passed_on(open_http1, target):
    app = App()
    protocol, sent = await open_http1(app)
    await feed(protocol, get(target, b"X-Name: caf\xe9"))
    assert statuses(sent.take()) == [200]


async def test_bytes_that_are_not_http_get_a_400_and_end_the_connection(open_http1):
    protocol, sent = await open_http1(App())
    await feed(protocol, b"\x00\x01\r\n\r\n")
    assert statuses(sent.take()) == [400]
    assert sent.is_closed


async def test_a_head_beyond_the_bound_is_refused(open_http1):
    protocol, sent = await open_http1(App())
    bound = protocol.config.h11_max_incomplete_size
    await feed(protocol, b"GET /" + b"a" * bound)
    assert statuses(sent.take()) == [431]
    assert sent.is_closed


# Bodies in small pieces.


class Upload:
    """Answers with the length of the body, or notes that its client went."""

    def __init__(self):
        self.size = 0
        self.ends = []

    async def __call__(self, scope, receive, send):
        more = True
        while more:
            message = await receive()
            self.size += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.ends.append(message["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % self.size})


CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [1_000, 10_000_000])
async def test_a_flood_of_small_chunks_is_refused(open_http1, autojump_clock, caplog, size):
    app = Upload()
    protocol, sent = await open_http1(app)
    flood = CHUNKED + b"1\r\nx\r\n" * (MAX_UNITS + 10)
    for start in range(0, len(flood), size):
        await feed(protocol, flood[start : start + size])
    assert statuses(sent.take()) == [429]
    assert any(isinstance(event, Flooded) for event in sent.events)
    await protocol.handle(Closed())
    await wait_all_tasks_blocked()
    assert app.ends == ["http.disconnect"]
    assert app.size == MAX_UNITS
    assert "Error" not in caplog.text


async def test_a_client_that_publishes_the_smallest_events_one_by_one_is_no_flood(open_http1):
    app = Upload()
    protocol, sent = await open_http1(app)
    line = b'{"data":1}\n'
    await feed(protocol, CHUNKED)
    for _ in range(4):
        await feed(protocol, b"%x\r\n%b\r\n" % (len(line), line) * MAX_UNITS)
    await feed(protocol, b"0\r\n\r\n")
    assert statuses(sent.take()) == [200]
    assert app.size == 4 * MAX_UNITS * len(line)


async def test_empty_lines_that_keep_a_quiet_upload_open_are_no_flood(open_http1, autojump_clock):
    app = Upload()
    protocol, sent = await open_http1(app)
    await feed(protocol, CHUNKED)
    for _ in range(2 * MAX_UNITS):
        await feed(protocol, b"1\r\n\n\r\n")
        await trio.sleep(1)
    await feed(protocol, b"0\r\n\r\n")
    assert statuses(sent.take()) == [200]


# Refusals.


def refusal(data):
    """Return status, headers and body of the one response in these bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    return int(status[9:12]), headers, json.loads(body)


BOTH = b"Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"\x00\x01\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\n" + BOTH, 400, "bad_request"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
        (get(b"realtime"), 400, "bad_request"),
        (get(b"/", b"X: " + b"x" * 20_000), 431, "head_too_large"),
        (get(b"/", b"X: " + b"x" * 20_000)[:-4], 431, "head_too_large"),
        (get(b"/").replace(b"GET", b"get"), 501, "not_supported"),
        (get(b"/").replace(b"1.1", b"2.0"), 505, "http_version_not_supported"),
        (upgrade().replace(b"Version: 13", b"Version: 8"), 426, "upgrade_required"),
        (upgrade().replace(b"Sec-WebSocket-Version: 13\r\n", b""), 400, "bad_request"),
        (upgrade().replace(b"ZQ==", b"ZQ"), 400, "bad_request"),
        (upgrade(b"Sec-WebSocket-Protocol: caf\xe9"), 400, "bad_request"),
    ],
)
async def test_every_refusal_is_told_in_json_and_ends_the_connection(
    open_http1, data, status, code
):
    app = App()
    protocol, sent = await open_http1(app)
    await feed(protocol, data)
    found, headers, body = refusal(sent.take())
    assert (found, body["code"], body["temporary"]) == (status, code, False)
    if status == 426:
        assert (headers["upgrade"], headers["sec-websocket-version"]) == ("websocket", "13")
    else:
        assert headers["connection"] == "close"
    assert sent.is_closed
    assert app.scopes == []


async def test_a_refused_head_request_gets_no_body(open_http1):
    protocol, sent = await open_http1(App())
    await feed(protocol, b"HEAD / HTTP/1.1\r\n" + BOTH)
    head, _, body = sent.take().partition(b"\r\n\r\n")
    assert (statuses(head), body) == ([400], b"")


async def test_an_application_that_says_nothing_is_answered_for(open_http1):
    async def app(scope, receive, send):
        pass

    for data in (get(b"/"), upgrade()):
        protocol, sent = await open_http1(app)
        await feed(protocol, data)
        assert refusal(sent.take())[2]["code"] == "internal"


async def test_a_websocket_that_the_application_closes_at_once_is_forbidden(open_http1):
    async def app(scope, receive, send):
        await send({"type": "websocket.close"})

    protocol, sent = await open_http1(app)
    await feed(protocol, upgrade())
    assert refusal(sent.take())[0] == 403


async def test_empty_lines_between_requests_are_passed_over(open_http1):
    app = App()
    protocol, sent = await open_http1(app)
    await feed(protocol, b"\r\n" + get(b"/a") + b"\r\n\r\n" + get(b"/b"))
    while protocol.paused:
        await protocol.resume()
        await wait_all_tasks_blocked()
    assert statuses(sent.take()) == [200, 200]
    await feed(protocol, b"\r\n")
    assert protocol.at_rest
    await feed(protocol, b"\r")
    assert not protocol.at_rest


async def test_an_absolute_target_is_passed_on_as_a_path_and_a_host(open_http1):
    app = App()
    protocol, _ = await open_http1(app)
    await feed(protocol, get(b"http://Other:81/a?b"))
    (scope,) = app.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a", b"/a", b"b")
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"Other:81"]


async def test_it_is_known_whether_a_head_has_begun(open_http1):
    protocol, sent = await open_http1(App())
    assert not protocol.has_begun
    await feed(protocol, get(b"/")[:9])
    assert protocol.has_begun
    await protocol.refuse(Timeout("too slow"))
    assert refusal(sent.take())[2]["code"] == "timeout"
