"""A small server in threads that wants what other servers want of their clients.

It notes each POST's headers and body, sends every client the data, and can ask WebSockets for a
message before it greets them, answer in chunks, and tell which clients do not read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import parse_qs

PATIENCE = 0.3
"""Seconds after which a client that takes nothing counts as stuck."""

SEND_BUFFER = 4096
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def text_frame(data: bytes) -> bytes:
    size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
    return b"\x81" + size + data


def read_text_frame(stream: BinaryIO) -> bytes | None:
    """Return the next masked text; other frames are passed over. None at the end."""
    while head := stream.read(2):
        assert head[1] & 0x80, "a client's frame is masked"
        size = head[1] & 0x7F
        if size == 126:
            size = int.from_bytes(stream.read(2), "big")
        mask = stream.read(4)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(stream.read(size)))
        if head[0] == 0x81:
            return data
    return None


class GreetingServer:
    def __init__(self, greeting: bytes, expected: bytes, chunked: bool) -> None:
        self.greeting = greeting
        self.expected = expected
        self.chunked = chunked
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.gets: list[dict[str, str]] = []
        self.stuck: set[socket.socket] = set()
        self._streams: list[tuple[socket.socket, bool]] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._sockets.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError), sock.makefile("rb") as stream:
            while first := stream.readline():
                headers = {}
                while line := stream.readline().strip():
                    name, _, value = line.decode().partition(": ")
                    headers[name.lower()] = value
                if first.startswith(b"POST"):
                    self._publish(sock, headers, stream.read(int(headers["content-length"])))
                else:
                    self._greet(sock, headers, stream)

    def _greet(self, sock: socket.socket, headers: dict[str, str], stream: BinaryIO) -> None:
        key = headers.get("sec-websocket-key")
        if key is None:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        else:
            digest = hashlib.sha1(key.encode() + _GUID).digest()
            head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            head += b"Upgrade: websocket\r\nSec-WebSocket-Accept: " + base64.b64encode(digest)
            head += b"\r\n\r\n"
        self.gets.append(headers)
        sock.sendall(head)
        if self.expected and read_text_frame(stream) != self.expected:
            return
        with self._lock:
            # In two pieces: a client must wait for all of it.
            half = len(self.greeting) // 2
            sock.sendall(self.greeting[:half])
            sock.sendall(self.greeting[half:])
            self._streams.append((sock, key is not None))
        try:
            while stream.read(1):
                pass
        finally:
            with self._lock:
                self._streams.remove((sock, key is not None))

    def _publish(self, sock: socket.socket, headers: dict[str, str], body: bytes) -> None:
        self.posts.append((headers, body))
        data = body
        if headers["content-type"] == "application/x-www-form-urlencoded":
            data = parse_qs(body.decode(), strict_parsing=True)["data"][0].encode()
        with self._lock:
            for stream, is_websocket in self._streams:
                self._give(stream, text_frame(data) if is_websocket else b"data: %b\n\n" % data)
        head = b"HTTP/1.1 200 OK\r\n"
        if self.chunked:
            sock.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
            sock.sendall(b"0\r\n\r\n")
        else:
            sock.sendall(head + b"Content-Length: 2\r\n\r\n{}")

    def _give(self, stream: socket.socket, frame: bytes) -> None:
        # What is sent to one that has just gone is lost.
        with contextlib.suppress(OSError):
            self._send(stream, frame)

    def _send(self, stream: socket.socket, frame: bytes) -> None:
        while frame and stream not in self.stuck:
            if select.select([], [stream], [], PATIENCE)[1]:
                frame = frame[stream.send(frame, socket.MSG_DONTWAIT) :]
            else:
                self.stuck.add(stream)


@contextlib.contextmanager
def greeting_server(
    greeting: bytes = b"", expected: bytes = b"", chunked: bool = False
) -> Iterator[GreetingServer]:
    server = GreetingServer(greeting, expected, chunked)
    try:
        yield server
    finally:
        server.stop()
