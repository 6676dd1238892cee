"""Server CPU per delivery next to the C loop's, from few clients to many.

The kernel itself needs more for each of many sockets, so the C loop's cost grows, too: what counts
is whether the ratio of the two does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.__main__ import main
from benchmarks.arguments import add_load_options, load_note, load_of, numbers
from benchmarks.cases import Case
from benchmarks.compiling import compile_program, find_compiler
from benchmarks.fan_out import LOOP, loop_next_to
from benchmarks.figures import Spread, ratios_of, show, spread_of
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    ServerFailed,
    need_descriptors,
    raise_descriptor_limit,
    serve_triocast,
)
from benchmarks.turns import Contestant, Turns

ABOUT = "CPU per delivery from 100 to 20 000 clients"
TRIOCAST = "Triocast"
COST = "single.server_us_per_delivery"
MOST_GROWTH = 1.2
_ROUND = 500
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks flat", description=__doc__)
    few_to_many = [100, 1000, 5000, 10_000, 20_000]
    parser.add_argument("--clients", type=numbers, default=few_to_many, help=f"[{few_to_many}]")
    add_load_options(parser)
    parser.set_defaults(transports=["sse"])
    return parser


def _most_clients(wanted: int) -> tuple[int, str]:
    """Return how many clients can be there at once, up to ``wanted``, and what bounds them."""
    files = raise_descriptor_limit(wanted + SPARE_DESCRIPTORS)
    bounds = [(files - SPARE_DESCRIPTORS, f"{files} open files (`ulimit -Hn`)")]
    if _PORTS.exists():
        first, last = map(int, _PORTS.read_text().split())
        ports = last - first + 1
        bounds.append((ports - SPARE_DESCRIPTORS, f"{ports} ports ({_PORTS})"))
    return min(bounds)


def fitting(wanted: list[int]) -> tuple[list[int], list[str]]:
    """Return numbers of clients that can be measured, and what is missing.

    Those too large become one, the most that there can be. Raises ServerFailed if none can be.
    """
    most, bound = _most_clients(max(wanted))
    if max(wanted) <= most:
        return wanted, []
    most -= most % _ROUND if most > _ROUND else 0
    if most < 1:
        raise ServerFailed(f"there are only {bound}")
    too_many = [clients for clients in wanted if clients > most]
    said = ", ".join(str(clients) for clients in too_many)
    found = sorted({*wanted, most} - set(too_many))
    return found, [f"{said} clients, so {most} instead: there are only {bound}, raise that"]


def _table(cases: list[Case]) -> Table:
    columns = ["clients", "transport", "Triocast µs", "C loop µs", "ratio", "growth", "target"]
    first: dict[str, float] = {}
    rows = []
    for case in cases:
        ours, loop = case.servers[TRIOCAST], case.servers[LOOP]
        ratio = ratios_of(ours, loop, COST)
        if ratio is None:
            continue
        base = first.setdefault(case.transport, ratio.median)
        rows.append(
            [
                str(case.clients),
                case.transport,
                show(spread_of(ours, COST), "{:.2f}"),
                show(spread_of(loop, COST), "{:.2f}"),
                show(ratio, "{:.2f}"),
                f"{ratio.median / base:.2f}",
                f"≤ {MOST_GROWTH}",
            ]
        )
    about = "Growth is the ratio divided by that of the fewest clients."
    return Table("CPU per delivery of single events", columns, rows, about)


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    compiler = find_compiler()
    if compiler is None:
        raise ServerFailed("without a C compiler there is no C loop to compare with")
    sizes, missing = fitting(options.clients)
    most = max(sizes) + SPARE_DESCRIPTORS
    need_descriptors(most)
    load_program = compile_program("load", compiler)
    loop_program = compile_program("baseline", compiler)
    subject = Contestant(TRIOCAST, lambda: serve_triocast(most))
    turns = Turns()
    cases = []
    for transport in options.transports:
        loop = loop_next_to(subject, loop_program, transport, options.data_bytes)
        for clients in sizes:
            load = load_of(options, load_program, clients, transport, ["single"])
            cases.append(turns.take([subject, loop], load, options.runs))
    bars: dict[str, dict[str, Spread]] = {}
    for case in cases:
        known = {who: spread_of(runs, COST) for who, runs in case.servers.items()}
        bars[f"{case.clients} {case.transport}"] = {w: s for w, s in known.items() if s is not None}
    return Result(
        title="Flat",
        tables=[_table(cases)],
        charts=[Chart("flat-cost", "Server CPU of one delivery", "µs", bars)],
        notes=[load_note(options)],
        problems=turns.problems,
        missing=missing,
        raw=turns.raw,
    )


if __name__ == "__main__":
    sys.exit(main(["flat", *sys.argv[1:]]))
