"""A reconnect storm: thousands of clients come at once, while others go on receiving events."""

from __future__ import annotations

import argparse
import time

from benchmarks.arguments import TRANSPORTS, choices, numbers
from benchmarks.bystanders import bystanders
from benchmarks.compiling import compile_program, find_compiler
from benchmarks.figures import Spread, figures_of, show
from benchmarks.loading import Load, run_load
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import SPARE_DESCRIPTORS, Paths, Running, need_descriptors, serve_triocast

ABOUT = "5 000 clients that reconnect at once, and what others feel of it"
MOST_P99_MS = 250
LEAST_RATE = 2000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks storm", description=__doc__)
    add = parser.add_argument
    add("--clients", type=numbers, default=[5000], help="[5000]")
    add("--transports", type=choices(TRANSPORTS), default=list(TRANSPORTS), help="[both]")
    add("--bystanders", type=int, default=100, help="clients who are there before [100]")
    add("--quiet-seconds", type=float, default=2.0, help="time before the storm [2]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _quantile(values: list[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def _run(
    options: argparse.Namespace, load: Load, server: Running
) -> tuple[dict[str, float], list[str]]:
    with bystanders(server.port, options.bystanders) as others:
        began = time.monotonic()
        time.sleep(options.quiet_seconds)
        storm = time.monotonic()
        report = run_load(load, server, Paths())
        # The load client's own beginning, with its ten first connections, is part of the time.
        over = time.monotonic()
        others.end()
    figures = figures_of(report)
    quiet, meanwhile = others.latencies_ms(began, storm), others.latencies_ms(storm, over)
    figures |= {
        "quiet.p99_ms": _quantile(quiet, 0.99),
        "storm.p50_ms": _quantile(meanwhile, 0.5),
        "storm.p99_ms": _quantile(meanwhile, 0.99),
        "storm.max_ms": meanwhile[-1] if meanwhile else float("nan"),
    }
    problems = [f"{count} {name}" for name, count in report["faults"].items() if count]
    return figures, problems


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    most = max(options.clients) + options.bystanders + SPARE_DESCRIPTORS
    need_descriptors(most)
    compiler = find_compiler()
    program = compile_program("load", compiler) if compiler else None
    columns = [
        "clients", "transport", "accepted/s", "accepted per server CPU second", "target",
        "others' p99 ms before", "p50 ms meanwhile", "p99 ms meanwhile", "most ms", "target",
    ]  # fmt: skip
    rows, raw, problems = [], [], []
    rates: dict[str, dict[str, Spread]] = {}
    for transport in options.transports:
        for clients in options.clients:
            runs = []
            load = Load(program, clients, transport, phases=(), handshakes=clients, settle_ms=100)
            for run in range(options.runs):
                with serve_triocast(most) as server:
                    figures, found = _run(options, load, server)
                runs.append(figures)
                problems += [f"{clients} {transport}, run {run + 1}: {each}" for each in found]
            raw.append({"clients": clients, "transport": transport, "runs": runs})
            spreads = {name: Spread.of([run[name] for run in runs]) for name in runs[0]}
            rates[f"{clients} {transport}"] = {
                "per second": spreads["connect.accepts_per_second"],
                "per server CPU second": spreads["connect.accepts_per_cpu_second"],
            }
            rows.append(
                [
                    str(clients),
                    transport,
                    show(spreads["connect.accepts_per_second"], "{:.0f}"),
                    show(spreads["connect.accepts_per_cpu_second"], "{:.0f}"),
                    f"≥ {LEAST_RATE}",
                    *(
                        show(spreads[name], "{:.1f}")
                        for name in ("quiet.p99_ms", "storm.p50_ms", "storm.p99_ms", "storm.max_ms")
                    ),
                    f"p99 < {MOST_P99_MS}",
                ]
            )
    about = (
        f"All clients connect in one instant. {options.bystanders} others, in a process of their"
        " own, receive 20 events a second before and meanwhile; a latency counts from when its"
        " event was due."
    )
    return Result(
        title="Reconnect storm",
        tables=[Table("All at once", columns, rows, about)],
        charts=[Chart("storm-rate", "Connections accepted in a storm", "per second", rates)],
        notes=[f"{options.runs} runs each, medians (least-most)"],
        problems=problems,
        raw=raw,
    )
