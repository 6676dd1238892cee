"""TLS next to clear text: CPU per delivery and per connection, and memory.

The clients are Python's, in this process, and need more CPU than the server does; so what counts
is the server's CPU time, and rates are what one core would do by it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.__main__ import main
from benchmarks.figures import Spread, show
from benchmarks.processor_time import processor_seconds
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    Running,
    ServerFailed,
    need_descriptors,
    serve_triocast,
)

ABOUT = "TLS next to clear text"
_SECONDS = 30.0
_MARK = b'"@'

_WARM_UP_CLIENTS = 10


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tls", description=__doc__)
    add = parser.add_argument
    add("--clients", type=int, default=1000, help="[1000]")
    add("--events", type=int, default=40, help="single events to all of them [40]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


@contextlib.contextmanager
def _certificate() -> Iterator[tuple[Path, Path]]:
    """Make a certificate that is good for this run. Raises ServerFailed."""
    program = shutil.which("openssl")
    if program is None:
        raise ServerFailed("no `openssl` to make a certificate with (apt-get install openssl)")
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += [
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ]
        command += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        yield certificate, key


class _Crowd:
    """Stream clients over TLS or in the clear."""

    def __init__(self, server: Running, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._context = context
        self._streams: list[socket.socket] = []
        self._poll = select.epoll()

    def _connect(self) -> socket.socket:
        address = (self._server.host, self._server.port)
        stream = socket.create_connection(address, timeout=_SECONDS)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            stream = self._context.wrap_socket(stream, server_hostname="localhost")
        return stream

    def join(self, count: int) -> None:
        """Open streams, one after the other."""
        for _ in range(count):
            stream = self._connect()
            stream.sendall(b"GET /realtime/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = b""
            while b"retry:" not in head:
                head += stream.recv(65536)
            stream.setblocking(False)
            self._streams.append(stream)
            self._poll.register(stream, select.EPOLLIN)

    def leave(self) -> None:
        for stream in self._streams:
            stream.close()
        self._streams = []
        self._poll.close()

    def publish(self, events: int) -> None:
        """Publish events, each when everybody has the one before. Raises ServerFailed."""
        by_number = {stream.fileno(): stream for stream in self._streams}
        with self._connect() as publisher:
            for number in range(events):
                body = json.dumps({"data": f"@{number:08}" + "x" * 110}).encode()
                head = "POST /realtime/broadcast HTTP/1.1\r\nHost: localhost\r\n"
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                publisher.sendall(head.encode() + body)
                reply = b""
                while b"subscribers" not in reply:
                    reply += publisher.recv(65536)
                self._gather(by_number, number)

    def _gather(self, by_number: dict[int, socket.socket], number: int) -> None:
        wanted = b"%s%08d" % (_MARK, number)
        missing = len(by_number)
        deadline = time.monotonic() + _SECONDS
        while missing:
            if time.monotonic() > deadline:
                raise ServerFailed(f"{missing} clients miss event {number}")
            for fd, _ in self._poll.poll(1):
                try:
                    data = by_number[fd].recv(65536)
                except (ssl.SSLWantReadError, BlockingIOError):
                    continue
                if not data:
                    raise ServerFailed("a stream ended")
                missing -= data.count(wanted)


def _memory_kb(pid: int | None) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def _measure(
    server: Running, context: ssl.SSLContext | None, clients: int, events: int
) -> dict[str, float]:
    first = _Crowd(server, context)
    first.join(_WARM_UP_CLIENTS)
    first.leave()
    crowd = _Crowd(server, context)
    memory, cpu, start = _memory_kb(server.pid), processor_seconds(server.pid), time.monotonic()
    crowd.join(clients)
    joining, joined = time.monotonic() - start, processor_seconds(server.pid) - cpu
    kilobytes = (_memory_kb(server.pid) - memory) / clients
    cpu, start = processor_seconds(server.pid), time.monotonic()
    crowd.publish(events)
    seconds, used = time.monotonic() - start, processor_seconds(server.pid) - cpu
    crowd.leave()
    deliveries = clients * events
    return {
        "deliveries per second": deliveries / seconds,
        "server CPU µs per delivery": used / deliveries * 1e6,
        "server CPU ms per connection": joined / clients * 1e3,
        "accepted per server CPU second": clients / joined,
        "accepted per second, one after the other": clients / joining,
        "kB per connection": kilobytes,
    }


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    most = options.clients + SPARE_DESCRIPTORS
    need_descriptors(2 * most)
    found: dict[str, list[dict[str, float]]] = {"clear text": [], "TLS": []}
    with _certificate() as (certificate, key):
        trusting = ssl.create_default_context(cafile=str(certificate))
        trusting.check_hostname = False
        secure = ("--tls-certificate", str(certificate), "--tls-key", str(key))
        for _ in range(options.runs):
            with serve_triocast(most) as server:
                found["clear text"].append(_measure(server, None, options.clients, options.events))
            with serve_triocast(most, *secure) as server:
                found["TLS"].append(_measure(server, trusting, options.clients, options.events))
    names = list(found["TLS"][0])
    rows, charts = [], []
    for name in names:
        spreads = {who: Spread.of([run[name] for run in runs]) for who, runs in found.items()}
        pairs = zip(found["TLS"], found["clear text"], strict=True)
        ratio = Spread.of([tls[name] / clear[name] for tls, clear in pairs if clear[name]] or [0.0])
        shown = [show(spread, "{:.2f}") for spread in spreads.values()]
        rows.append([name, *shown, show(ratio, "{:.2f}")])
        if name.startswith("server CPU"):
            charts.append(Chart(f"tls-{name.split()[-1]}", name, name.split()[2], {name: spreads}))
    return Result(
        title="TLS",
        tables=[Table("SSE", ["", *found, "TLS ÷ clear text"], rows)],
        charts=charts,
        notes=[
            f"{options.runs} runs each, medians (least-most); {options.clients} clients in Python,"
            f" {options.events} single events; {ssl.OPENSSL_VERSION}"
        ],
        raw=found,
    )


if __name__ == "__main__":
    sys.exit(main(["tls", *sys.argv[1:]]))
