"""An HTTP/2 client (RFC 9113) without a state machine: any frame at any time, on prior knowledge
or ALPN."""

from __future__ import annotations

import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from e2e.servers import Server

from .attacker import GONE, PATIENCE, Attacker, readable, send

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Headers = Iterable[tuple[bytes, bytes]]


class RawHttp2:
    """One connection. It acknowledges SETTINGS and PING, never opens a window, and notes what
    the server says."""

    def __init__(
        self,
        attacker: Attacker,
        *,
        settings: dict[int, int] | None = None,
        receive_buffer: int | None = None,
    ):
        self.server: Server = attacker.server
        self.sock: socket.socket = attacker.connect(alpn="h2", receive_buffer=receive_buffer)
        if isinstance(self.sock, ssl.SSLSocket):
            assert self.sock.selected_alpn_protocol() == "h2"
        self.status: dict[int, int] = {}
        self.body: dict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.closed = False
        self._window: dict[int, int] = defaultdict(int)
        self._initial_window = 65_535
        self._pings: set[bytes] = set()
        self._data = b""
        self._encoder = Encoder()
        self._decoder = Decoder()
        self.send(PREFACE + SettingsFrame(0, settings=settings or {}).serialize())

    # --- what we say

    def send(self, *data: bytes | Frame) -> bool:
        """False if the server closed."""
        return send(
            self.sock,
            b"".join(item if isinstance(item, bytes) else item.serialize() for item in data),
        )

    def encoded(self, headers: Headers) -> bytes:
        return self._encoder.encode(list(headers))

    def headers(self, stream: int, headers: Headers, *flags: str) -> HeadersFrame:
        """A HEADERS frame, with END_HEADERS and END_STREAM unless other flags are given."""
        return HeadersFrame(
            stream, self.encoded(headers), flags=flags or ("END_HEADERS", "END_STREAM")
        )

    def request(
        self, path: bytes = b"/healthz", *more: tuple[bytes, bytes], method: bytes = b"GET"
    ) -> Headers:
        return (
            (b":method", method),
            (b":scheme", b"https" if self.server.trust else b"http"),
            (b":authority", self.server.authority.encode()),
            (b":path", path),
            *more,
        )

    def get(self, stream: int, path: bytes = b"/healthz") -> HeadersFrame:
        return self.headers(stream, self.request(path))

    def websocket(
        self, stream: int, *more: tuple[bytes, bytes], path: bytes = b"/realtime/ws"
    ) -> HeadersFrame:
        """The extended CONNECT of RFC 8441."""
        version = (b"sec-websocket-version", b"13")
        pseudo = (*self.request(path, method=b"CONNECT"), (b":protocol", b"websocket"))
        return self.headers(stream, (*pseudo, version, *more), "END_HEADERS")

    def send_data(self, stream: int, data: bytes) -> int:
        """Send `data` in DATA frames as the server opens its windows, until it closes the stream
        or stops opening
        them for a second. Returns the bytes sent."""
        sent = 0
        while sent < len(data) and not self.over(stream):
            room = min(
                self._window[stream] + self._initial_window, self._window[0] + 65_535, 16_384
            )
            if room <= 0:
                if not self.pump(1.0):
                    break
                continue
            part = data[sent : sent + room]
            if not self.send(DataFrame(stream, part)):
                break
            self._window[stream] -= len(part)
            self._window[0] -= len(part)
            sent += len(part)
            self.pump(0)
        return sent

    # --- what we hear

    def over(self, stream: int) -> bool:
        return (
            self.closed or self.goaway is not None or stream in self.resets or stream in self.ended
        )

    def pump(self, seconds: float) -> bool:
        """Read what is there, waiting up to `seconds` for it. False if there was nothing."""
        if self.closed or not readable(self.sock, seconds):
            return False
        try:
            more = self.sock.recv(1 << 16)
        except GONE:
            more = b""
        self.closed = not more
        self._data += more
        while len(self._data) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._data)[:9])
            if len(self._data) < 9 + length:
                break
            frame.parse_body(memoryview(self._data[9 : 9 + length]))
            self._data = self._data[9 + length :]
            self._heard(frame)
        return True

    def until(self, done: Callable[[], object], *, patience: float = PATIENCE) -> None:
        """Read until `done()`; fails at the deadline, or if the server closes first."""
        deadline = time.monotonic() + patience
        while not done():
            if self.closed or time.monotonic() > deadline:
                told = f"status {self.status}, resets {self.resets}, goaway {self.goaway}"
                pytest.fail(f"{'closed' if self.closed else 'still waiting'}: {told}")
            self.pump(0.1)

    def until_closed(self) -> None:
        self.until(lambda: self.closed)

    def until_told_off(self, stream: int) -> None:
        """Wait for a verdict on `stream`: an answer, a reset, GOAWAY or the end of the
        connection."""
        self.until(lambda: stream in self.status or self.over(stream))

    def round_trip(self) -> bool:
        """A PING and its answer: the server has read all before it. False if it closed or is
        closing."""
        mark = f"{len(self._pings):08}".encode()
        self.send(PingFrame(0, mark))
        self.until(lambda: mark in self._pings or self.closed or self.goaway is not None)
        return mark in self._pings

    def _heard(self, frame: Frame) -> None:
        match frame:
            case HeadersFrame():
                headers = dict(self._decoder.decode(frame.data, raw=True))
                self.status.setdefault(frame.stream_id, int(headers[b":status"]))
            case DataFrame():
                self.body[frame.stream_id] += frame.data
            case RstStreamFrame():
                self.resets[frame.stream_id] = frame.error_code
            case GoAwayFrame():
                self.goaway = frame.error_code
            case WindowUpdateFrame():
                self._window[frame.stream_id] += frame.window_increment
            case SettingsFrame() if "ACK" not in frame.flags:
                self._initial_window = frame.settings.get(
                    SettingsFrame.INITIAL_WINDOW_SIZE, self._initial_window
                )
                self.send(SettingsFrame(0, flags=("ACK",)))
            case PingFrame():
                if "ACK" in frame.flags:
                    self._pings.add(frame.opaque_data)
                else:
                    self.send(PingFrame(0, frame.opaque_data, flags=("ACK",)))
        if "END_STREAM" in frame.flags:
            self.ended.add(frame.stream_id)
