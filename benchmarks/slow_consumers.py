"""What clients who never read cost the others, and what becomes of them.

Latencies by the clock with 5 % of the clients stalled, next to the same with everybody reading, and
next to as many readers with nobody else there. Events are large and the outboxes small, so that
what waits for the stalled ones soon fills the kernel's buffers and theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from typing import Any

import attrs

from benchmarks.arguments import MOST_DATA_BYTES, TRANSPORTS, choices
from benchmarks.compiling import compile_program, find_compiler
from benchmarks.figures import Figures, Spread, figures_of, problems_of, ratios_of, show, spread_of
from benchmarks.loading import Load, run_load
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    Paths,
    Running,
    ServerFailed,
    need_descriptors,
    serve_triocast,
)
from benchmarks.wire import Wrong, get_json

ABOUT = "what clients who never read cost the others"
MOST_GROWTH = 0.10
ALL_READ, STALLED, FEWER = "all read", "some stall", "as many readers, nobody stalls"
_LOOKS_PER_SECOND = 2
_BASES = (ALL_READ, FEWER)
P99 = "open.p99_ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks slow_consumers", description=__doc__
    )
    add = parser.add_argument
    add("--clients", type=int, default=1000, help="[1000]")
    add("--stalled", type=int, default=50, help="of them, who never read [50]")
    add("--transports", type=choices(TRANSPORTS), default=["sse"], help="[sse]")
    add("--data-bytes", type=int, default=MOST_DATA_BYTES, help=f"[{MOST_DATA_BYTES}]")
    add("--outbox-bytes", type=int, default=1 << 18, help="the server's setting [262144]")
    add("--open-rate", type=int, default=20, help="events per second [20]")
    add("--seconds", type=float, default=8.0, help="of events [8]")
    add("--settle-ms", type=int, default=500, help="rest before [500]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


@attrs.define
class Watch:
    """Looks at the server's numbers while the load client is busy."""

    server: Running
    most_queued: int = 0
    cut: int = 0
    all_cut_after: float | None = None
    """Seconds from the first event that was seen until the last of the stalled ones was cut off."""
    _over: threading.Event = attrs.field(factory=threading.Event)

    def look(self, stalled: int) -> None:
        """Look now and then until `end`."""
        first: float | None = None
        while not self._over.wait(1 / _LOOKS_PER_SECOND):
            with contextlib.suppress(ServerFailed):  # the last look, in `_run`, tells
                if self.note()["published"] and first is None:
                    first = time.monotonic()
            if first is not None and self.all_cut_after is None and self.cut >= stalled > 0:
                self.all_cut_after = time.monotonic() - first

    def end(self) -> None:
        self._over.set()

    def note(self) -> dict[str, Any]:
        """Look once. Raises ServerFailed."""
        try:
            stats = get_json(self.server, "/realtime/stats")
        except (OSError, Wrong) as error:
            raise ServerFailed(f"the server did not tell its numbers: {error}") from error
        self.most_queued = max(self.most_queued, stats["queue_bytes"])
        self.cut = stats["ended"].get("slow_consumer", 0)
        return stats


def _run(options: argparse.Namespace, load: Load) -> tuple[Figures, list[str]]:
    most = load.clients + SPARE_DESCRIPTORS
    with serve_triocast(most, "--outbox-bytes", str(options.outbox_bytes)) as server:
        watch = Watch(server)
        thread = threading.Thread(target=watch.look, args=(load.stalled,))
        thread.start()
        try:
            report = run_load(load, server, Paths())
        finally:
            watch.end()
            thread.join()
        watch.note()
    figures = figures_of(report)
    figures |= {"cut": watch.cut, "queued": watch.most_queued / 1e6}
    if watch.all_cut_after is not None:
        figures["after"] = watch.all_cut_after
    problems = problems_of(report)
    if watch.cut != load.stalled:
        # Too many: readers were cut. Too few: the buffers never filled, so nothing was measured.
        problems.append(f"{watch.cut} clients were cut off as too slow, {load.stalled} stalled")
    return figures, problems


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    need_descriptors(options.clients + SPARE_DESCRIPTORS)
    compiler = find_compiler()
    load = Load(
        compile_program("load", compiler) if compiler else None,
        options.clients,
        "",
        ["open"],
        options.seconds,
        data_bytes=options.data_bytes,
        open_rate=options.open_rate,
        settle_ms=options.settle_ms,
    )
    rows, problems, raw = [], [], []
    bars: dict[str, dict[str, Spread]] = {}
    for transport in options.transports:
        loads = {
            ALL_READ: attrs.evolve(load, transport=transport),
            STALLED: attrs.evolve(load, transport=transport, stalled=options.stalled),
            FEWER: attrs.evolve(
                load, transport=transport, clients=options.clients - options.stalled
            ),
        }
        runs: dict[str, list[Figures]] = {name: [] for name in loads}
        for run in range(options.runs):
            turn = run % len(loads)  # another one begins each time
            for name in [*list(loads)[turn:], *list(loads)[:turn]]:
                figures, found = _run(options, loads[name])
                runs[name].append(figures)
                where = f"{transport}, {name}, run {run + 1}"
                problems += [f"{where}: {problem}" for problem in found]
                print(f"{where}: {'; '.join(found) or 'done'}", file=sys.stderr, flush=True)
        raw.append({"transport": transport, "runs": runs})
        bars[transport] = {name: Spread.of([r[P99] for r in found]) for name, found in runs.items()}
        rows += [_row(transport, name, loads[name], runs) for name in loads]
    columns = [
        "transport", "who", "clients", "stalled", "p50 ms", "p99 ms", f"p99 ÷ {ALL_READ}",
        f"p99 ÷ {FEWER}", "target", "cut off as too slow", "all cut within s", "most queued MB",
    ]  # fmt: skip
    about = (
        "Latencies are of those who read, from when an event was due. Queued is what the server"
        " itself keeps for clients, looked at twice a second; the kernel's buffers come on top."
    )
    return Result(
        title="Slow consumers",
        tables=[Table("Events by the clock beside clients who never read", columns, rows, about)],
        charts=[Chart("slow-consumers-p99", "99 % of the deliveries within", "ms", bars)],
        notes=[
            f"{options.runs} runs each, medians (least-most); {options.open_rate} events/s of "
            f"{options.data_bytes} bytes for {options.seconds:g} s; at most "
            f"{options.outbox_bytes} bytes may wait for a client"
        ],
        problems=problems,
        raw=raw,
    )


def _row(transport: str, name: str, load: Load, runs: dict[str, list[Figures]]) -> list[str]:
    mine = runs[name]
    ratios = [ratios_of(mine, runs[base], P99) if name == STALLED else None for base in _BASES]
    return [
        transport,
        name,
        str(load.clients),
        str(load.stalled),
        show(spread_of(mine, "open.p50_ms"), "{:.2f}"),
        show(spread_of(mine, P99), "{:.2f}"),
        *(show(ratio, "{:.2f}") if ratio else "" for ratio in ratios),
        f"< {1 + MOST_GROWTH:.2f}" if name == STALLED else "",
        show(spread_of(mine, "cut"), "{:.0f}"),
        show(spread_of(mine, "after"), "{:.1f}"),
        show(spread_of(mine, "queued"), "{:.1f}"),
    ]
