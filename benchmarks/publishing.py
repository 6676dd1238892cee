"""Publishing into an empty hub: streams of events, and what a single POST costs the server."""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.__main__ import main
from benchmarks.empty_app import PATH as EMPTY_PATH
from benchmarks.figures import Spread, show
from benchmarks.processor_time import processor_seconds_of
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import Paths, Running, free_port, serve, serve_triocast
from benchmarks.wire import (
    JSON,
    NDJSON,
    Wrong,
    connect,
    frame,
    post_request,
    read_reply,
    receive,
    websocket,
)

ABOUT = "events per second by NDJSON and WebSocket, and the CPU of a POST"

LEAST_STREAMED = 50_000
MOST_POST_RATIO = 1.25
_KEY = "benchmark-key-" + "0123456789abcdef" * 2
_DATA = '{"pad":"' + "x" * 100 + '"}'
_REQUESTS_PER_CONNECTION = 500
"""A stock Hypercorn ends a connection after a thousand."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks publishing", description=__doc__)
    add = parser.add_argument
    add("--events", type=int, default=100_000, help="events of a stream [100000]")
    add("--posts", type=int, default=3000, help="single POSTs [3000]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _stream_ndjson(server: Running, events: int) -> float:
    """Return the seconds from the first byte to the reply. Raises Wrong."""
    body = f'{{"channel":"bench","data":{_DATA}}}\n'.encode() * events
    request = post_request(Paths().publish, body, NDJSON)
    with connect(server) as stream:
        start = time.monotonic()
        stream.sendall(request)
        reply = json.loads(read_reply(stream))
        seconds = time.monotonic() - start
    if reply["published"] != events or reply["error"]:
        raise Wrong(f"{events} lines were sent, and the reply is {reply}")
    return seconds


def _stream_websocket(server: Running, events: int, *, acknowledged: bool) -> float:
    """Send requests without waiting; read the answers meanwhile, then check their order.

    Return the seconds from the first request to the last answer. Raises Wrong.
    """
    publish = f'{{"type":"publish","event":{{"channel":"bench","data":{_DATA}}}'
    ids = (f',"id":{number}}}' if acknowledged else "}" for number in range(events))
    requests = b"".join(frame((publish + end).encode()) for end in ids)
    requests += frame(b'{"type":"ping","id":"last"}')
    with websocket(server) as client:
        stream = client.stream
        sending = threading.Thread(target=stream.sendall, args=(requests,))
        start = time.monotonic()
        sending.start()
        got = bytearray()
        while b'"id":"last"' not in got[-200:]:
            got += receive(stream, 1 << 20)
        seconds = time.monotonic() - start
        sending.join()
    replies = got.count(b'"type":"reply"')
    expected = events + 1 if acknowledged else 1
    if replies != expected or b'"type":"error"' in got:
        raise Wrong(f"{expected} replies were due, {replies} came")
    if acknowledged:
        found = [int(part.split(b",", 1)[0]) for part in got.split(b'"reply","id":')[1:-1]]
        if found != list(range(events)):
            raise Wrong("acknowledgements came out of order")
    return seconds


def _posts(server: Running, path: str, posts: int, *headers: str) -> float:
    """Return the server's CPU in µs for one of many POSTs on kept connections."""
    body = f'{{"channel":"bench","data":{_DATA}}}'.encode()
    request = post_request(path, body, JSON, *headers)

    def go(count: int) -> None:
        while count > 0:
            with connect(server) as stream:
                for _ in range(min(count, _REQUESTS_PER_CONNECTION)):
                    stream.sendall(request)
                    read_reply(stream)
            count -= _REQUESTS_PER_CONNECTION

    go(max(posts // 10, 10))
    return processor_seconds_of(server.pid, lambda: go(posts)) / posts * 1e6


def _token() -> str:
    def encode(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    claims = {"sub": "bench", "exp": int(time.time()) + 3600, "triocast": {"publish": ["*"]}}
    signed = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    signature = hmac.digest(_KEY.encode(), signed, hashlib.sha256)
    return (signed + b"." + encode(signature)).decode()


def _serve_empty() -> AbstractContextManager[Running]:
    port = free_port()
    return serve([sys.executable, "-m", "benchmarks.empty_app", str(port)], port, None)


def _serve_stock() -> AbstractContextManager[Running]:
    port = free_port()
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", f"127.0.0.1:{port}"]
    # In the process itself: with workers the CPU would be a child's.
    return serve([*command, "-w", "0", "benchmarks.empty_app:app"], port, None)


_STREAMS: dict[str, Callable[[Running, int], float]] = {
    "NDJSON": _stream_ndjson,
    "WebSocket, without ids": lambda server, events: _stream_websocket(
        server, events, acknowledged=False
    ),
    "WebSocket, acknowledged": lambda server, events: _stream_websocket(
        server, events, acknowledged=True
    ),
}

_BASE = "empty Quart-Trio POST, Triocast's server"


def _cost_of_posts(posts: int) -> dict[str, float]:
    costs = {}
    with _serve_empty() as server:
        costs[_BASE] = _posts(server, EMPTY_PATH, posts)
    with serve_triocast(100) as server:
        costs["publish"] = _posts(server, Paths().publish, posts)
    with serve_triocast(100, "--token-key", _KEY) as server:
        bearer = f"Authorization: Bearer {_token()}"
        costs["publish with a token"] = _posts(server, Paths().publish, posts, bearer)
    with serve_triocast(100, "--no-takeover") as server:
        costs["publish, portable"] = _posts(server, Paths().publish, posts)
    with _serve_stock() as server:
        costs["empty Quart-Trio POST, stock Hypercorn"] = _posts(server, EMPTY_PATH, posts)
    return costs


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    rates: dict[str, list[float]] = {name: [] for name in _STREAMS}
    costs: dict[str, list[float]] = {}
    problems = []
    for run in range(options.runs):
        for name, stream in _STREAMS.items():
            with serve_triocast(100) as server:
                try:
                    seconds = stream(server, options.events)
                except Wrong as wrong:
                    problems.append(f"{name}, run {run + 1}: {wrong}")
                    continue
                rates[name].append(options.events / seconds)
        for name, cost in _cost_of_posts(options.posts).items():
            costs.setdefault(name, []).append(cost)
    streamed = [
        [name, show(Spread.of(found), "{:.0f}"), f"≥ {LEAST_STREAMED}"]
        for name, found in rates.items()
        if found
    ]
    posted = []
    for name, found in costs.items():
        ratios = [cost / base for cost, base in zip(found, costs[_BASE], strict=True)]
        ratio = "" if name == _BASE else show(Spread.of(ratios), "{:.2f}")
        target = f"≤ {MOST_POST_RATIO}" if name.startswith("publish") else ""
        posted.append([name, show(Spread.of(found), "{:.0f}"), ratio, target])
    bars = {name: {"Triocast": Spread.of(found)} for name, found in rates.items() if found}
    costs_chart = {name: {"server CPU": Spread.of(found)} for name, found in costs.items()}
    return Result(
        title="Publishing",
        tables=[
            Table(
                "Streams of events into an empty hub",
                ["way", "events/s", "target"],
                streamed,
                "From the first byte to the last reply, over one connection.",
            ),
            Table(
                "CPU of one POST",
                ["what", "server CPU µs", f"÷ {_BASE}", "target"],
                posted,
                "One after the other on connections that are kept.",
            ),
        ],
        charts=[
            Chart("publishing-rate", "Events streamed into an empty hub", "per second", bars),
            Chart("publishing-post", "Server CPU of one POST", "µs", costs_chart),
        ],
        notes=[
            f"{options.runs} runs each, medians (least-most); {options.events} events of "
            f"{len(_DATA)} bytes of data, {options.posts} POSTs"
        ],
        problems=problems,
        raw={"events_per_second": rates, "us_per_post": costs},
    )


if __name__ == "__main__":
    sys.exit(main(["publishing", *sys.argv[1:]]))
