"""One accepted socket: requests, perhaps a stream, and failures that end this client alone."""

import logging
import ssl

import attrs
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from triocast.events import Event
from triocast.server.client import LINGER_SECONDS, Client

from .clients import H2Client, HTTPClient

HANDSHAKE = 10.0
STREAM = b"GET /realtime/events?channel=x HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET /realtime/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope, receive, send):
    """Answer with the scheme and the HTTP version."""
    body = f"{scope['scheme']} {scope['http_version']}".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@attrs.define
class Served:
    """A client, and what the server has of it."""

    http: HTTPClient
    client: Client
    site: object
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def run(self):
        await self.client.run()
        self.ended.set()

    @property
    def connections(self):
        return self.site.node.connections


@pytest.fixture
async def serve(open_site, pair, nursery):
    """Serve a client; ``change`` are other parts of the service."""

    def serve(*, change=None, **options):
        site = open_site(app, handshake_seconds=HANDSHAKE, **options)
        if change is not None:
            site = attrs.evolve(site, service=attrs.evolve(site.service, **change))
        http, accepted = pair()
        served = Served(http, Client(site.service, accepted), site)
        nursery.start_soon(served.run)
        return served

    return serve


@pytest.fixture
def warnings(caplog):
    """What has been logged that an operator should look at."""
    caplog.set_level(logging.INFO, "triocast")
    return lambda: [each for each in caplog.records if each.levelno >= logging.WARNING]


async def ends_within(served, seconds):
    with trio.move_on_after(seconds):
        await served.ended.wait()
    return served.ended.is_set()


async def publish(served, data):
    event = Event("t", data, "x", "2026-01-01T00:00:00.000Z")
    await served.site.node.engine.publish([event])


# Streams.


async def test_a_stream_owns_the_socket_until_its_client_leaves(serve, autojump_clock, warnings):
    served = serve()
    assert (await served.http.ask(GET)).body == b"http 1.1"
    await served.http.send(STREAM)
    assert (await served.http.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    (connection,) = served.connections.live
    assert connection.taken_over
    await publish(served, b'"hello"')
    assert b'"data":"hello"' in await served.http.read_until(b'"hello"')
    served.http.close()
    assert await ends_within(served, 0.1)
    assert served.connections.live == set()
    assert warnings() == []


async def test_a_websocket_hears_what_its_client_sent_behind_the_handshake(serve, autojump_clock):
    served = serve()
    ping = b'{"type":"ping","id":"early"}'
    await served.http.send(UPGRADE + bytes((0x81, 0x80 | len(ping))) + bytes(4) + ping)
    assert (await served.http.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    await served.http.read_until(b'"type":"reply","id":"early"')


async def test_a_drain_of_requests_does_not_end_a_stream(serve, autojump_clock):
    served = serve()
    await served.http.send(STREAM)
    await served.http.read_until(b"\r\n\r\n")
    served.client.drain()
    assert not await ends_within(served, 1)
    assert len(served.connections.live) == 1


async def test_a_stream_that_is_cut_off_while_an_event_waits_is_no_fault_of_ours(
    serve, autojump_clock, warnings
):
    served = serve()
    await served.http.send(STREAM)
    await served.http.read_until(b"\r\n\r\n")
    (connection,) = served.connections.live
    connection.push(b"x" * 1_000_000)  # more than the kernel takes
    served.client.abort()
    assert await ends_within(served, 0.1)
    assert served.connections.ended == {"peer_lost": 1}
    assert warnings() == []


# Ends.


async def test_an_idle_connection_ends_at_once_in_a_drain(serve, autojump_clock):
    served = serve()
    await served.http.ask(GET)
    await wait_all_tasks_blocked()
    served.client.drain()
    with trio.fail_after(0.1):
        assert await served.http.rest() == b""
    served.http.close()
    assert await ends_within(served, 0.1)


async def test_abort_ends_a_connection_at_any_time(serve, autojump_clock, warnings):
    for data in (b"", GET, STREAM):
        served = serve()
        await served.http.send(data)
        await wait_all_tasks_blocked()
        served.client.abort()
        assert await ends_within(served, 0.1)
    assert warnings() == []


async def test_waiting_for_a_client_to_close_has_a_deadline(serve, autojump_clock):
    served = serve()
    await served.http.ask(b"\0\r\n\r\n")
    assert not await ends_within(served, LINGER_SECONDS - 0.1)
    assert await ends_within(served, 0.2)


@pytest.mark.parametrize("data", [GET, b"\0\r\n\r\n"])
async def test_a_client_that_resets_the_connection_is_nothing_to_log(
    serve, data, autojump_clock, warnings
):
    served = serve()
    await served.http.ask(GET)
    await served.http.send(data)
    await wait_all_tasks_blocked()
    served.http.close()  # with an answer unread
    assert await ends_within(served, 2)
    assert warnings() == []


class Broken:
    """Shortcuts that fail on everything."""

    def __init__(self, error):
        self.error = error

    def is_candidate(self, data):
        raise self.error


async def test_an_error_ends_its_own_connection_and_is_logged_briefly(
    serve, autojump_clock, warnings
):
    shout = "x" * 10_000
    error = ExceptionGroup("", [ValueError(shout), ExceptionGroup("", [KeyError("y")])])
    served = serve(change={"shortcuts": Broken(error)})
    await served.http.send(GET)
    assert await ends_within(served, 0.1)
    (record,) = warnings()
    line = record.getMessage()
    assert len(line) < 300
    assert "ValueError: 'xxx" in line
    assert "KeyError" in line


# TLS.


@pytest.fixture(scope="module")
def tls():
    """The contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("x").configure_cert(server)
    server.set_alpn_protocols(["h2", "http/1.1"])
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.fixture
async def serve_tls(serve, tls):
    """Serve a client with TLS; the client has done its part of the handshake."""
    server, client = tls

    async def serve_tls(alpn="http/1.1"):
        served = serve(change={"ssl_context": server})
        client.set_alpn_protocols([alpn])
        served.http.stream = trio.SSLStream(
            served.http.stream, client, server_hostname="x", https_compatible=True
        )
        await served.http.stream.do_handshake()
        return served

    return serve_tls


async def test_requests_and_streams_come_through_tls(serve_tls, autojump_clock, warnings):
    served = await serve_tls()
    assert (await served.http.ask(GET)).body == b"https 1.1"
    await served.http.send(STREAM)
    await served.http.read_until(b"\r\n\r\n")
    await publish(served, b'"hello"')
    await served.http.read_until(b'"hello"')
    await served.http.stream.aclose()
    assert await ends_within(served, 1)
    assert served.connections.live == set()
    assert warnings() == []


async def test_alpn_leads_to_http_2(serve_tls, autojump_clock):
    served = await serve_tls("h2")
    client = H2Client()
    client.begin()
    stream = client.get("/a")
    await served.http.send(client.connection.data_to_send())
    while not client.ended:
        client.receive(await served.http.stream.receive_some())
    assert client.bodies == {stream: b"https 2"}


@pytest.mark.parametrize("secure", [True, False])
async def test_the_last_response_is_not_lost_to_a_client_that_still_sends(
    serve, serve_tls, secure, autojump_clock
):
    """The kernel would reset a connection that is closed before everything is read."""
    served = await serve_tls() if secure else serve()
    socket_stream = served.http.stream.transport_stream if secure else served.http.stream
    assert (await served.http.ask(b"\0\r\n\r\n")).status == 400
    assert await served.http.rest() == b""  # our side has ended
    for _ in range(5):
        await socket_stream.send_all(b"more")
        await wait_all_tasks_blocked()
    assert not served.ended.is_set()
    socket_stream.socket.close()
    assert await ends_within(served, 0.1)


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
async def test_a_tls_handshake_that_does_not_come_in_time_ends_the_connection(
    serve, tls, data, autojump_clock, warnings
):
    served = serve(change={"ssl_context": tls[0]})
    await served.http.send(data)
    assert not await ends_within(served, HANDSHAKE - 0.1)
    assert await ends_within(served, 0.2)
    assert warnings() == []


async def test_a_client_that_does_not_speak_tls_is_disconnected_quietly(
    serve, tls, autojump_clock, warnings
):
    served = serve(change={"ssl_context": tls[0]})
    await served.http.send(GET)
    assert await ends_within(served, 0.1)
    assert warnings() == []
