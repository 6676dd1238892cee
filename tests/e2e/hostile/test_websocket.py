"""Hostile WebSocket handshakes, frames and messages over HTTP/1.1."""

from __future__ import annotations

import json
import struct
import zlib

import pytest

from e2e.servers import Server

from .attacker import receive_head, receive_to_end, request, send, send_while_taken, status
from .bystanders import unharmed
from .raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    RawWebSocket,
    close_code,
    frame,
    upgrade,
)

MIB = 1 << 20


def _without(name: bytes) -> tuple[bytes, ...]:
    return tuple(line for line in UPGRADE if not line.lower().startswith(name.lower() + b":"))


HANDSHAKES: dict[str, tuple[bytes, ...]] = {
    "no key": _without(b"Sec-WebSocket-Key"),
    "no version": _without(b"Sec-WebSocket-Version"),
    "version 12": (*_without(b"Sec-WebSocket-Version"), b"Sec-WebSocket-Version: 12"),
    "version beyond ASCII": (*_without(b"Sec-WebSocket-Version"), b"Sec-WebSocket-Version: \xff"),
    "upgrade beyond ASCII": (*_without(b"Upgrade"), b"Upgrade: websocket\xff"),
}


@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_bad_handshake_is_refused(server: Server, name: str) -> None:
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(request(server, b"/realtime/ws", *HANDSHAKES[name]))
        answered = status(receive_head(sock))
    assert 400 <= (answered or 500) < 500


HEADERS: dict[str, tuple[bytes, ...]] = {
    "subprotocol beyond ASCII": (b"Sec-WebSocket-Protocol: \xff",),
    "subprotocols of commas": (b"Sec-WebSocket-Protocol: ,,, ,",),
    "extension beyond ASCII": (b"Sec-WebSocket-Extensions: \xff",),
    "extension with a bad parameter": (
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\xff",
    ),
    "extension with window bits of 99": (
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99",
    ),
    "10 kB of extensions": (b"Sec-WebSocket-Extensions: " + b"a, " * 3000,),
    "a second key beyond ASCII": (b"Sec-WebSocket-Key: \xff",),
    "Origin beyond ASCII": (b"Origin: \xff",),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_nasty_handshake_header(server: Server, name: str) -> None:
    """Accepted without what the header asks for, or refused; not a server error."""
    with unharmed(server) as scene:
        sock = scene.attacker.connect()
        sock.sendall(upgrade(server, *HEADERS[name]))
        head = receive_head(sock)
    answered = status(head)
    assert answered == 101 or 400 <= (answered or 500) < 500, head
    assert b"\xff" not in head.partition(b"\r\n\r\n")[0]
    assert b"permessage-deflate" not in head


def test_an_upgrade_elsewhere_is_refused(server: Server) -> None:
    for target in (b"/healthz", b"/nowhere", b"/%ff"):
        with unharmed(server) as scene:
            sock = scene.attacker.connect()
            sock.sendall(upgrade(server, target=target))
            answered = status(receive_head(sock))
        assert 400 <= (answered or 500) < 500, target


def test_a_frame_in_the_segment_of_the_upgrade_counts(server: Server) -> None:
    with unharmed(server) as scene:
        client = RawWebSocket(
            server, scene.attacker.connect(), trailing=frame(PING, b"in one segment")
        )
        assert client.receive(PONG) == b"in one segment"


@pytest.mark.parametrize("cut", [1, 2, 6, 8])
def test_the_start_of_a_frame_in_the_segment_of_the_upgrade_counts(
    server: Server, cut: int
) -> None:
    whole = frame(PING, b"in two segments")
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect(), trailing=whole[:cut])
        client.send(whole[cut:])
        assert client.receive(PONG) == b"in two segments"


def test_a_thousand_frames_behind_the_upgrade_count(server: Server) -> None:
    with unharmed(server) as scene:
        pings = b"".join(frame(PING, b"%d" % number) for number in range(1000))
        client = RawWebSocket(server, scene.attacker.connect(), trailing=pings)
        while client.receive(PONG) != b"999":  # pongs of earlier pings may be left out
            pass


def test_a_frame_right_behind_the_answer_counts(server: Server) -> None:
    """The client answers the 101 while the server hands the connection over: often, to meet the
    moment."""
    lost = 0
    with unharmed(server) as scene:
        for number in range(200):
            client = RawWebSocket(server, scene.attacker.connect())
            client.send(frame(PING, b"%d" % number))
            lost += not client.answers(b"%d" % number)
    assert lost == 0


def test_a_frame_in_single_bytes(server: Server) -> None:
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect())
        for byte in frame(PING, b"x" * 100):
            client.send(bytes([byte]))
        assert client.receive(PONG) == b"x" * 100


# name -> frames, and the close codes of which one must come
FRAMES: dict[str, tuple[bytes, set[int]]] = {
    "bad UTF-8": (frame(TEXT, b"\xff\xfe"), {1007}),
    "half a surrogate": (frame(TEXT, b"\xed\xa0\x80"), {1007}),
    "bad UTF-8 over fragments": (
        frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"("),
        {1007},
    ),
    "half a character at the end": (frame(TEXT, b"\xc3"), {1007}),
    "RSV1": (frame(TEXT, b"{}", reserved=4), {1002}),
    "RSV2": (frame(TEXT, b"{}", reserved=2), {1002}),
    "RSV3": (frame(TEXT, b"{}", reserved=1), {1002}),
    "RSV1 on a ping": (frame(PING, b"", reserved=4), {1002}),
    **{
        f"opcode {opcode}": (frame(opcode, b"a"), {1002})
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "unmasked text": (frame(TEXT, b"{}", masked=False), {1002}),
    "unmasked ping": (frame(PING, b"", masked=False), {1002}),
    "unmasked close": (frame(CLOSE, struct.pack("!H", 1000), masked=False), {1002}),
    "oversized ping": (frame(PING, b"a" * 126), {1002}),
    "oversized pong": (frame(PONG, b"a" * 70_000), {1002}),
    "oversized close": (frame(CLOSE, struct.pack("!H", 1000) + b"a" * 124), {1002}),
    "fragmented ping": (frame(PING, b"a", fin=False), {1002}),
    "fragmented close": (frame(CLOSE, b"", fin=False), {1002}),
    "continuation of nothing": (frame(CONTINUATION, b"a"), {1002}),
    "text within text": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), {1002}),
    "close of one byte": (frame(CLOSE, b"\x03"), {1002}),
    **{
        f"close with {code}": (frame(CLOSE, struct.pack("!H", code)), {1002})
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 65535)
    },
    "close reason in bad UTF-8": (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), {1002, 1007}),
    "a length with the sign bit": (bytes([0x82, 0xFF]) + b"\xff" * 8 + bytes(4), {1002, 1009}),
    "a length of 2^62": (frame(BINARY, b"a", claimed=1 << 62), {1009}),
    "a length of 1 GiB": (frame(BINARY, b"a", claimed=1 << 30), {1009}),
    "a continuation of 1 GiB": (
        frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"a", claimed=1 << 30),
        {1009},
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_bad_frame_closes_with_the_right_code(server: Server, name: str) -> None:
    data, allowed = FRAMES[name]
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect())
        client.send(data)
        code, _ = client.ending()
    assert code in allowed


def test_a_length_in_too_many_bytes_is_read_or_refused(server: Server) -> None:
    """RFC 6455, 5.2 wants the shortest form; being strict is allowed, being confused is not."""
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect())
        client.send(bytes([0x89, 0xFE, 0, 2]) + bytes(4) + b"ab")
        client.finish()
        ending = receive_to_end(client.sock)
    assert close_code(ending.data) == 1002 or b"\x8a\x02ab" in ending.data


def test_frames_behind_a_close_are_ignored(server: Server) -> None:
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect())
        event = b'{"type":"hostile","data":{"mark":"behind the close"}}'
        client.send(
            frame(CLOSE, struct.pack("!H", 1000)) + frame(TEXT, event) + frame(PING, b"a") * 1000
        )
        client.ending()
    assert "behind the close" not in scene.bystanders[0].marks


def test_compression_is_not_agreed_to_unasked(server: Server) -> None:
    """Off by default: a context costs more memory than the connection."""
    with unharmed(server) as scene:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        client = RawWebSocket(server, scene.attacker.connect(), offer)
        assert b"sec-websocket-extensions" not in client.head.lower()
        client.send(frame(PING, b"plain"))
        assert client.receive(PONG) == b"plain"


def test_a_compression_bomb_is_refused_unless_compression_was_agreed_on(server: Server) -> None:
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 110_000  # below the largest message, so that its length alone is no reason
    with unharmed(server) as scene:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate"
        client = RawWebSocket(server, scene.attacker.connect(), offer)
        client.send(frame(BINARY, bomb[:-4], reserved=4))
        code, ending = client.ending()
    assert code == 1002 or (code is None and ending.reset)


def test_a_message_beyond_the_bound_closes_with_1009(server: Server) -> None:
    """In one frame, whose head alone is enough to know: nothing else of it is ever sent."""
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect())
        client.send(frame(BINARY, b"", claimed=64 * MIB))
        code, _ = client.ending()
    assert code == 1009


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_fragmented_giant_is_cut_off(server: Server, opcode: int) -> None:
    """A message that never ends, in frames of 64 kB, sent as long as the server takes them. When
    it has had enough it may read on for a moment, so that its close frame is not lost in a
    reset."""
    part = b"a" * 65536
    with unharmed(server) as scene, scene.ends("message_too_big"):
        client = RawWebSocket(server, scene.attacker.connect())
        client.send(frame(opcode, part, fin=False))
        send_while_taken(
            client.sock, frame(CONTINUATION, part, fin=False), 16 * MIB, stalled_after=5
        )
        code, ending = client.ending()
        client.sock.close()
    assert code == 1009 or (code is None and ending.reset)


def test_a_message_in_many_fragments_is_still_one_message(server: Server) -> None:
    """As many as anybody needs, a few empty ones among them."""
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect())
        assert json.loads(client.receive(TEXT))["type"] == "connected"
        empty, part = (frame(CONTINUATION, data, fin=False) for data in (b"", b"a" * 10))
        fragments = empty * 100 + part * 5_000
        client.send(frame(BINARY, b"", fin=False) + fragments + frame(CONTINUATION, b""))
        assert json.loads(client.receive(TEXT))["code"] == "wrong_content_type"


FLOODS = {
    "pings": frame(PING, b"a" * 125),
    "pongs": frame(PONG),
    "empty fragments": frame(CONTINUATION, b"", fin=False),
    "fragments of one byte": frame(CONTINUATION, b"a", fin=False),
    "fragments and pings": frame(CONTINUATION, b"", fin=False) + frame(PING, b"a"),
    "empty messages": frame(TEXT, b""),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames_that_say_nothing_ends_its_sender(server: Server, name: str) -> None:
    with unharmed(server) as scene, scene.ends("flood"):
        client = RawWebSocket(server, scene.attacker.connect())
        if "fragments" in name:
            client.send(frame(BINARY, b"", fin=False))
        send_while_taken(client.sock, FLOODS[name] * 1000, 5_000 * len(FLOODS[name]))
        code, ending = client.ending()
        client.sock.close()
    assert code == 1008 or (code is None and ending.reset)


COMMAND = b'{"type":"command","id":"%s","command":"nonsense","data":{}}' % (b"a" * 900)


def test_whoever_asks_without_end_and_reads_no_answer_is_ended_as_slow(server: Server) -> None:
    """The answers wait in the client's outbox, whose bound ends it."""
    with unharmed(server) as scene, scene.ends("slow_consumer"):
        client = RawWebSocket(server, scene.attacker.connect(receive_buffer=4096))
        send_while_taken(client.sock, frame(TEXT, COMMAND) * 50, 64 * MIB, stalled_after=5)


MESSAGES = {
    "100 000 brackets": b"[" * 50_000,
    "nested objects": b'{"a":' * 8000 + b"1" + b"}" * 8000,
    "nested data": b'{"type":"a","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "half a surrogate": b'{"type":"\\ud800","data":"\\udfff"}',
    "type is a number": b'{"type":1}',
    "command of nothing": b'{"type":"command"}',
    "command is a list": b'{"type":"command","command":[],"data":[]}',
    "channel is a bomb": b'{"type":"command","command":"join_channel","data":{"channel":"'
    + b"a" * 10_000
    + b'"}}',
    "empty": b"",
    "NUL": b"\0",
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_a_nasty_message_harms_its_sender_at_most(server: Server, name: str, opcode: int) -> None:
    with unharmed(server) as scene:
        client = RawWebSocket(server, scene.attacker.connect())
        client.send(frame(opcode, MESSAGES[name]) + frame(CLOSE, struct.pack("!H", 1000)))
        code, _ = client.ending()
    assert code != 1011, "an error of the server's own"


def test_a_binary_header_that_lies(server: Server) -> None:
    """The native binary framing: a 4-byte length of a JSON header."""
    two = b"\0\0\0\x02"
    for payload in (
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        two,
        two + b"{}",
        two + b"[]a",
        two + b"\xff\xff",
    ):
        with unharmed(server) as scene:
            client = RawWebSocket(server, scene.attacker.connect())
            client.send(frame(BINARY, payload) + frame(CLOSE, struct.pack("!H", 1000)))
            code, _ = client.ending()
        assert code != 1011, payload


def test_many_at_once(server: Server) -> None:
    """Every bad frame on a connection of its own, all connections open together."""
    with unharmed(server) as scene:
        clients = [RawWebSocket(server, scene.attacker.connect()) for _ in FRAMES]
        for client, (data, _) in zip(clients, FRAMES.values(), strict=True):
            send(client.sock, data)
        for client in clients:
            client.ending()
