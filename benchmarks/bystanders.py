"""Stream clients who were there before, in a process of their own: how long do events take to them?

``python -m benchmarks.bystanders PORT CLIENTS EVENTS_PER_SECOND`` publishes to a channel of its own
by the clock until its standard input ends, then prints a JSON list of (due, arrived) for every
delivery, in seconds of the monotonic clock. It says "ready" when all clients are in.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import attrs

from benchmarks.servers import ServerFailed

CHANNEL = "bystanders"
_MARK = b"#"
_DIGITS = 8


@attrs.define
class Bystanders:
    """The running process; after `end`, what it saw."""

    process: subprocess.Popen[str]
    deliveries: list[tuple[float, float]] = attrs.field(factory=list)

    def end(self) -> None:
        """Wait for what is still due. Raises ServerFailed if not all of it comes."""
        said, _ = self.process.communicate()
        if self.process.returncode != 0:
            raise ServerFailed("the bystanders lost events or their streams")
        self.deliveries = [(due, arrived) for due, arrived in json.loads(said)]

    def latencies_ms(self, start: float, end: float) -> list[float]:
        """Return those of events that were due between two times, sorted."""
        return sorted(
            (arrived - due) * 1e3 for due, arrived in self.deliveries if start <= due <= end
        )


@contextlib.contextmanager
def bystanders(port: int, clients: int = 100, rate: float = 20) -> Iterator[Bystanders]:
    """Run bystanders for the time of the block."""
    command = [sys.executable, "-m", "benchmarks.bystanders", str(port), str(clients), str(rate)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Bystanders(process)
    finally:
        process.kill()
        process.wait()


def _connect(port: int) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", port), timeout=10)
    stream.sendall(
        b"GET /realtime/events?channel=%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % CHANNEL.encode()
    )
    head = b""
    while b"retry:" not in head:
        head += stream.recv(65536)
    stream.setblocking(False)
    return stream


def _main(port: int, clients: int, rate: float) -> None:
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    for _ in range(clients):
        selector.register(_connect(port), selectors.EVENT_READ, bytearray())
    publisher = socket.create_connection(("127.0.0.1", port))
    publisher.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(publisher, selectors.EVENT_READ, None)
    print("ready", flush=True)
    due_of: list[float] = []
    seen: list[tuple[float, float]] = []
    due, going = time.monotonic(), True
    missing = 0
    last = due
    while going or (missing and time.monotonic() < last + 10):
        now = time.monotonic()
        if going and now >= due:
            body = b'{"channel":"%s","data":"%s%0*d"}' % (
                CHANNEL.encode(),
                _MARK,
                _DIGITS,
                len(due_of),
            )
            head = b"POST /realtime/broadcast HTTP/1.1\r\nHost: localhost\r\n"
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            publisher.sendall(head + body)
            due_of.append(due)
            missing += clients
            due += 1 / rate
        for key, _ in selector.select(max(0.0, due - time.monotonic()) if going else 0.1):
            if key.fileobj is sys.stdin:
                going = False
                selector.unregister(sys.stdin)
                continue
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 16)
            arrived = last = time.monotonic()
            if key.data is None:
                continue
            if not data:
                raise SystemExit("a bystander lost its stream")
            key.data.extend(data)
            while (at := key.data.find(_MARK)) >= 0 and len(key.data) > at + _DIGITS:
                seen.append((due_of[int(key.data[at + 1 : at + 1 + _DIGITS])], arrived))
                missing -= 1
                del key.data[: at + 1 + _DIGITS]
    if missing:
        raise SystemExit(f"bystanders miss {missing} events")
    print(json.dumps(seen))


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
