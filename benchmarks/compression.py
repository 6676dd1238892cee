"""Events that are compressed for those who offer it, next to the same for those who do not.

Clients are Python's, in a process of their own, and take frames apart: the load client looks for
its tag in plain bytes, and finds none in compressed ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.figures import Figures, Spread, ratios_of, show, spread_of
from benchmarks.listening import OFFER, Listeners, listeners
from benchmarks.processor_time import processor_seconds
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    Paths,
    Running,
    ServerFailed,
    need_descriptors,
    serve_triocast,
)
from benchmarks.wire import JSON, Wrong, connect, post_request, read_reply

ABOUT = "compressed events next to plain ones: CPU, bytes, rate"
PLAIN, COMPRESSED = "plain", "compressed"
_NAMESPACES = json.dumps({"$all": {"compress": True}})
_WARM_UP_EVENTS = 5
_FIGURES = {
    "us": ("server CPU µs per delivery", "{:.2f}"),
    "bytes": ("bytes per delivery", "{:.0f}"),
    "rate": ("single deliveries/s", "{:.0f}"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compression", description=__doc__)
    add = parser.add_argument
    add("--clients", type=int, default=1000, help="[1000]")
    add("--events", type=int, default=200, help="single events to all of them [200]")
    add("--data-bytes", type=int, default=2000, help="least size of an event's data [2000]")
    add("--patience", type=float, default=15.0, help="seconds without an event [15]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def event_data(number: int, size: int) -> dict[str, Any]:
    """Return data of at least ``size`` bytes as JSON that differs from event to event.

    It is a list of objects with the same members, as states of things are: it shrinks well.
    """
    things: list[dict[str, Any]] = []
    data = {"number": number, "things": things}
    while len(json.dumps(data, separators=(",", ":"))) < size:
        nth = len(things)
        seed = (number * 7919 + nth * 104_729) % 1_000_003
        things.append(
            {
                "name": f"web-{seed % 65_536:04x}-{nth}",
                "phase": ("Running", "Pending", "Failed")[seed % 3],
                "ready": bool(seed % 2),
                "restarts": seed % 17,
                "node": f"node-{seed % 12}",
            }
        )
    return data


def faults_in(
    found: dict[str, Any], events: list[dict[str, Any]], *, compressed: bool
) -> list[str]:
    """Say what of the counts and texts is not as it has to be."""
    faults = []
    counts = found["counts"]
    if wrong := [count for count in counts if count != len(events)]:
        faults.append(f"{len(wrong)} clients got {wrong[0]} or other counts, not {len(events)}")
    due = len(events) * len(counts) if compressed else 0
    if found["compressed"] != due:
        faults.append(f"{found['compressed']} frames were compressed, not {due}")
    if [json.loads(text)["data"] for text in found["texts"]] != events:
        faults.append("what the first client got is not what was published")
    return faults


def _publish(
    server: Running, crowd: Listeners, events: list[dict[str, Any]], clients: int, patience: float
) -> float:
    """Publish events, each when everybody has the one before; return the seconds that takes."""
    bodies = [json.dumps({"data": data}, separators=(",", ":")).encode() for data in events]
    requests = [post_request(Paths().publish, body, JSON) for body in bodies]
    with connect(server) as publisher:
        start = last = time.monotonic()
        for number, request in enumerate(requests, 1):
            publisher.sendall(request)
            read_reply(publisher)
            last = crowd.wait(number * clients, patience)
            if time.monotonic() > last + patience:
                break  # the counts will tell who lacks what
    return last - start


def _run(options: argparse.Namespace, *, compressed: bool) -> tuple[Figures, list[str]]:
    most = options.clients + SPARE_DESCRIPTORS
    events = [
        event_data(number, options.data_bytes) for number in range(options.events + _WARM_UP_EVENTS)
    ]
    warm_up, events = events[:_WARM_UP_EVENTS], events[_WARM_UP_EVENTS:]
    with (
        serve_triocast(most, "--namespaces", _NAMESPACES) as server,
        listeners(server) as crowd,
    ):
        agreed = crowd.join(options.clients, [OFFER] if compressed else [])
        if agreed != (options.clients if compressed else 0):
            raise ServerFailed(f"{agreed} of {options.clients} clients may get compressed events")
        crowd.begin()
        try:
            _publish(server, crowd, warm_up, options.clients, options.patience)
            crowd.begin()
            before = processor_seconds(server.pid)
            seconds = _publish(server, crowd, events, options.clients, options.patience)
            used = processor_seconds(server.pid) - before
        except Wrong as wrong:
            raise ServerFailed(str(wrong)) from wrong
        found = crowd.end()
    deliveries = sum(found["counts"])
    if not deliveries:
        raise ServerFailed("no event came")
    figures = {
        "us": used / deliveries * 1e6,
        "bytes": found["bytes"] / deliveries,
        "rate": deliveries / seconds,
    }
    return figures, faults_in(found, events, compressed=compressed)


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    need_descriptors(options.clients + SPARE_DESCRIPTORS)
    runs: dict[str, list[Figures]] = {PLAIN: [], COMPRESSED: []}
    problems = []
    for run in range(options.runs):
        for name, done in runs.items():
            figures, faults = _run(options, compressed=name == COMPRESSED)
            done.append(figures)
            where = f"{name}, run {run + 1}"
            problems += [f"{where}: {fault}" for fault in faults]
            print(f"{where}: {'; '.join(faults) or 'done'}", file=sys.stderr, flush=True)
    rows, charts = [], []
    for key, (title, form) in _FIGURES.items():
        spreads = {name: spread_of(found, key) for name, found in runs.items()}
        ratio = ratios_of(runs[COMPRESSED], runs[PLAIN], key)
        rows.append([title, *(show(spread, form) for spread in spreads.values())])
        rows[-1] += [show(ratio, "{:.2f}"), "< 1" if key == "bytes" else "none is set"]
        bars: dict[str, Spread] = {name: spread for name, spread in spreads.items() if spread}
        charts.append(Chart(f"compression-{key}", title, title, {title: bars}))
    size = len(json.dumps(event_data(0, options.data_bytes), separators=(",", ":")))
    return Result(
        title="Compression",
        tables=[
            Table(
                "Events for everybody, compressed where it is offered",
                ["", *runs, f"{COMPRESSED} ÷ {PLAIN}", "target"],
                rows,
                "Each event when everybody has the one before; the server's setting is the same.",
            )
        ],
        charts=charts,
        notes=[
            f"{options.runs} runs each, medians (least-most); {options.clients} WebSocket clients "
            f"in Python, {options.events} single events of about {size} bytes of JSON"
        ],
        problems=problems,
        raw=runs,
    )
