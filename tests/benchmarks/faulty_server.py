"""A tiny SSE server in threads that loses, swaps or repeats one event of one client on purpose."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

STRIKES_AT = 7
"""The event, counted from when there are three streams, that the last stream gets wrongly."""

_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1000\n\n"
_REPLY = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


class FaultyServer:
    """``fault`` is none, drop, swap, repeat, close, refuse, or split (into single bytes)."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._streams: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._events = 0
        self._held = b""
        self._spawn(self._accept)

    def _spawn(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

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
            self._sockets.append(sock)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError), sock.makefile("rb") as requests:
            while first := requests.readline():
                length = 0
                while (line := requests.readline()).strip():
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                if first.startswith(b"POST"):
                    self._publish(sock, requests.read(length))
                else:
                    self._stream(sock)

    def _stream(self, sock: socket.socket) -> None:
        with self._lock:
            self._streams.append(sock)
            sock.sendall(_STREAM)
        while sock.recv(4096):
            pass
        with self._lock:
            self._streams.remove(sock)

    def _publish(self, sock: socket.socket, body: bytes) -> None:
        frame = b"data: " + body + b"\n\n"
        with self._lock:
            if len(self._streams) >= 3:
                self._events += 1
            struck = self._events == STRIKES_AT
            for stream in self._streams:
                wrong = self._distort(frame) if stream is self._streams[-1] else frame
                if struck and self.fault == "close" and stream is self._streams[-1]:
                    stream.shutdown(socket.SHUT_RDWR)
                elif self.fault == "split":
                    for i in range(len(wrong)):
                        stream.sendall(wrong[i : i + 1])
                elif wrong:
                    stream.sendall(wrong)
        if struck and self.fault == "refuse":
            sock.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        else:
            sock.sendall(_REPLY)

    def _distort(self, frame: bytes) -> bytes:
        if self._events == STRIKES_AT:
            if self.fault == "drop":
                return b""
            if self.fault == "repeat":
                return frame + frame
            if self.fault == "swap":
                self._held = frame
                return b""
        held, self._held = self._held, b""
        return frame + held


@contextlib.contextmanager
def faulty_server(fault: str) -> Iterator[FaultyServer]:
    server = FaultyServer(fault)
    try:
        yield server
    finally:
        server.stop()
