"""HTTP/2 that makes a server work or remember without end is answered at the sender's own pace,
or cut off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from e2e.rest import stats, until
from e2e.servers import Server

from .attacker import send_while_taken
from .bystanders import unharmed
from .raw_http2 import RawHttp2
from .raw_websocket import BINARY, CONTINUATION, TEXT, close_code, frame

MIB = 1 << 20
OUTBOX_BYTES = 200_000
ENHANCE_YOUR_CALM = 11
Flood = Callable[[RawHttp2], bytes]


def settings(client: RawHttp2) -> bytes:
    return SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: 4096}).serialize() * 1000


def pings(client: RawHttp2) -> bytes:
    return PingFrame(0, b"12345678").serialize() * 1000


def continuations(client: RawHttp2) -> bytes:
    """CVE-2024-27316: a header block without end."""
    client.send(client.headers(1, client.request(), "END_STREAM"))
    return ContinuationFrame(1, b"\x00\x05x-aaa\x03bbb").serialize() * 500


def empty_continuations(client: RawHttp2) -> bytes:
    client.send(client.headers(1, client.request(), "END_STREAM"))
    return ContinuationFrame(1, b"").serialize() * 1000


def resets_of_a_closed_stream(client: RawHttp2) -> bytes:
    client.send(client.get(1))
    client.until(lambda: 1 in client.ended or client.over(1))
    return RstStreamFrame(1, 8).serialize() * 1000


def windows(client: RawHttp2) -> bytes:
    return WindowUpdateFrame(0, window_increment=1).serialize() * 1000


def priorities(client: RawHttp2) -> bytes:
    return PriorityFrame(1, depends_on=0, stream_weight=10).serialize() * 1000


def empty_data(client: RawHttp2) -> bytes:
    """Of an upload that never ends."""
    lines = (b"content-type", b"application/x-ndjson")
    request = client.request(b"/realtime/broadcast", lines, method=b"POST")
    client.send(client.headers(1, request, "END_HEADERS"))
    return DataFrame(1, b"").serialize() * 1000


@pytest.mark.parametrize(
    "flood",
    [settings, pings, resets_of_a_closed_stream, windows, priorities, empty_data],
    ids=lambda flood: flood.__name__,
)
def test_a_flood_of_frames_that_say_nothing_ends_its_sender(server: Server, flood: Flood) -> None:
    with unharmed(server) as scene:
        before = stats(server)["refused"].get("flood", 0)
        client = RawHttp2(scene.attacker)
        send_while_taken(client.sock, flood(client), 500_000, stalled_after=5)
        client.until(lambda: client.goaway is not None)
        assert client.goaway == ENHANCE_YOUR_CALM
        assert stats(server)["refused"]["flood"] == before + 1


@pytest.mark.parametrize(
    "flood", [continuations, empty_continuations], ids=lambda flood: flood.__name__
)
def test_a_header_block_in_very_many_pieces_is_cut_off(server: Server, flood: Flood) -> None:
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker, receive_buffer=4096)
        send_while_taken(client.sock, flood(client), 500_000, stalled_after=5)
        assert not client.round_trip()


def test_a_header_block_without_end_is_cut_off(server: Server) -> None:
    """CONTINUATION on and on. The server closes; it may read on for a moment."""
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        client.send(client.headers(1, client.request(), "END_STREAM"))
        part: Frame = ContinuationFrame(1, client.encoded([(b"x-a", b"b" * 10_000)]))
        send_while_taken(client.sock, part.serialize(), 16 * MIB, stalled_after=5)
        client.until_closed()


def test_a_header_bomb_is_refused(server: Server) -> None:
    """One entry of the compression table, named 12 000 times: 47 MB of headers in 15 kB."""
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        entry = [(b"x-bomb", b"a" * 3900)]
        first, again = client.encoded(entry), client.encoded(entry)
        client.send(HeadersFrame(1, first + again * 12_000, flags=("END_HEADERS", "END_STREAM")))
        client.until_told_off(1)
    assert client.status.get(1, 431) in (400, 431)


@pytest.mark.parametrize("path", [b"/realtime/events", b"/realtime/ws"])
def test_a_stalled_stream_is_given_no_more_than_its_outbox_holds(
    serve: Callable[..., Server], path: bytes
) -> None:
    """The client reads its socket and never opens the stream's window."""
    server = serve("--outbox-bytes", f"{OUTBOX_BYTES}", "--max-event-bytes", "100000")
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        client.send(
            client.get(1, path) if path.endswith(b"events") else client.websocket(1, path=path)
        )
        client.until_told_off(1)
        assert client.status[1] == 200

        def nobody_but_the_bystanders_listens() -> bool:
            client.pump(0)
            counts = stats(server)
            assert counts["queue_bytes"] <= OUTBOX_BYTES + 33_000  # and the event that was too much
            return counts["channels"]["$all"] == 2

        until(lambda: stats(server)["channels"]["$all"] == 3, "third subscriber")
        scene.everybody_has(scene.publish_until(nobody_but_the_bystanders_listens, 32_000))
    # What flow control allows at the start (RFC 9113, section 6.9.2), and no more.
    assert sum(map(len, client.body.values())) <= 65_535


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_fragmented_giant_message_is_cut_off(server: Server, opcode: int) -> None:
    """64 MB in one message over a WebSocket of RFC 8441."""
    part = b"a" * 65_000
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        client.send(client.websocket(1))
        client.until_told_off(1)
        assert client.status[1] == 200
        message = frame(opcode, part, fin=False) + frame(CONTINUATION, part, fin=False) * 1000
        sent = client.send_data(1, message)
        client.until(lambda: client.over(1) or close_code(client.body[1]) is not None)
    assert sent < len(message) // 2
    assert close_code(client.body[1]) in (1009, None)


def test_an_overlong_frame_is_refused_by_its_head(server: Server) -> None:
    """RFC 9113, 4.2: 16 kB is the largest frame we allow. One that claims 16 MB must not be
    waited for: a hundred
    connections would make the server keep 1.6 GB."""
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        client.send(b"\xff\xff\xff\0\0\0\0\0\x01" + b"a" * 100_000)
        client.until(lambda: client.closed or client.goaway is not None)
