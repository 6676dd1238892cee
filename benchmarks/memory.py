"""Memory of an idle connection: what the server's process grows by, for each way to a client."""

from __future__ import annotations

import argparse
import sys

from benchmarks.__main__ import main
from benchmarks.arguments import numbers
from benchmarks.compiling import compile_program, find_compiler
from benchmarks.figures import Spread, figures_of, show
from benchmarks.loading import Load, run_load
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import SPARE_DESCRIPTORS, Paths, need_descriptors, serve_triocast

ABOUT = "memory of idle connections, taken over and portable"

WAYS = (
    ("SSE, taken over", "sse", (), "≤ 25, better 20"),
    ("WebSocket, taken over", "websocket", (), "≤ 30, better 25"),
    ("SSE, portable", "sse", ("--no-takeover",), "≤ 50"),
    ("WebSocket, portable", "websocket", ("--no-takeover",), "≤ 50"),
)
"""Name, transport, options of the server, and the most that a connection may take, in kB."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--clients", type=numbers, default=[5000], help="[5000]")
    parser.add_argument("--runs", type=int, default=3, help="[3]")
    parser.add_argument("--settle-ms", type=int, default=1000, help="rest before a look [1000]")
    return parser


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    most = max(options.clients) + SPARE_DESCRIPTORS
    need_descriptors(most)
    compiler = find_compiler()
    program = compile_program("load", compiler) if compiler else None
    rows, bars, raw, problems = [], {}, [], []
    for clients in options.clients:
        for name, transport, more, target in WAYS:
            found = []
            for _ in range(options.runs):
                load = Load(program, clients, transport, phases=(), settle_ms=options.settle_ms)
                with serve_triocast(most, *more) as server:
                    report = run_load(load, server, Paths())
                raw.append({"way": name, "report": report})
                problems += [f"{name}: {n} {what}" for what, n in report["faults"].items() if n]
                found.append(figures_of(report)["connect.kb_per_connection"])
            spread = Spread.of(found)
            bars.setdefault(f"{clients} clients", {})[name] = spread
            rows.append([str(clients), name, show(spread, "{:.1f}"), target])
    about = (
        "What the server's resident memory grew by, by connections. Ten connections came and went"
        " before. Kernel memory for sockets is not in it."
    )
    return Result(
        title="Memory",
        tables=[Table("kB per idle connection", ["clients", "way", "kB", "target"], rows, about)],
        charts=[Chart("memory-ways", "Memory of an idle connection", "kB", bars)],
        notes=[f"{options.runs} runs each, medians (least-most)"],
        problems=problems,
        raw=raw,
    )


if __name__ == "__main__":
    sys.exit(main(["memory", *sys.argv[1:]]))
