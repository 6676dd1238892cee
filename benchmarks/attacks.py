"""Hostile inputs: what a client can send, or leave unread, so that a server keeps too much."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import attrs
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from benchmarks.servers import Paths, Running
from benchmarks.wire import Wrong, frame, get_json, publish_singly, publish_stream, receive, upgrade

HTTP1, WEBSOCKET, HTTP2, STALLED, LEFT = "http1", "websocket", "http2", "stalled", "left"
KINDS = (HTTP1, WEBSOCKET, HTTP2, STALLED, LEFT)

PATIENCE = 10.0
EVENT_BYTES = 32_000
MAX_PUBLISHED_BYTES = 100_000_000
"""By then clients who never read must have been cut off."""

_MB = 1_000_000
_TEXT, _BINARY, _PING, _CONTINUATION = 1, 2, 9, 0
_SMALL_BUFFER = 4096
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = 65_535
_AT_ONCE = 20
_NO_LINGER = struct.pack("ii", 1, 0)

COMPRESS = ("--namespaces", json.dumps({"$all": {"compress": True}}))
_DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
_LARGE_EVENTS = ("--max-event-bytes", "100000", "--history-bytes", "100000")


@attrs.frozen(kw_only=True)
class Attack:
    """One input and what it may cost.

    ``run`` gets the server and the share of the whole input that it sends; it returns the bytes
    that were sent or published, and raises Wrong where the server did not do as it has to.
    ``prepare`` gets the same and comes before what is measured. ``at_the_end`` says that only what
    is held then counts, rather than the most that was held on the way.
    """

    kind: str
    name: str
    max_growth_mb: float
    run: Callable[[Running, float], int]
    options: tuple[str, ...] = ()
    prepare: Callable[[Running, float], object]
    at_the_end: bool = False


# What all of them use.


@contextlib.contextmanager
def _connected(server: Running, *, reads: bool = True) -> Iterator[socket.socket]:
    """Connect; a client that never reads has little room for what it does not read."""
    with socket.socket() as stream:
        stream.settimeout(PATIENCE)
        if not reads:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        stream.connect((server.host, server.port))
        yield stream


def _pour(stream: socket.socket, chunk: bytes, total: float) -> int:
    """Send a chunk again and again, until that is enough or the server takes no more."""
    sent = offset = 0
    stream.settimeout(1.0)
    with contextlib.suppress(OSError):
        while sent < total:
            step = stream.send(memoryview(chunk)[offset:])
            sent += step
            offset = (offset + step) % len(chunk)
    stream.settimeout(PATIENCE)
    return sent


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()


def _until(reached: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise Wrong(f"in {PATIENCE:g} s there was no {what}")
        time.sleep(0.02)


def warm_up(server: Running, _share: float) -> None:
    """Use what the attacks use, so that its price is paid, and fill the history."""
    with _connected(server) as stream:
        publish_singly(stream, [_event()] * 30)
    with _connected(server) as stream:
        stream.sendall(_get(Paths().sse))
        receive(stream)
    with _connected(server) as stream:
        upgrade(stream, Paths().websocket).receive()
    with _connected(server) as stream:
        _Http2(stream).get()


def _event(size: int = EVENT_BYTES) -> bytes:
    return b'{"type":"hostile","data":"%b"}' % (b"x" * size)


# HTTP/1.1.


def _body_without_end(server: Running, share: float) -> int:
    head = f"POST {Paths().publish} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    chunk = b"100000\r\n" + b"a" * (1 << 20) + b"\r\n"
    with _connected(server) as stream:
        stream.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        return _pour(stream, chunk, 100 * _MB * share)


def _behind_a_stream(server: Running, share: float) -> int:
    with _connected(server) as stream:
        stream.sendall(_get(Paths().sse))
        receive(stream)
        return _pour(stream, b"a" * (1 << 16), 64 * _MB * share)


# WebSocket.


def _unfinished(payload: bytes, opcode: int) -> bytes:
    whole = frame(payload, opcode)
    return bytes((whole[0] & 0x7F,)) + whole[1:]


def _compressed(payload: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)
    whole = frame(packed[:-4], _BINARY)
    return bytes((whole[0] | 0x40,)) + whole[1:]


def _message(server: Running, share: float, *, first: bytes, chunk: bytes, total: float) -> int:
    """Send a frame, then a chunk of frames again and again."""
    with _connected(server) as stream:
        upgrade(stream, Paths().websocket)
        return _pour(stream, first, len(first)) + _pour(stream, chunk, total * share)


def _compressed_messages(server: Running, share: float, *, size: float, count: int) -> int:
    whole = _compressed(bytes(round(size * share))) * count
    with _connected(server) as stream:
        upgrade(stream, Paths().websocket, _DEFLATE)
        return _pour(stream, whole, len(whole))


def _questions(server: Running, share: float, *, chunk: bytes, total: float) -> int:
    """Ask without reading an answer."""
    with _connected(server, reads=False) as stream:
        upgrade(stream, Paths().websocket)
        return _pour(stream, chunk, total * share)


_PART = b"a" * 65_536
_COMMAND = b'{"type":"command","id":"%b","command":"nonsense","data":{}}' % (b"a" * 900)


# HTTP/2.


class _Http2:
    """A client that never opens a window and answers nothing."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.room = _WINDOW
        self.over = False
        self._encoder = Encoder()
        self._got = b""
        stream.sendall(_PREFACE + SettingsFrame(0).serialize())

    def encoded(self, *fields: tuple[bytes, bytes]) -> bytes:
        return bytes(self._encoder.encode(list(fields)))

    def request(self, path: str, method: bytes = b"GET", *fields: tuple[bytes, bytes]) -> bytes:
        """Return a block of headers."""
        own = ((b":method", method), (b":scheme", b"http"), (b":authority", b"localhost"))
        return self.encoded(*own, (b":path", path.encode()), *fields)

    def open(self, path: str, *, tunnel: bool = False) -> None:
        """Ask for a stream, or for a WebSocket (RFC 8441), and wait for the head of the answer."""
        if tunnel:
            version = (b"sec-websocket-version", b"13")
            block = self.request(path, b"CONNECT", (b":protocol", b"websocket"), version)
            flags = ["END_HEADERS"]
        else:
            block, flags = self.request(path), ["END_HEADERS", "END_STREAM"]
        self.stream.sendall(HeadersFrame(1, block, flags=flags).serialize())
        self.hear(HeadersFrame)

    def get(self) -> None:
        """Make a small request on the first stream, and wait for the answer."""
        self.open("/healthz")

    def hear(self, wanted: type[Frame]) -> None:
        """Take what comes until a frame of this kind does. Raises Wrong at the end."""
        while True:
            while len(self._got) >= 9:
                found, length = Frame.parse_frame_header(memoryview(self._got)[:9])
                if len(self._got) < 9 + length:
                    break
                found.parse_body(memoryview(self._got[9 : 9 + length]))
                self._got = self._got[9 + length :]
                self._heard(found)
                if isinstance(found, wanted):
                    return
            self._got += receive(self.stream)

    def send_data(self, data: bytes) -> int:
        """Send on the first stream as far as the server opens its window."""
        sent = 0
        self.stream.settimeout(1.0)
        with contextlib.suppress(OSError, Wrong):
            while sent < len(data) and not self.over:
                while self.room <= 0:
                    self.hear(WindowUpdateFrame)
                part = data[sent : sent + min(self.room, 16_384)]
                self.stream.sendall(DataFrame(1, part).serialize())
                self.room -= len(part)
                sent += len(part)
        return sent

    def _heard(self, found: Frame) -> None:
        if isinstance(found, WindowUpdateFrame) and found.stream_id:
            self.room += found.window_increment
        elif isinstance(found, RstStreamFrame | GoAwayFrame):
            self.over = True


def _frames(server: Running, share: float, *, chunk: bytes, total: float = 2 * _MB) -> int:
    with _connected(server, reads=False) as stream:
        _Http2(stream)
        return _pour(stream, chunk, total * share)


def _resets(server: Running, share: float) -> int:
    with _connected(server, reads=False) as stream:
        _Http2(stream).get()
        return _pour(stream, RstStreamFrame(1, 8).serialize() * 1000, 2 * _MB * share)


def _continuations(server: Running, share: float, *, block: bytes, total: float) -> int:
    """Send a block of headers that never ends (CVE-2024-27316)."""
    with _connected(server, reads=False) as stream:
        client = _Http2(stream)
        begin = HeadersFrame(1, client.request("/healthz"), flags=["END_STREAM"])
        stream.sendall(begin.serialize())
        return _pour(stream, ContinuationFrame(1, block).serialize() * 100, total * share)


def _header_bomb(server: Running, share: float) -> int:
    """Name one entry of the compression table very often."""
    with _connected(server) as stream:
        client = _Http2(stream)
        entry = (b"x-bomb", b"a" * 3900)
        block = client.encoded(entry) + client.encoded(entry) * round(12_000 * share)
        bomb = HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
        return _pour(stream, bomb, len(bomb))


def _tunnelled_message(server: Running, share: float) -> int:
    part = b"a" * 65_000
    with _connected(server) as stream:
        client = _Http2(stream)
        client.open(Paths().websocket, tunnel=True)
        count = max(round(1000 * share), 1)
        return client.send_data(
            _unfinished(part, _BINARY) + _unfinished(part, _CONTINUATION) * count
        )


# Clients who never read.


def _stall(stack: contextlib.ExitStack, server: Running, kind: str) -> None:
    websocket = kind.endswith("WebSocket")
    if kind.startswith("HTTP/2"):
        client = _Http2(stack.enter_context(_connected(server)))
        client.open(Paths().websocket if websocket else Paths().sse, tunnel=websocket)
        return
    stream = stack.enter_context(_connected(server, reads=False))
    if websocket:
        upgrade(stream, Paths().websocket)
    else:
        stream.sendall(_get(Paths().sse))
        receive(stream, 100)


def _stalled(server: Running, share: float, *, kinds: tuple[str, ...], total: float) -> int:
    """Publish beside clients who never read; each has to be cut off."""
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            _stall(stack, server, kind)
        published = 0
        stream = stack.enter_context(_connected(server))
        listening = len(kinds)
        while listening or published < total * share:
            if published > MAX_PUBLISHED_BYTES:
                raise Wrong(f"{listening} clients who never read are still given events")
            publish_singly(stream, [_event()] * 10)
            published += 10 * EVENT_BYTES
            listening = get_json(server, "/realtime/stats")["channels"].get("$all", 0)
    return published


# What is left of clients and names.


def _come_and_go(server: Running, share: float, *, clients: int = 2000) -> int:
    """Connect and disconnect in groups, over SSE and WebSocket, by FIN and RST."""
    for number in range(max(round(clients * share) // _AT_ONCE, 4)):
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(_connected(server)) for _ in range(_AT_ONCE)]
            for stream in streams:
                if number % 2:
                    upgrade(stream, Paths().websocket).receive()
                else:
                    stream.sendall(_get(Paths().sse))
                    receive(stream)
                if number // 2 % 2:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            with _connected(server) as publisher:
                publish_singly(publisher, [_event(100)])
    _until(lambda: not get_json(server, "/realtime/stats")["channels"], "end of all clients")
    return 0


def _name_namespaces(server: Running, share: float, *, first: int = 2000, count: int) -> int:
    """Publish each event in a namespace of its own."""
    sent = 0
    numbers = range(first, first + round(count * share))
    with _connected(server) as stream:
        for begin in numbers[::1000]:
            some = range(begin, min(begin + 1000, numbers.stop))
            lines = b"".join(b'{"channel":"n%d:x","data":1}\n' % number for number in some)
            publish_stream(stream, lines, len(some))
            sent += len(lines)
    return sent


def _attacks() -> Iterator[Attack]:
    warm = partial(Attack, prepare=warm_up)
    add = partial(warm, kind=HTTP1, max_growth_mb=30)
    yield add(name="a body of 100 MB that was not announced", run=_body_without_end)
    yield add(name="64 MB behind the request for a stream", run=_behind_a_stream)

    add = partial(warm, kind=WEBSOCKET, max_growth_mb=30)
    bomb = partial(_compressed_messages, size=96 * _MB, count=1)
    yield add(name="96 MB compressed to 96 kB, not agreed on", run=bomb)
    yield add(name="96 MB compressed to 96 kB, agreed on", run=bomb, options=COMPRESS)
    several = partial(_compressed_messages, size=65_536, count=200)
    yield add(name="200 compressed messages in one segment", run=several, options=COMPRESS)
    for name, opcode in ("text", _TEXT), ("binary", _BINARY):
        first, chunk = _unfinished(_PART, opcode), _unfinished(_PART, _CONTINUATION)
        giant = partial(_message, first=first, chunk=chunk, total=64 * _MB)
        yield add(name=f"a {name} message of 64 MB in fragments", run=giant)
    for name, part in ("empty fragments", b""), ("fragments of a byte", b"a"):
        chunk = _unfinished(part, _CONTINUATION) * 1000
        small = partial(
            _message, first=_unfinished(b"", _BINARY), chunk=chunk, total=500 * len(chunk)
        )
        yield add(name=f"500 000 {name}", run=small, max_growth_mb=20)
    pings = partial(_questions, chunk=frame(b"a" * 125, _PING) * 500, total=64 * _MB)
    yield add(name="64 MB of pings, no answer is read", run=pings)
    requests = partial(_questions, chunk=frame(_COMMAND) * 50, total=32 * _MB)
    yield add(name="32 MB of requests, no reply is read", run=requests)

    add = partial(warm, kind=HTTP2, max_growth_mb=30)
    for name, each in (
        ("SETTINGS", SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: 4096})),
        ("PING", PingFrame(0, b"12345678")),
        ("WINDOW_UPDATE", WindowUpdateFrame(0, window_increment=1)),
    ):
        flood = partial(_frames, chunk=each.serialize() * 1000)
        yield add(name=f"2 MB of {name}, nothing is read", run=flood)
    yield add(name="2 MB of RST_STREAM for a stream that has ended", run=_resets)
    for name, block, total in (
        ("2 MB of small CONTINUATION", b"\x00\x05x-aaa\x03bbb", 2 * _MB),
        ("2 MB of empty CONTINUATION", b"", 2 * _MB),
        ("64 MB of large CONTINUATION", Encoder().encode([(b"x-a", b"b" * 10_000)]), 64 * _MB),
    ):
        run = partial(_continuations, block=block, total=total)
        yield add(name=name, run=run)
    yield add(name="47 MB of headers in 15 kB", run=_header_bomb)
    yield add(name="a message of 64 MB through a WebSocket over HTTP/2", run=_tunnelled_message)

    add = partial(warm, kind=STALLED)
    outbox = ("--outbox-bytes", "1000000", *_LARGE_EVENTS)
    for kind in ("SSE", "WebSocket", "HTTP/2 SSE", "HTTP/2 WebSocket"):
        run = partial(_stalled, kinds=(kind,), total=20 * _MB)
        name = f"20 MB beside one who never reads, {kind}"
        yield add(name=name, run=run, max_growth_mb=12, options=outbox)
    outbox = ("--outbox-bytes", "200000", *_LARGE_EVENTS)
    run = partial(_stalled, kinds=("SSE", "WebSocket") * 25, total=6 * _MB)
    yield add(name="6 MB beside 50 who never read", run=run, max_growth_mb=30, options=outbox)

    yield Attack(
        kind=LEFT,
        name="2 000 clients who came and went",
        max_growth_mb=8,
        run=_come_and_go,
        options=("--history-events", "10"),
        prepare=partial(_come_and_go, clients=500),
        at_the_end=True,
    )
    yield Attack(
        kind=LEFT,
        name="20 000 namespaces that were named once",
        max_growth_mb=8,
        run=partial(_name_namespaces, count=20_000),
        options=("--history-bytes", "100000"),
        prepare=partial(_name_namespaces, first=0, count=2000),
        at_the_end=True,
    )


ATTACKS = tuple(_attacks())
