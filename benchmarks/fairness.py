"""Does the server still answer one client promptly while thousands of others are given events?

The one asks every 20 ms, first of a server at rest, then while the load client's crowd gets events
by the clock and bursts. It does not listen to what the crowd gets.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.arguments import TRANSPORTS, choices
from benchmarks.compiling import compile_program, find_compiler
from benchmarks.figures import Figures, Spread, problems_of, ratios_of, show, spread_of
from benchmarks.loading import Load, LoadFailed, run_load
from benchmarks.pinging import FRAME, REQUEST, pinging
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import SPARE_DESCRIPTORS, Paths, need_descriptors, serve_triocast

ABOUT = "answers to one client while 5 000 others are given events"
MOST_P99_MS = 50
REST = "at rest"
PHASES = {"open": "events by the clock", "burst": "bursts"}
_CHANNEL = "crowd"
_QUANTILES = {"p50": 0.5, "p99": 0.99, "most": 1.0}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fairness", description=__doc__)
    add = parser.add_argument
    add("--clients", type=int, default=5000, help="[5000]")
    add("--transports", type=choices(TRANSPORTS), default=list(TRANSPORTS), help="[both]")
    add("--phases", type=choices(tuple(PHASES)), default=list(PHASES), help="[open,burst]")
    add("--open-rate", type=int, default=20, help="events per second by the clock [20]")
    add("--seconds", type=float, default=5.0, help="length of a phase, and of the rest [5]")
    add("--interval-ms", type=float, default=20.0, help="between two pings [20]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _paths() -> Paths:
    """Return paths by which the crowd has a channel that the one client does not listen to."""
    return Paths(
        sse=f"{Paths().sse}?channel={_CHANNEL}",
        body=f'{{"type":"bench","channel":"{_CHANNEL}","data":{{data}}}}',
        websocket_messages=[f'{{"type":"subscribe","id":1,"channel":"{_CHANNEL}"}}'],
        websocket_ready='"type":"reply"',
    )


def quantiles(name: str, values: list[float]) -> Figures:
    """Return the figures of sorted latencies. Raises LoadFailed without any."""
    if not values:
        raise LoadFailed(f"no answer was measured: {name}")
    most = len(values) - 1
    figures = {
        f"{name}, {quantile}": values[min(int(len(values) * share), most)]
        for quantile, share in _QUANTILES.items()
    }
    return {**figures, f"{name}, answers": len(values)}


def _run(options: argparse.Namespace, load: Load) -> tuple[Figures, list[str]]:
    with (
        serve_triocast(load.clients + SPARE_DESCRIPTORS) as server,
        pinging(server.port, options.interval_ms) as client,
    ):
        began = time.monotonic()
        time.sleep(options.seconds)
        over = time.monotonic()
        report = run_load(load, server, _paths())
        client.end()
    problems = problems_of(report)
    if client.unanswered:
        problems.append(f"{client.unanswered} pings were not answered")
    windows = {REST: (began, over)}
    for phase in report["phases"]:
        windows[phase["name"]] = (phase["began"], phase["began"] + phase["seconds"])
    figures: Figures = {}
    for when, (start, end) in windows.items():
        figures[f"{when}, seconds"] = end - start
        for kind in (REQUEST, FRAME):
            figures |= quantiles(f"{when}, {kind}", client.latencies_ms(kind, start, end))
    for phase in report["phases"]:
        figures[f"{phase['name']}, deliveries/s"] = phase["deliveries"] / phase["seconds"]
    return figures, problems


def _rows(runs: list[Figures], transport: str, phases: list[str]) -> list[list[str]]:
    rows = []
    for kind in (REQUEST, FRAME):
        rest = [{"p99": run[f"{REST}, {kind}, p99"]} for run in runs]
        for when in (REST, *phases):
            busy = [{"p99": run[f"{when}, {kind}, p99"]} for run in runs]
            spreads = [spread_of(runs, f"{when}, {kind}, {name}") for name in _QUANTILES]
            rows.append(
                [
                    transport,
                    kind,
                    PHASES.get(when, when),
                    *(show(spread, "{:.2f}") for spread in spreads),
                    f"p99 ≤ {MOST_P99_MS}",
                    show(ratios_of(busy, rest, "p99"), "{:.1f}"),
                    show(spread_of(runs, f"{when}, deliveries/s"), "{:.0f}"),
                    show(spread_of(runs, f"{when}, {kind}, answers"), "{:.0f}"),
                ]
            )
    return rows


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    need_descriptors(options.clients + SPARE_DESCRIPTORS)
    compiler = find_compiler()
    program = compile_program("load", compiler) if compiler else None
    rows, problems, raw = [], [], []
    bars: dict[str, dict[str, Spread]] = {}
    for transport in options.transports:
        load = Load(
            program,
            options.clients,
            transport,
            options.phases,
            options.seconds,
            open_rate=options.open_rate,
        )
        runs = []
        for run in range(options.runs):
            figures, found = _run(options, load)
            runs.append(figures)
            where = f"{options.clients} {transport}, run {run + 1}"
            problems += [f"{where}: {problem}" for problem in found]
            print(f"{where}: {'; '.join(found) or 'done'}", file=sys.stderr, flush=True)
        raw.append({"transport": transport, "runs": runs})
        rows += _rows(runs, transport, options.phases)
        bars[transport] = {
            f"{kind}, {PHASES.get(when, when)}": Spread.of(
                [run[f"{when}, {kind}, p99"] for run in runs]
            )
            for kind in (REQUEST, FRAME)
            for when in (REST, *options.phases)
        }
    columns = [
        "crowd", "asked by", "while", "p50 ms", "p99 ms", "most ms", "target",
        "p99 ÷ at rest", "the crowd's deliveries/s", "answers",
    ]  # fmt: skip
    about = (
        f"One WebSocket asks every {options.interval_ms:g} ms; a latency counts from when its"
        " question was due. At rest nobody else is connected."
    )
    return Result(
        title="Fairness",
        tables=[Table(f"Answers beside {options.clients} clients", columns, rows, about)],
        charts=[Chart("fairness-p99", "99 % of the answers within", "ms", bars)],
        notes=[f"{options.runs} runs, medians (least-most); {options.seconds:g} s per phase"],
        problems=problems,
        raw=raw,
    )
