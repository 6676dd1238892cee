"""Which response heads a stream may be taken over behind."""

import pytest

from triocast.auth import EVERYTHING
from triocast.connections import Connections
from triocast.events import Position
from triocast.hub import Hub
from triocast.server.client import _prepare
from triocast.transports.sse import ENCODERS, SSEConnection, StreamOptions

CHUNKED = b"HTTP/1.1 200 \r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 \r\ncontent-type: text/event-stream\r\nConnection: close\r\n\r\n"


def connection() -> SSEConnection:
    hub = Hub(inbox_bytes=1_000, head=Position("e", 0))
    connections = Connections(hub, most=10, outbox_bytes=1_000, heartbeat_seconds=25)
    return SSEConnection(connections, StreamOptions(), id="c", grant=EVERYTHING, address=None)


@pytest.mark.parametrize(
    ("head", "version", "chunked"), [(CHUNKED, "1.1", True), (PLAIN, "1.0", False)]
)
def test_the_framing_is_that_of_the_head(head, version, chunked):
    stream = connection()
    assert _prepare(stream, {"http_version": version}, head)
    assert stream.encoder is ENCODERS[False, chunked]


@pytest.mark.parametrize(
    ("head", "version"),
    [
        (b"", "1.1"),
        (PLAIN, "1.1"),
        (CHUNKED, "1.0"),
        (CHUNKED.replace(b"200", b"500"), "1.1"),
        (CHUNKED.replace(b"text/event-stream", b"application/json"), "1.1"),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"), "1.1"),
    ],
)
def test_nothing_is_taken_over_behind_another_head(head, version):
    assert not _prepare(connection(), {"http_version": version}, head)
