"""A WebSocket client of its own that asks whether the server still answers, by the clock.

``python -m benchmarks.pinging PORT INTERVAL_MS`` sends a ``ping`` request and a ping frame
each time, until its standard input ends. It prints "ready" first, and one JSON object at the end.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import attrs

from benchmarks.framing import PONG, TEXT, frames, greeted_websocket
from benchmarks.servers import ServerFailed
from benchmarks.wire import PIECE, frame

REQUEST, FRAME = "request", "ping frame"

_PING = 9
_PATIENCE = 15.0


@attrs.define
class Pinging:
    """The running process; after `end`, what it saw, in seconds of the monotonic clock."""

    process: subprocess.Popen[str]
    answers: dict[str, list[tuple[float, float]]] = attrs.field(factory=dict)
    """For requests and for frames: when each was due, and when its answer came."""
    unanswered: int = 0

    def end(self) -> None:
        """Wait for the last answers. Raises ServerFailed if the client could not go on."""
        said, _ = self.process.communicate()
        if self.process.returncode != 0:
            raise ServerFailed("the client that pings could not go on")
        found = json.loads(said)
        self.answers, self.unanswered = found["answers"], found["unanswered"]

    def latencies_ms(self, kind: str, start: float, end: float) -> list[float]:
        """Return those of pings that were due between two times, sorted."""
        return sorted(
            (answered - due) * 1e3 for due, answered in self.answers[kind] if start <= due <= end
        )


@contextlib.contextmanager
def pinging(port: int, interval_ms: float) -> Iterator[Pinging]:
    """Let a client ping for the time of the block."""
    command = [sys.executable, "-m", "benchmarks.pinging", str(port), str(interval_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise ServerFailed("the client that pings did not get in")
        yield Pinging(process)
    finally:
        process.kill()
        process.communicate()


class _Process:
    """The process itself."""

    def __init__(self, port: int) -> None:
        self._asker, _ = greeted_websocket(port)
        self._asker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        for source in (sys.stdin, self._asker):
            self._selector.register(source, selectors.EVENT_READ)
        self._rest = b""
        self._waiting: dict[tuple[str, int], float] = {}
        self._answers: dict[str, list[tuple[float, float]]] = {REQUEST: [], FRAME: []}
        self._going = True

    def run(self, interval: float) -> dict[str, Any]:
        due, number = time.monotonic(), 0
        print("ready", flush=True)  # from here on there are questions due
        while True:
            while time.monotonic() >= due:
                # A late one is sent all the same, also at the end, and counts from when it was due.
                number += 1
                self._send(number, due)
                due += interval
            if not self._going:
                break
            self._turn(max(due - time.monotonic(), 0.0))
        until = time.monotonic() + _PATIENCE
        while self._waiting and time.monotonic() < until:
            self._turn(0.1)
        return {"answers": self._answers, "unanswered": len(self._waiting)}

    def _send(self, number: int, due: float) -> None:
        request = json.dumps({"type": "ping", "id": number}).encode()
        self._waiting[REQUEST, number] = self._waiting[FRAME, number] = due
        self._asker.sendall(frame(request) + frame(b"%d" % number, _PING))

    def _turn(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            now = time.monotonic()
            if key.fileobj is sys.stdin:
                self._going = False
                self._selector.unregister(sys.stdin)
                continue
            data = self._asker.recv(PIECE)
            if not data:
                raise SystemExit("the server ended the connection of the client that pings")
            self._take(data, now)

    def _take(self, data: bytes, now: float) -> None:
        data, end = self._rest + data, 0
        for first, start, end in frames(data):
            if first == PONG:
                self._answered(FRAME, int(data[start:end]), now)
            elif first == TEXT:
                message = json.loads(data[start:end])
                if message["type"] == "reply":
                    self._answered(REQUEST, message["id"], now)
        self._rest = data[end:]

    def _answered(self, kind: str, number: int, now: float) -> None:
        # Only what was asked, and only once: anything else ends this with a KeyError.
        self._answers[kind].append((self._waiting.pop((kind, number)), now))


if __name__ == "__main__":
    answers = _Process(int(sys.argv[1])).run(float(sys.argv[2]) / 1e3)
    print(json.dumps(answers))
