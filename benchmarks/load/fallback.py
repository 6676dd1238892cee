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
RECORD_MARK = b"{record}"
READ_BYTES = 65536
STALLED_BUFFER = 4096

DATA_SEGMENTS_IN = slice(152, 156)
"""Where ``tcpi_data_segs_in`` stands in ``struct tcp_info`` (linux/tcp.h)."""


def _text_frame(text: bytes) -> bytes:
    """Return a masked WebSocket text frame, of less than 64 kB."""
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    mask = bytes([1, 2, 3, 4])
    return b"\x81" + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(text))


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
    def __init__(self, run: Run, request: bytes = b"", buffer: int | None = None) -> None:
        self.run = run
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect((run.options.host, run.options.port))
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
    has_head = is_open = False

    def __init__(self, run: Run, request: bytes, stalls: bool) -> None:
        self.stalls = stalls
        super().__init__(run, request, STALLED_BUFFER if stalls else None)

    def take_head(self) -> None:
        """Take what comes before events: the response's head, then the greeting to wait for."""
        run = self.run
        if not self.has_head:
            head, end, rest = self.got.partition(b"\r\n\r\n")
            if not end:
                return
            if head.split(b" ")[1] != (b"101" if run.websocket else b"200"):
                sys.exit(f"a client was answered with {head[:200]!r}")
            self.has_head, self.got = True, rest
            for text in run.options.message:
                self.socket.sendall(_text_frame(text.encode()))
        found = self.got.find(run.ready)
        if found < 0:
            return
        self.is_open, self.got = True, self.got[found + len(run.ready) :]
        run.last_progress = time.monotonic()
        if self.stalls:
            run.selector.unregister(self.socket)
            run.stalled.append(self)
        else:
            run.open_clients += 1

    def take(self, size: int) -> None:
        run = self.run
        if not size:
            self.close()
            run.ledger.faults["closed"] += 1
            run.open_clients -= self.is_open
            return
        if not self.is_open:
            self.take_head()
        if not self.is_open or self.stalls:
            return
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
        chunked = not length and re.search(rb"(?i)\ntransfer-encoding: chunked", head)
        missing = len(body) < (int(length[1]) if length else 0)
        if size and (not end or missing or (chunked and not body.endswith(b"0\r\n\r\n"))):
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
        self.ready = options.ready.encode()
        before, behind = options.body.encode().split(RECORD_MARK)
        self.body = before.replace(b"%", b"%%") + b"%b%0*d" + behind.replace(b"%", b"%%")
        self.open_clients = 0
        self.stalled: list[Client] = []
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
        clients, stalled = self.options.clients, self.options.stalled
        for i in range(clients):
            Client(self, request, (i + 1) * stalled // clients > i * stalled // clients)
            while i + 1 - self.entered() >= self.options.handshakes and not self.given_up():
                self.turn()
        while self.entered() < clients:
            self.turn()
            if self.given_up():
                sys.exit(f"only {self.entered()} of {clients} clients got in")

    def entered(self) -> int:
        return self.open_clients + len(self.stalled)

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
        body = self.body % (self.tag, DIGITS, number)
        fields = f"Content-Type: {self.options.content_type}", f"Content-Length: {len(body)}"
        fields += tuple(self.options.publish_header)
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
            "began": start,
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
    for name in ("host", "path", "publish-path", "transport", "phases", "body", "content-type"):
        parser.add_argument(f"--{name}", required=True)
    numbers = "port clients handshakes publishers in-flight settle-ms stall-ms open-rate"
    for name in numbers.split():
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--events", type=int)
    parser.add_argument("--server-pid", type=int)
    parser.add_argument("--stalled", type=int, default=0)
    parser.add_argument("--ready", default="")
    for name in ("header", "publish-header", "message"):
        parser.add_argument(f"--{name}", action="append", default=[])
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
    report = {"client": "Python", "clients": options.clients, "stalled": options.stalled}
    report |= {"transport": options.transport, "connect": connect}
    print(json.dumps({**report, "phases": phases, "faults": faults}))
    return 1 if any(faults.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
