"""WebSocket compression over real sockets: who gets it, and that it is one frame for all."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.sync.client import ClientConnection, connect

from e2e.conftest import Servers
from e2e.crowd import ws_frame
from e2e.raw import Wire, head_of
from e2e.rest import PATIENCE, publish
from e2e.servers import Server

LIST = [{"name": f"application {number}", "state": "running"} for number in range(100)]
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.fixture
def compressing(servers: Servers) -> Server:
    return servers.get("taken over", namespaces='{"room": {"compress": true}}')


@pytest.fixture(params=["deflate", None])
def compression(request: pytest.FixtureRequest) -> str | None:
    return request.param


@contextmanager
def listen(server: Server, channel: str, compression: str | None) -> Iterator[ClientConnection]:
    url = f"ws://{server.authority}/realtime/ws"
    with connect(url, compression=compression) as connected:
        assert json.loads(connected.recv(PATIENCE))["type"] == "connected"
        connected.send(json.dumps({"type": "subscribe", "channel": channel, "id": 1}))
        assert json.loads(connected.recv(PATIENCE))["type"] == "reply"
        yield connected


def test_a_client_gets_what_was_published_compressed_or_not(
    compressing: Server, channel: str, compression: str | None
) -> None:
    with listen(compressing, channel, compression) as socket:
        assert len(socket.protocol.extensions) == (compression is not None)
        for data in (LIST, "short", LIST[:50]):
            publish(compressing, channel=channel, data=data)
            assert json.loads(socket.recv(PATIENCE))["data"] == data
        publish(compressing, channel="other:plain", data=LIST)
        publish(compressing, channel=channel, data="last")
        assert json.loads(socket.recv(PATIENCE))["data"] == "last"
        # and what the client compresses is understood
        socket.send(
            json.dumps({"type": "publish", "event": {"channel": channel, "data": LIST}, "id": 2})
        )
        got = [json.loads(socket.recv(PATIENCE)) for _ in range(2)]
        assert [each["data"] for each in got if each["type"] == "message"] == [LIST]


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        ("taken over", {}),
        ("portable", {"namespaces": '{"room": {"compress": true}}'}),
    ],
)
def test_nothing_is_agreed_where_nobody_asks_for_it_or_it_cannot_be(
    servers: Servers, channel: str, way: str, settings: dict[str, str]
) -> None:
    server = servers.get(way, **settings)
    with listen(server, channel, "deflate") as socket:
        assert socket.protocol.extensions == []
        publish(server, channel=channel, data=LIST)
        assert json.loads(socket.recv(PATIENCE))["data"] == LIST


@pytest.fixture
def wires(compressing: Server, channel: str) -> Iterator[list[Wire]]:
    """Three raw clients that agreed on compression and listen."""
    wires = [Wire(compressing.connect()) for _ in range(3)]
    subscribe = json.dumps({"type": "subscribe", "channel": channel, "id": "s"}).encode()
    for wire in wires:
        wire.send(
            "GET /realtime/ws HTTP/1.1",
            f"Host: {compressing.authority}",
            *UPGRADE,
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            body=ws_frame(subscribe),
        )
        wire.until(b'"id":"s"')
        status, headers = head_of(wire.data)
        assert status == 101
        agreed = headers["sec-websocket-extensions"]
        assert agreed.startswith("permessage-deflate")
        assert "server_no_context_takeover" in agreed
        assert "client_no_context_takeover" in agreed
        wire.data = b""
    yield wires
    for wire in wires:
        wire.sock.close()


def test_all_get_the_same_short_frame(compressing: Server, channel: str, wires: list[Wire]) -> None:
    publish(compressing, channel=channel, data=LIST)
    for wire in wires:
        wire.until(lambda data: len(data) > 4 and len(data) >= 4 + int.from_bytes(data[2:4], "big"))
    frame = wires[0].data
    assert [wire.data for wire in wires] == [frame] * 3
    assert frame[0] == 0xC1  # FIN, RSV1, text
    assert len(frame) < len(json.dumps(LIST)) / 3
    text = zlib.decompressobj(-15).decompress(frame[4:] + b"\0\0\xff\xff")
    assert json.loads(text)["data"] == LIST


def test_a_bomb_ends_its_sender_alone(compressing: Server, channel: str, wires: list[Wire]) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(b"[" * 50_000_000) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = bomb[:-4]
    assert len(bomb) < 65_536
    frame = bytearray(ws_frame(bomb))
    frame[0] |= 0x40
    wires[0].sock.sendall(frame)
    data = wires[0].end()
    assert data[:1] == b"\x88"
    assert int.from_bytes(data[2:4], "big") == 1009
    publish(compressing, channel=channel, data="after")
    for wire in wires[1:]:
        wire.until(b'"after"')
