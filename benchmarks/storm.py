"""A reconnect storm: thousands of clients come at once, while others go on receiving events."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.__main__ import main
from benchmarks.arguments import TRANSPORTS, choices, numbers
from benchmarks.bystanders import bystanders
from benchmarks.crowding import crowd, need_compiler, turned_away
from benchmarks.figures import Spread, show, spread_of
from benchmarks.processor_time import processor_seconds
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import SPARE_DESCRIPTORS, Running, need_descriptors, serve_triocast

ABOUT = "5 000 clients that reconnect at once, and what others feel of it"
MOST_P99_MS = 250
LEAST_RATE = 2000
_RATES = {
    "per second": "accepted_per_second",
    "per server CPU second": "accepted_per_cpu_second",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks storm", description=__doc__)
    add = parser.add_argument
    add("--clients", type=numbers, default=[5000], help="[5000]")
    add("--transports", type=choices(TRANSPORTS), default=list(TRANSPORTS), help="[both]")
    add("--bystanders", type=int, default=100, help="clients who are there before [100]")
    add("--quiet-seconds", type=float, default=2.0, help="half of the time before the storm [2]")
    add("--patience", type=float, default=60.0, help="seconds until clients give up [60]")
    add("--max-connections", type=int, help="the server's bound [enough for all]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _latencies(name: str, values: list[float]) -> dict[str, float]:
    """Return quantiles of sorted values; nothing if no event was due meanwhile."""
    if not values:
        return {}
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        f"{name}.{quantile}_ms": values[min(int(len(values) * share), len(values) - 1)]
        for quantile, share in shares.items()
    }


def _run(
    options: argparse.Namespace, clients: int, transport: str, server: Running
) -> tuple[dict[str, float], list[str]]:
    with bystanders(server.port, options.bystanders) as others:
        began = time.monotonic()
        time.sleep(options.quiet_seconds)
        calm = processor_seconds(server.pid)
        time.sleep(options.quiet_seconds)
        calm = (processor_seconds(server.pid) - calm) / options.quiet_seconds
        quiet_until, before = time.monotonic(), processor_seconds(server.pid)
        with crowd(server, clients, transport, patience_seconds=options.patience) as comers:
            used = processor_seconds(server.pid) - before
            arrival = comers.arrival
            # Whoever was let in and sent away again shows now.
            after = comers.rest(options.quiet_seconds)
            others.end()
    first, last = (arrival[f"{name}_ns"] / 1e9 for name in ("first_connect", "last_served"))
    seconds = max(last - first, 1e-9)
    # What the others cost goes on meanwhile, and is not the storm's.
    used = max(used - calm * seconds, 1e-9)
    quiet = others.latencies_ms(began, quiet_until)
    meanwhile = others.latencies_ms(first, last)
    figures = {
        "accepted_per_second": arrival["open"] / seconds,
        "accepted_per_cpu_second": arrival["open"] / used,
        "connect_calls_ms": (arrival["last_connect_ns"] - arrival["first_connect_ns"]) / 1e6,
        "client_share": arrival["cpu_seconds"] / seconds,
        "served": after["open"],
        **_latencies("quiet", quiet),
        **_latencies("storm", meanwhile),
    }
    return figures, turned_away(after)


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    most = max(options.clients) + options.bystanders + SPARE_DESCRIPTORS
    need_descriptors(most)
    need_compiler()
    columns = [
        "clients", "transport", "served", "accepted/s", "accepted per server CPU second", "target",
        "others' p99 ms before", "p50 ms meanwhile", "p99 ms meanwhile", "most ms", "target",
        "crowd, of a core",
    ]  # fmt: skip
    rows, raw, problems = [], [], []
    rates: dict[str, dict[str, Spread]] = {}
    for transport in options.transports:
        for clients in options.clients:
            runs = []
            for run in range(options.runs):
                with serve_triocast(options.max_connections or most) as server:
                    figures, found = _run(options, clients, transport, server)
                runs.append(figures)
                problems += [f"{clients} {transport}, run {run + 1}: {each}" for each in found]
            raw.append({"clients": clients, "transport": transport, "runs": runs})
            spreads = {name: spread_of(runs, name) for run in runs for name in run}
            rates[f"{clients} {transport}"] = {
                said: Spread.of([run[name] for run in runs]) for said, name in _RATES.items()
            }
            latencies = ("quiet.p99_ms", "storm.p50_ms", "storm.p99_ms", "storm.max_ms")
            rows.append(
                [
                    str(clients),
                    transport,
                    show(spreads["served"], "{:.0f}"),
                    show(spreads["accepted_per_second"], "{:.0f}"),
                    show(spreads["accepted_per_cpu_second"], "{:.0f}"),
                    f"≥ {LEAST_RATE}",
                    *(show(spreads.get(name), "{:.1f}") for name in latencies),
                    f"p99 < {MOST_P99_MS}",
                    show(spreads["client_share"], "{:.0%}"),
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


if __name__ == "__main__":
    sys.exit(main(["storm", *sys.argv[1:]]))
