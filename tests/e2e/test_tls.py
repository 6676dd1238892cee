"""TLS with a certificate of our own: streams and sockets are taken over, HTTP/2 is agreed on."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest

from e2e.clients import Socket, Stream
from e2e.crowd import ws_frame
from e2e.http2 import Http2
from e2e.raw import Wire
from e2e.rest import PATIENCE, call, publish, stats, until
from e2e.servers import Certificate, Server, start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Server]:
    running = start(
        tmp_path_factory.mktemp("tls"), *certificate.options(), trust=certificate.trust()
    )
    yield running
    print(running.fresh_log())
    assert running.stop() == 0


def test_a_stream_over_tls(server: Server, channel: str) -> None:
    with Stream(server, channel=channel) as stream, Stream(server, channel=channel) as other:
        for each in (stream, other):
            each.opened()
        assert stats(server)["taken_over"] == 2
        big = "x" * 60_000
        for number in range(12):
            publish(server, channel=channel, data=[number, big])
        for each in (stream, other):
            assert [event["data"][0] for event in each.events(12)] == list(range(12))
    until(lambda: stats(server)["sse_count"] == 0, "end")


def test_a_websocket_over_tls(server: Server, channel: str) -> None:
    with Socket(server) as socket:
        socket.ask(type="subscribe", channel=channel)
        assert stats(server)["taken_over"] == 1
        for number in range(20):
            socket.ask(type="publish", event={"channel": channel, "data": number})
            assert socket.event()["data"] == number
        socket.ws.close()
        assert socket.ws.close_code == 1000
    until(lambda: stats(server)["websocket_count"] == 0, "end")


def test_frames_in_the_record_of_the_upgrade(server: Server) -> None:
    with Wire(server.connect()) as wire:
        wire.send(
            "GET /realtime/ws HTTP/1.1",
            f"Host: {server.authority}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            body=ws_frame(b'{"type":"ping","id":"early"}'),
        )
        wire.until(b'"id":"early"')


def test_a_stream_that_ends_without_goodbye(server: Server, channel: str) -> None:
    """A client that only closes its TCP connection sends no close_notify."""
    with Stream(server, channel=channel) as stream:
        stream.opened()
        raw = socket.socket(fileno=stream._sock.detach())
        raw.close()
        until(lambda: stats(server)["sse_count"] == 0, "end")


def test_http2_is_agreed_on_by_alpn(server: Server, channel: str) -> None:
    sock = server.connect(alpn="h2")
    assert isinstance(sock, ssl.SSLSocket)
    assert sock.selected_alpn_protocol() == "h2"
    with Http2(server, sock) as client:
        streams = [client.request("GET", f"/realtime/events?channel={channel}") for _ in range(30)]
        client.until(lambda: all(b"retry:" in s.body for s in streams), "first blocks")
        assert stats(server)["portable"] == 30
        sent = client.request(
            "POST",
            "/realtime/broadcast",
            json.dumps({"channel": channel, "data": "by alpn"}).encode(),
            content_type="application/json",
        )
        client.until(lambda: all(b"by alpn" in s.body for s in streams), "event on each")
        client.until(lambda: sent.ended, "answer")
        assert json.loads(sent.body)["subscribers"] == 30
    until(lambda: stats(server)["sse_count"] == 0, "end")


def test_without_alpn_it_is_http_1_1(server: Server) -> None:
    sock = server.connect()
    assert isinstance(sock, ssl.SSLSocket)
    assert sock.selected_alpn_protocol() in (None, "http/1.1")
    sock.close()
    assert call(server, "GET", "/healthz").status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(server: Server, certificate: Certificate, version: ssl.TLSVersion) -> None:
    context = certificate.trust()
    context.minimum_version = context.maximum_version = version
    with context.wrap_socket(server.connect(clear=True), server_hostname="127.0.0.1") as sock:
        assert sock.version() in ("TLSv1.2", "TLSv1.3")
        sock.sendall(f"GET /healthz HTTP/1.1\r\nHost: {server.authority}\r\n\r\n".encode())
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_the_polite_end_over_tls(serve: Callable[..., Server], certificate: Certificate) -> None:
    server = serve(*certificate.options(), "--drain-seconds", "60", trust=certificate.trust())
    with Stream(server) as stream, Socket(server) as socket:
        stream.opened()
        server.process.terminate()
        last = stream.block()
        assert last is not None
        assert last.retry is not None
        assert stream.block() is None
        assert stream.is_broken
        with pytest.raises(Exception, match="1012"):
            socket.event()
    assert server.process.wait(PATIENCE) == 0
