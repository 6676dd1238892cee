"""HTTP/2: many streams on one connection go the portable way, with the same bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import h2.settings
import pytest
import wsproto
import wsproto.events

from e2e.conftest import Servers
from e2e.http2 import Exchange, Http2
from e2e.raw import Wire
from e2e.rest import PATIENCE, publish, stats, until
from e2e.servers import Server

STREAMS = 30
EVENTS = 300


@pytest.fixture
def server(servers: Servers) -> Server:
    return servers.get("taken over")


@pytest.fixture
def client(server: Server) -> Iterator[Http2]:
    with Http2(server, server.connect()) as http2:
        yield http2


def open_stream(client: Http2, channel: str) -> Exchange:
    return client.request("GET", f"/realtime/events?channel={channel}", accept="text/event-stream")


def events(exchange: Exchange) -> list[dict[str, object]]:
    """The events in the blocks that are whole, without the server's own messages."""
    *blocks, _ = bytes(exchange.body).decode().split("\n\n")
    lines = [line for block in blocks for line in block.split("\n")]
    messages = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    return [message for message in messages if "channel" in message]


def test_thirty_streams_on_one_connection(server: Server, client: Http2, channel: str) -> None:
    until(lambda: stats(server)["sse_count"] == 0, "end of other tests' streams")
    streams = [open_stream(client, f"{channel}/{number % 3}") for number in range(STREAMS)]
    client.until(lambda: all(b"retry:" in s.body for s in streams), "first block on each")
    for stream in streams:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"].endswith("no-transform")
        assert stream.headers["x-accel-buffering"] == "no"
        assert "connection" not in stream.headers
        assert "transfer-encoding" not in stream.headers
    now = stats(server)
    assert now["sse_count"] == now["portable"] == STREAMS
    lines = b"".join(
        json.dumps({"channel": f"{channel}/{n % 3}", "data": n}).encode() + b"\n"
        for n in range(EVENTS)
    )
    answer = client.request(
        "POST", "/realtime/broadcast", lines, content_type="application/x-ndjson"
    )
    client.until(
        lambda: answer.ended and all(len(events(s)) == EVENTS // 3 for s in streams),
        "all events on all streams",
    )
    assert json.loads(answer.body)["published"] == EVENTS
    for number, stream in enumerate(streams):
        assert [event["data"] for event in events(stream)] == [*range(number % 3, EVENTS, 3)]


def test_a_stream_that_is_reset_ends_alone(server: Server, client: Http2, channel: str) -> None:
    one, two = open_stream(client, channel), open_stream(client, channel)
    client.until(lambda: b"retry:" in one.body and b"retry:" in two.body, "first blocks")
    client.reset(one)
    until(lambda: stats(server)["channels"][channel] == 1, "end of one stream")
    publish(server, channel=channel, data="for the other")
    client.until(lambda: len(events(two)) == 1, "event")
    assert events(one) == []


def test_a_connection_that_ends_takes_its_streams_along(
    server: Server, client: Http2, channel: str
) -> None:
    streams = [open_stream(client, channel) for _ in range(5)]
    client.until(lambda: all(b"retry:" in s.body for s in streams), "first blocks")
    assert publish(server, channel=channel, data=1)["subscribers"] == 5
    client.sock.close()
    until(lambda: channel not in stats(server)["channels"], "end of all streams")
    assert publish(server, channel=channel, data=1)["subscribers"] == 0


def test_rest_over_http2(server: Server, client: Http2, channel: str) -> None:
    head = client.request("HEAD", "/realtime/events")
    missing = client.request("GET", "/nothing")
    sent = client.request(
        "POST",
        "/realtime/send",
        json.dumps({"channel": channel, "data": 1}).encode(),
        content_type="application/json",
    )
    client.until(lambda: head.ended and missing.ended and sent.ended, "answers")
    assert (head.status, bytes(head.body)) == (200, b"")
    assert missing.status == 404
    assert json.loads(missing.body)["code"] == "not_found"
    assert json.loads(sent.body)["channel"] == channel


def test_h2c_by_upgrade(server: Server, channel: str) -> None:
    """The first request becomes stream 1 of HTTP/2; a stream among them all the same."""
    with Wire(server.connect()) as wire:
        client = Http2(server, wire.sock, upgraded=True)
        wire.send(
            f"GET /realtime/events?channel={channel} HTTP/1.1",
            f"Host: {server.authority}",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            f"HTTP2-Settings: {client.upgrade_settings.decode()}",
        )
        assert base64.urlsafe_b64decode(client.upgrade_settings + b"==")
        head, _, rest = wire.until(b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        wire.sock.sendall(client.http.data_to_send())
        client.feed(rest)
        first = client.exchanges[1]
        client.until(lambda: b"retry:" in first.body, "first block")
        second = open_stream(client, channel)
        client.until(lambda: b"retry:" in second.body, "first block")
        publish(server, channel=channel, data="both")
        client.until(lambda: len(events(first)) == len(events(second)) == 1, "event")
        assert first.status == 200


class TunnelledSocket:
    """A WebSocket in one stream of an HTTP/2 connection (RFC 8441)."""

    def __init__(self, client: Http2, path: str = "/realtime/ws", **fields: str) -> None:
        self._client = client
        http = client.http
        code = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
        client.until(lambda: http.remote_settings.get(code) == 1, "leave for extended CONNECT")
        self._id = http.get_next_available_stream_id()
        headers = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", fields.pop("authority")),
            (":path", path),
            ("sec-websocket-version", "13"),
            *fields.items(),
        ]
        http.send_headers(self._id, headers)
        self.exchange = client.exchanges[self._id] = Exchange()
        client.sock.sendall(http.data_to_send())
        self._parser = wsproto.Connection(wsproto.ConnectionType.CLIENT)
        self._parsed = 0
        self._text = ""
        self.messages: list[dict[str, Any]] = []
        self.close_code: int | None = None

    def send(self, event: wsproto.events.Event) -> None:
        self._client.http.send_data(self._id, self._parser.send(event))
        self._client.sock.sendall(self._client.http.data_to_send())

    def ask(self, **request: Any) -> None:
        self.send(wsproto.events.TextMessage(json.dumps(request)))

    def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Read until there is a message of this type and with these fields; return it."""

        def found() -> list[dict[str, Any]]:
            self._parse()
            wanted = {"type": kind, **fields}.items()
            return [message for message in self.messages if wanted <= message.items()]

        self._client.until(found, f"{kind} {fields}")
        return found()[0]

    def until_closed(self) -> int:
        self._client.until(lambda: self._parse() or self.close_code is not None, "close frame")
        assert self.close_code is not None
        return self.close_code

    def _parse(self) -> None:
        data = bytes(self.exchange.body[self._parsed :])
        self._parsed += len(data)
        if data:
            self._parser.receive_data(data)
        for event in self._parser.events():
            if isinstance(event, wsproto.events.TextMessage):
                self._text += event.data
                if event.message_finished:
                    self.messages.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(event, wsproto.events.CloseConnection):
                self.close_code = event.code


def test_websockets_over_http2(server: Server, client: Http2, channel: str) -> None:
    """RFC 8441: many sockets, and a stream among them, on one TCP connection."""
    sockets = [TunnelledSocket(client, authority=server.authority) for _ in range(5)]
    stream = open_stream(client, channel)
    client.until(lambda: b"retry:" in stream.body, "first block")
    names = set()
    for socket in sockets:
        names.add(socket.until("connected")["data"]["connection_id"])
        assert socket.exchange.status == 200
        socket.ask(type="subscribe", channel=channel, id="s")
        socket.until("reply", id="s")
    assert len(names) == 5
    until(lambda: stats(server)["channels"].get(channel) == 6, "subscriptions")
    sockets[0].ask(type="publish", event={"channel": channel, "data": "mine"}, id="p")
    big = "x" * 60_000
    assert publish(server, channel=channel, type="big", data=big)["subscribers"] == 6
    for socket in sockets:
        assert socket.until("message")["data"] == "mine"
        assert socket.until("big")["data"] == big
    client.until(lambda: len(events(stream)) == 2, "events on the stream")
    assert stats(server)["portable"] >= 6
    # One goes by the protocol, one is cut off; the others stay.
    sockets[0].send(wsproto.events.CloseConnection(1000))
    assert sockets[0].until_closed() == 1000
    client.reset(sockets[1].exchange)
    until(lambda: stats(server)["channels"][channel] == 4, "end of two")
    publish(server, channel=channel, type="after", data="still here")
    for socket in sockets[2:]:
        assert socket.until("after")["data"] == "still here"
    assert "after" not in {message["type"] for message in sockets[0].messages}


def test_a_websocket_over_http2_is_refused_like_any(server: Server, client: Http2) -> None:
    evil = {"authority": server.authority, "origin": "https://evil.example"}
    refused = TunnelledSocket(client, **evil).exchange
    client.until(lambda: refused.ended, "refusal")
    assert refused.status == 403
    assert json.loads(refused.body)["code"] == "origin_refused"
    wrong = TunnelledSocket(client, "/realtime/ws?heartbeat=never", authority=server.authority)
    client.until(lambda: wrong.exchange.ended, "refusal")
    assert wrong.exchange.status == 400
    TunnelledSocket(client, authority=server.authority).until("connected")


def test_the_polite_end_over_http2(serve: Callable[..., Server], channel: str) -> None:
    """Each stream is reset, behind its last word; the last one of its connection, too."""
    server = serve("--drain-seconds", "60")
    with ExitStack() as stack:
        clients = [stack.enter_context(Http2(server, server.connect())) for _ in range(10)]
        streams = []
        for client in clients:
            mine = [open_stream(client, channel) for _ in range(3)]
            client.until(lambda: all(b"retry:" in s.body for s in mine), "first blocks")  # noqa: B023
            streams += mine
        server.process.terminate()
        for client in clients:
            mine = list(client.exchanges.values())
            client.until(lambda: all(s.reset for s in mine), "end of all streams")  # noqa: B023
        assert not any(s.ended for s in streams), "some clients never come back after a whole one"
        assert all(bytes(s.body).count(b"retry: ") == 2 for s in streams)
        assert len({bytes(s.body).rpartition(b"retry: ")[2] for s in streams}) > 15
    assert server.process.wait(PATIENCE) == 0
