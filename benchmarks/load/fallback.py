"""The load client in Python: the same arguments, checks and report as the one in C, but slow.

It is there so that the benchmark runs without a C compiler. It is itself the limit of what it
measures, so its rates say nothing about a server; its checks hold all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import selectors
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

DIGITS = 10
READ_BYTES = 65536

DATA_SEGMENTS_IN = slice(152, 156)
"""Where ``tcpi_data_segs_in`` stands in ``struct tcp_info`` (linux/tcp.h)."""


class Ledger:
    """Proves that every client got every event, once, in one order; see ``ledger.c``."""

    def __init__(self) -> None:
        self.published = self.completed = 0
        self.sent: list[float] = []
        self.first: list[float] = []
        self.missing: list[int] = []
        self.publisher: list[int] = []
        self.position: dict[int, int] = {}
        self.latest: dict[int, int] = {}
        self.span = 0.0
        names = "skipped late_or_repeated disordered unknown closed publish_errors"
        self.faults = dict.fromkeys(names.split(), 0)

    def publish(self, publisher: int, receivers: int, sent: float) -> int:
        self.sent.append(sent)
        self.first.append(0.0)
        self.missing.append(receivers)
        self.publisher.append(publisher)
        self.published += 1
        return self.published - 1

    def receive(self, client: Client, number: int, now: float) -> float:
        if number >= self.published:
            self.faults["unknown"] += 1
            return 0.0
        position = self.position.get(number)
        if position is None:
            position = self.position[number] = len(self.position)
            self.first[number] = now
            publisher = self.publisher[number]
            self.faults["disordered"] += number < self.latest.get(publisher, -1)
            self.latest[publisher] = max(number, self.latest.get(publisher, -1))
        self.faults["skipped"] += max(position - client.position, 0)
        self.faults["late_or_repeated"] += position < client.position
        client.position = max(client.position, position + 1)
        if self.missing[number]:
            self.missing[number] -= 1
            if not self.missing[number]:
                self.completed += 1
                self.span += now - self.first[number]
        return now - self.sent[number]


class Connection:
    def __init__(self, run: Run, request: bytes = b"") -> None:
        self.run = run
        self.socket = socket.create_connection((run.options.host, run.options.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(request)
        self.socket.setblocking(False)
        self.got = b""
        run.selector.register(self.socket, selectors.EVENT_READ, self)

    def close(self) -> None:
        self.run.selector.unregister(self.socket)
        self.socket.close()

    def readable(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except OSError:
            data = b""
        self.got += data
        self.take(len(data))

    def take(self, size: int) -> None:
        raise NotImplementedError


class Client(Connection):
    position = 0
    is_open = False

    def take(self, size: int) -> None:
        run = self.run
        if not size:
            self.close()
            run.ledger.faults["closed"] += 1
            run.open_clients -= self.is_open
            return
        if not self.is_open:
            head, end, rest = self.got.partition(b"\r\n\r\n")
            if not end:
                return
            if head.split(b" ")[1] != (b"101" if run.websocket else b"200"):
                sys.exit(f"a client was answered with {head[:200]!r}")
            self.is_open, self.got = True, rest
            run.open_clients += 1
        now, end_of_last, found = time.monotonic(), 0, 0
        for match in run.record.finditer(self.got):
            run.latencies.append(run.ledger.receive(self, int(match[1]), now))
            end_of_last, found = match.end(), found + 1
        # What is behind the last record may hold the beginning of the next one.
        self.got = self.got[max(end_of_last, len(self.got) - len(run.tag) - DIGITS + 1) :]
        counters = run.counters
        counters["reads"] += 1
        counters["bytes"] += size
        if found:
            counters["deliveries"] += found
            counters["reads_with_events"] += 1
            counters["most_events_in_a_read"] = max(counters["most_events_in_a_read"], found)
            run.last_progress = now


class Publisher(Connection):
    busy = False

    def send(self, request: bytes) -> None:
        self.busy = True
        try:
            self.socket.sendall(request)
        except OSError:  # servers end keep-alive connections after some requests
            self.reconnect(request)

    def reconnect(self, request: bytes = b"") -> None:
        self.close()
        Connection.__init__(self, self.run, request)

    def take(self, size: int) -> None:
        head, end, body = self.got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
        if size and (not end or len(body) < (int(length[1]) if length else 0)):
            return
        self.run.ledger.faults["publish_errors"] += self.busy and head.split(b" ")[1:2] not in (
            [b"200"],
            [b"201"],
            [b"202"],
            [b"204"],
        )
        self.busy, self.got = False, b""
        self.run.last_progress = time.monotonic()
        if not size or re.search(rb"(?i)\nconnection: close", head):
            self.reconnect()


class Run:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.websocket = options.transport == "websocket"
        self.selector = selectors.DefaultSelector()
        self.ledger = Ledger()
        self.tag = f"@{secrets.token_hex(3)}:".encode()
        self.record = re.compile(re.escape(self.tag) + rb"(\d{%d})" % DIGITS)
        self.open_clients = 0
        self.publishers: list[Publisher] = []
        self.begin()

    def begin(self) -> None:
        names = "deliveries reads reads_with_events most_events_in_a_read bytes"
        self.counters = dict.fromkeys(names.split(), 0)
        self.latencies: list[float] = []
        self.last_progress = time.monotonic()

    def turn(self, timeout: float = 0.01) -> None:
        for key, _ in self.selector.select(timeout):
            key.data.readable()

    def head(self, method: str, path: str, *lines: str) -> bytes:
        options = self.options
        first = f"{method} {path} HTTP/1.1", f"Host: {options.host}:{options.port}"
        return "\r\n".join((*first, *lines, *options.header, "", "")).encode()

    def connect(self) -> None:
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        lines = (*upgrade, key) if self.websocket else ("Accept: text/event-stream",)
        request = self.head("GET", self.options.path, *lines)
        for count in range(self.options.clients):
            Client(self, request)
            while count + 1 - self.open_clients >= self.options.handshakes and not self.given_up():
                self.turn()
        while self.open_clients < self.options.clients:
            self.turn()
            if self.given_up():
                sys.exit(f"only {self.open_clients} of {self.options.clients} clients got in")

    def segments(self) -> int:
        """Return how many segments with data the clients' kernels have received."""
        found = 0
        for key in list(self.selector.get_map().values()):
            if isinstance(key.data, Client):
                info = key.data.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                found += int.from_bytes(info[DATA_SEGMENTS_IN], sys.byteorder)
        return found

    def publish(self, publishers: int) -> bool:
        if not self.publishers:
            self.publishers = [Publisher(self) for _ in range(self.options.publishers)]
        idle = next((i for i in range(publishers) if not self.publishers[i].busy), None)
        if idle is None:
            return False
        number = self.ledger.publish(idle, self.open_clients, time.monotonic())
        data = b'{"n":"%b%0*d","pad":"' % (self.tag, DIGITS, number)
        data += b"x" * (self.options.data_bytes - len(data) - 2) + b'"}'
        body = b'{"type":"bench","data":%b}' % data
        fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        head = self.head("POST", self.options.publish_path, *fields)
        self.publishers[idle].send(head + body)
        return True

    def given_up(self) -> bool:
        waited = time.monotonic() - self.last_progress
        faults = self.ledger.faults
        return bool(
            faults["closed"] or faults["publish_errors"] or waited > self.options.stall_ms / 1000
        )

    def settle(self) -> None:
        ledger = self.ledger
        while ledger.completed < ledger.published or any(p.busy for p in self.publishers):
            if self.given_up():
                return
            self.turn()

    def phase(self, name: str) -> dict[str, Any]:
        options, ledger = self.options, self.ledger
        self.begin()
        segments, published, span = self.segments(), ledger.published, ledger.span
        cpu, own, start = _server_cpu(options), time.process_time(), time.monotonic()
        due = start
        while time.monotonic() - start < options.seconds and not self.given_up():
            if options.events and ledger.published - published >= options.events:
                break
            if name == "single":
                self.publish(1)
                self.settle()
            elif name == "burst":
                if ledger.published - ledger.completed >= options.in_flight or not self.publish(
                    options.publishers
                ):
                    self.turn()
            elif time.monotonic() < due or not self.publish(options.publishers):
                self.turn(min(max(due - time.monotonic(), 0.001), 0.01))
            else:
                ledger.sent[-1] = due  # latency counts from when it was due
                due += 1 / options.open_rate
            if ledger.completed == ledger.published:
                self.last_progress = time.monotonic()
        self.settle()
        seconds = time.monotonic() - start
        quantiles = statistics.quantiles([0.0, 0.0, *self.latencies], n=100)
        after = _server_cpu(options)
        return {
            "name": name,
            "seconds": seconds,
            "events": ledger.published - published,
            **self.counters,
            "p50_ms": quantiles[49] * 1e3,
            "p90_ms": quantiles[89] * 1e3,
            "p99_ms": quantiles[98] * 1e3,
            "max_ms": max(self.latencies, default=0.0) * 1e3,
            "span_seconds": ledger.span - span,
            "client_cpu_seconds": time.process_time() - own,
            "server_cpu_seconds": None if after is None or cpu is None else after - cpu,
            "segments": self.segments() - segments,
        }


def _proc(options: argparse.Namespace, file: str) -> str | None:
    try:
        return Path(f"/proc/{options.server_pid}/{file}").read_text()
    except OSError:
        return None


def _server_cpu(options: argparse.Namespace) -> float | None:
    stat = _proc(options, "stat")
    if stat is None:
        return None
    fields = stat.rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _server_rss(options: argparse.Namespace) -> int | None:
    rss = re.search(r"Rss: +(\d+) kB", _proc(options, "smaps_rollup") or "")
    return int(rss[1]) if rss else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("host", "path", "publish-path", "transport", "phases"):
        parser.add_argument(f"--{name}", required=True)
    numbers = "port clients handshakes publishers in-flight data-bytes settle-ms stall-ms open-rate"
    for name in numbers.split():
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--events", type=int)
    parser.add_argument("--server-pid", type=int)
    parser.add_argument("--header", action="append", default=[])
    return parser.parse_args()


def main() -> int:
    options = _parse()
    run = Run(options)
    rss, cpu, own = _server_rss(options), _server_cpu(options), time.process_time()
    start = time.monotonic()
    run.connect()
    connect = {"seconds": time.monotonic() - start}
    connect["client_cpu_seconds"] = time.process_time() - own
    end, after = time.monotonic() + options.settle_ms / 1000, _server_cpu(options)
    while time.monotonic() < end:
        run.turn()
    connect |= {
        "server_cpu_seconds": None if after is None or cpu is None else after - cpu,
        "rss_kb_before": rss,
        "rss_kb_after": _server_rss(options),
    }
    run.begin()
    phases = []
    for name in ("single", "burst", "open"):
        if name in options.phases.split(",") and not run.given_up():
            phases.append(run.phase(name))
    faults = {"lost": sum(run.ledger.missing), **run.ledger.faults}
    report = {"client": "Python", "clients": options.clients, "transport": options.transport}
    print(json.dumps({**report, "connect": connect, "phases": phases, "faults": faults}))
    return 1 if any(faults.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
