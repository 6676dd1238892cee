"""Which protocol a client speaks: by ALPN, by prior knowledge or by upgrade, at any time."""

import pytest
import trio
from hypercorn.events import RawData
from trio.testing import wait_all_tasks_blocked

from triocast.server.protocols import SafeProtocol

from .clients import H2Client

GET = b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n"
H2C = (
    b"GET /one HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: %b\r\n\r\n"
)


class App:
    """Answers each request with its HTTP version and path, the first once it may."""

    def __init__(self, *, patient=False):
        self.may_answer = trio.Event()
        if not patient:
            self.may_answer.set()

    async def __call__(self, scope, receive, send):
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body_of(scope)})


def body_of(scope):
    return f"{scope['http_version']} {scope['path']}".encode()


@pytest.fixture
async def open_wrapper(open_protocol):
    async def open_wrapper(app, alpn=None):
        return await open_protocol(SafeProtocol, app, alpn_protocol=alpn)

    return open_wrapper


@pytest.mark.parametrize(("alpn", "http1"), [(None, True), ("http/1.1", True), ("h2", False)])
async def test_alpn_chooses_the_protocol(open_wrapper, alpn, http1):
    protocol, sent = await open_wrapper(App(), alpn)
    assert (protocol.http1 is not None) is http1
    if not http1:
        client = H2Client()
        client.begin()
        client.get("/one")
        await client.talk(protocol, sent)
        assert client.bodies == {1: b"2 /one"}
        return
    await protocol.handle(RawData(GET))
    await wait_all_tasks_blocked()
    assert b"1.1 /one" in sent.take()


@pytest.mark.parametrize("split", [None, 10, 20, 60])
async def test_a_client_that_knows_may_speak_http_2_at_once(open_wrapper, split):
    protocol, sent = await open_wrapper(App())
    client = H2Client()
    client.begin()
    client.get("/one")
    if split is not None:
        data = client.connection.data_to_send()
        await protocol.handle(RawData(data[:split]))
        await protocol.handle(RawData(data[split:]))
    await client.talk(protocol, sent)
    assert protocol.http1 is None
    assert client.bodies == {1: b"2 /one"}
    assert client.ended == [1]


async def test_a_preface_alone_leaves_the_connection_idle(open_wrapper):
    """Its time for the first request goes on: what looked like a request was none."""
    protocol, sent = await open_wrapper(App())
    client = H2Client()
    client.begin()
    await client.talk(protocol, sent)
    assert sent.idle


async def test_http_2_may_follow_a_request_that_is_still_under_way(open_wrapper):
    app = App(patient=True)
    protocol, sent = await open_wrapper(app)
    client = H2Client()
    client.begin()
    client.get("/two")
    await protocol.handle(RawData(GET + client.connection.data_to_send()))
    await wait_all_tasks_blocked()
    app.may_answer.set()
    await wait_all_tasks_blocked()
    assert b"1.1 /one" in sent.take()
    assert protocol.http1 is not None
    await protocol.resume()
    await wait_all_tasks_blocked()
    client.receive(sent.take())
    assert protocol.http1 is None
    assert client.bodies == {1: b"2 /two"}


@pytest.mark.parametrize("together", [True, False])
async def test_an_upgrade_to_http_2_answers_its_request_and_goes_on(open_wrapper, together):
    protocol, sent = await open_wrapper(App())
    client = H2Client()
    upgrade = H2C % client.connection.initiate_upgrade_connection()
    client.get("/two")
    behind = client.connection.data_to_send()
    await protocol.handle(RawData(upgrade + (behind if together else b"")))
    if not together:
        await protocol.handle(RawData(behind))
    await wait_all_tasks_blocked()
    head, _, data = sent.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    client.receive(data)
    assert client.bodies == {1: b"2 /one", 3: b"2 /two"}
    assert sorted(client.ended) == [1, 3]


async def test_an_upgrade_with_a_body_is_not_taken(open_wrapper):
    protocol, sent = await open_wrapper(App())
    upgrade = H2C.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi") % b"AAMAAABk"
    await protocol.handle(RawData(upgrade))
    await wait_all_tasks_blocked()
    assert b"1.1 /one" in sent.take()
    assert protocol.http1 is not None
