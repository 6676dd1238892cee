"""WebSocket clients in a process of their own that take frames apart, also compressed ones.

``python -m benchmarks.listening PORT`` takes commands as lines of JSON and answers each with one;
meanwhile it goes on reading. The first client inflates what it gets, the others count.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.framing import COMPRESSED, TEXT, frames, greeted_websocket
from benchmarks.servers import Running, ServerFailed
from benchmarks.wire import PIECE, PONG, frame

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
"""What browsers offer."""

_QUIET = 0.1
"""Seconds for which more than what was due has time to come."""

_EMPTY_BLOCK = b"\x00\x00\xff\xff"
"""What a sender leaves out at the end of each message (RFC 7692, section 7.2.1)."""


class Listeners:
    """The running process, seen from outside. Every method raises ServerFailed if it has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def join(self, clients: int, headers: Sequence[str] = ()) -> int:
        """Open so many streams; return how many of them the server lets be compressed."""
        return int(self._ask(do="join", clients=clients, headers=headers))

    def begin(self) -> None:
        """Count anew."""
        self._ask(do="begin")

    def wait(self, frames: int, patience: float) -> float:
        """Wait for so many frames since `begin`, no longer than ``patience`` seconds without one.

        Return when the last one came, in seconds of the monotonic clock.
        """
        return float(self._ask(do="wait", frames=frames, patience=patience))

    def end(self) -> dict[str, Any]:
        """Stay a moment for what should not come, then return what did.

        ``counts``: text frames of each client; ``compressed``: how many of all these were;
        ``bytes``; ``texts``: what the first client got, inflated.
        """
        found: dict[str, Any] = self._ask(do="end")
        return found

    def _ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ServerFailed("the listeners could not go on")
        return json.loads(answer)


@contextlib.contextmanager
def listeners(server: Running) -> Iterator[Listeners]:
    """Run listeners, none at first, for the time of the block."""
    command = [sys.executable, "-m", "benchmarks.listening", str(server.port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Listeners(process)
    finally:
        process.kill()
        process.communicate()


class _Client:
    def __init__(self, stream: socket.socket, *, inflates: bool) -> None:
        self.stream = stream
        self._inflates = inflates
        self._rest = b""
        self.begin()

    def begin(self) -> None:
        self.count = self.compressed = 0
        self.texts: list[str] = []

    def take(self, data: bytes) -> int:
        """Return how many text frames have ended in what came."""
        data = self._rest + data
        before, end = self.count, 0
        for first, start, end in frames(data):
            if first & ~COMPRESSED != TEXT:
                continue
            self.count += 1
            self.compressed += bool(first & COMPRESSED)
            if self._inflates:
                self.texts.append(_text(data[start:end], compressed=bool(first & COMPRESSED)))
        self._rest = data[end:]
        return self.count - before


def _text(payload: bytes, *, compressed: bool) -> str:
    if compressed:
        # Anew for each: the server promised to keep no context.
        payload = zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload + _EMPTY_BLOCK)
    return payload.decode()


class _Process:
    """The process itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: dict[int, _Client] = {}
        self._poll = select.epoll()
        self._poll.register(0, select.EPOLLIN)
        self._frames = self._bytes = 0
        self._last = 0.0

    def run(self) -> None:
        commands = b""
        while True:
            if 0 in self._read(-1):
                piece = os.read(0, PIECE)
                if not piece:
                    return
                commands += piece
            while b"\n" in commands:
                line, _, commands = commands.partition(b"\n")
                print(json.dumps(self._obey(**json.loads(line))), flush=True)

    def _obey(self, do: str, **command: Any) -> Any:
        obey = {"join": self._join, "begin": self._begin, "wait": self._wait, "end": self._end}
        return obey[do](**command)

    def _join(self, clients: int, headers: list[str]) -> int:
        agreed = 0
        for _ in range(clients):
            stream, compressible = greeted_websocket(self._port, headers)
            agreed += compressible
            stream.setblocking(False)
            self._clients[stream.fileno()] = _Client(stream, inflates=not self._clients)
            self._poll.register(stream, select.EPOLLIN)
        return agreed

    def _begin(self) -> None:
        self._frames = self._bytes = 0
        self._last = time.monotonic()
        for client in self._clients.values():
            client.begin()
            client.stream.send(frame(b"", PONG))  # nobody here answers pings

    def _wait(self, frames: int, patience: float) -> float:
        asked = time.monotonic()
        while self._frames < frames and time.monotonic() < max(self._last, asked) + patience:
            self._read(0.1)
        return self._last

    def _end(self) -> dict[str, Any]:
        until = time.monotonic() + _QUIET
        while time.monotonic() < until:
            self._read(_QUIET / 10)
        clients = self._clients.values()
        return {
            "counts": [client.count for client in clients],
            "compressed": sum(client.compressed for client in clients),
            "bytes": self._bytes,
            "texts": next(iter(clients)).texts,
        }

    def _read(self, seconds: float) -> set[int]:
        """Read what is there; return the descriptors that have something."""
        ready = {fd for fd, _ in self._poll.poll(seconds, 1000)}
        for fd in ready - {0}:
            client = self._clients[fd]
            data = client.stream.recv(PIECE)
            if not data:
                raise SystemExit("the server ended a listener's stream")
            self._bytes += len(data)
            if found := client.take(data):
                self._frames += found
                self._last = time.monotonic()
        return ready


if __name__ == "__main__":
    _Process(int(sys.argv[1])).run()
