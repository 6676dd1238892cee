"""What clients are told for whom there is no socket, whatever they ask."""

import json
import socket
import ssl

import h11
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from triocast.node import build_node
from triocast.server.refusing import HEAD_SECONDS, REFUSAL_SECONDS, Refusals
from triocast.server.turnstile import Turnstile
from triocast.settings import Settings
from triocast.web.origins import Origins

PAGE = "https://app.example"


@pytest.fixture
async def make(nursery):
    def make(most=4, ssl_context=None):
        connections = build_node(Settings()).connections
        arrivals = Turnstile()
        nursery.start_soon(arrivals.run)
        refusals = Refusals(
            connections,
            Origins([PAGE]),
            most=most,
            max_head_bytes=1_000,
            arrivals=arrivals,
            ssl_context=ssl_context,
        )
        return refusals, connections

    return make


@pytest.fixture
def connected():
    """Return a client's stream, and the socket that was accepted for it."""
    clients = []

    def connected():
        client, accepted = socket.socketpair()
        client.setblocking(False)
        accepted.setblocking(False)
        clients.append(client)
        return trio.SocketStream(trio.socket.from_stdlib_socket(client)), accepted

    yield connected
    for client in clients:
        client.close()


async def read_all(stream):
    return b"".join([bytes(part) async for part in stream])


def parse(answer, method="GET"):
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    head, body = client.next_event(), b""
    try:
        while isinstance(event := client.next_event(), h11.Data):
            body += event.data
        is_whole = isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError:
        is_whole = False
    # Some clients of streams never come back after a response that is whole.
    assert is_whole is (head.status_code != 200 or method == "HEAD")
    headers = {name.decode(): value.decode() for name, value in head.headers}
    assert headers["connection"] == "close"
    return head.status_code, headers, body


def request(*lines, path="/realtime/events", method="GET", body=b""):
    first = f"{method} {path} HTTP/1.1"
    return "\r\n".join([first, "Host: x", *lines, "", ""]).encode() + body


@pytest.fixture
def ask(connected, nursery):
    async def ask(refusals, data):
        """Send a request as a client does that waits for the end; return the answer."""
        client, accepted = connected()
        await client.send_all(data)
        nursery.start_soon(refusals.refuse, accepted)
        return await read_all(client)

    return ask


STREAM = "Accept: text/event-stream"


async def test_an_event_source_gets_the_polite_end_of_a_stream(make, ask):
    refusals, connections = make()
    status, headers, body = parse(await ask(refusals, request(STREAM, f"Origin: {PAGE}")))
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert headers["access-control-allow-origin"] == PAGE
    assert body.startswith(b"retry: ")
    assert b'"code":"too_many_connections"' in body
    assert connections.refused == {"too_many_connections": 1}


@pytest.mark.parametrize(
    "data",
    [
        request(),
        request(path="/healthz"),
        request(STREAM, "Content-Length: 4", method="POST", body=b"1234"),
        request("Connection: Upgrade", "Upgrade: websocket", path="/realtime/ws"),
        request(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"GET", b"PUT"),
    ],
)
async def test_all_others_get_503(make, data, ask):
    status, headers, body = parse(await ask(make()[0], data.replace(b"HTTP/1.0", b"HTTP/1.1")))
    assert (status, json.loads(body)["code"]) == (503, "too_many_connections")
    assert int(headers["retry-after"]) > 0
    assert "access-control-allow-origin" not in headers


async def test_pages_on_the_list_may_read_why(make, ask):
    _, headers, _ = parse(await ask(make()[0], request(f"Origin: {PAGE}")))
    assert headers["access-control-allow-origin"] == PAGE
    _, headers, _ = parse(await ask(make()[0], request("Origin: https://evil.example")))
    assert "access-control-allow-origin" not in headers


async def test_a_head_is_answered_without_a_body(make, ask):
    answer = await ask(make()[0], request(method="HEAD"))
    status, headers, body = parse(answer, "HEAD")
    assert (status, body) == (503, b"")
    assert int(headers["content-length"]) > 0


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /realtime/ev", b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"x" * 5_000],
)
async def test_who_sends_no_request_in_time_is_told_all_the_same(autojump_clock, make, data, ask):
    began = trio.current_time()
    status, _, body = parse(await ask(make()[0], data))
    assert (status, json.loads(body)["code"]) == (503, "too_many_connections")
    assert trio.current_time() - began <= REFUSAL_SECONDS


async def test_a_request_that_comes_in_pieces_is_read(make, nursery, connected):
    client, accepted = connected()
    nursery.start_soon(make()[0].refuse, accepted)
    for piece in (b"GET /realtime/events HTTP/1.1\r\nHo", b"st: x\r\nAccept: text/eve"):
        await client.send_all(piece)
        await wait_all_tasks_blocked()
    await client.send_all(b"nt-stream\r\n\r\n")
    assert parse(await read_all(client))[0] == 200


async def test_a_refusal_takes_a_bounded_time_whatever_the_client_does(
    autojump_clock, make, nursery, connected
):
    refusals, _ = make(most=3)
    clients = []
    for _ in range(3):
        client, accepted = connected()
        clients.append(client)
        nursery.start_soon(refusals.refuse, accepted)
    await trio.sleep(HEAD_SECONDS / 2)
    assert not refusals.has_room
    began = trio.current_time()
    await refusals.wait_for_room()
    assert trio.current_time() - began <= REFUSAL_SECONDS


async def test_a_client_that_is_gone_needs_no_answer(make, caplog, connected):
    refusals, _ = make()
    client, accepted = connected()
    await client.aclose()
    await refusals.refuse(accepted)
    assert refusals.has_room
    assert caplog.records == []


async def test_an_error_of_ours_costs_one_client_and_is_logged_as_ours(
    make, monkeypatch, caplog, connected
):
    refusals, connections = make()
    monkeypatch.setattr(connections, "note_refusal", lambda *_: 1 / 0)
    client, accepted = connected()
    await client.send_all(request())
    await refusals.refuse(accepted)
    assert accepted.fileno() == -1
    assert "by an error of ours" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("offers", [["h2", "http/1.1"], None])
async def test_over_tls_it_is_told_on_http_1_1(make, nursery, offers, connected):
    authority = trustme.CA()
    theirs, ours = (ssl.create_default_context(purpose) for purpose in ssl.Purpose)
    ours.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    if offers is not None:
        theirs.set_alpn_protocols(offers)
    refusals, _ = make(ssl_context=ours)
    plain, accepted = connected()
    client = trio.SSLStream(plain, theirs, server_hostname="localhost", https_compatible=True)
    nursery.start_soon(refusals.refuse, accepted)
    await client.send_all(request(STREAM, f"Origin: {PAGE}"))
    assert client.selected_alpn_protocol() in ("http/1.1", None)
    status, headers, body = parse(await read_all(client))
    assert (status, headers["access-control-allow-origin"]) == (200, PAGE)
    assert body.startswith(b"retry: ")
