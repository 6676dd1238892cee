"""The end of a server with many clients: when the first and the last are sent away, and it ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from benchmarks.__main__ import main
from benchmarks.arguments import TRANSPORTS, choices
from benchmarks.crowding import crowd, need_all, need_compiler
from benchmarks.figures import Figures, Spread, show
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    Running,
    ServerFailed,
    need_descriptors,
    serve_triocast,
)

ABOUT = "SIGTERM with 5 000 clients: how they are spread, and when the server has ended"

_LOOK_SECONDS = 0.05
_SIGNAL = signal.SIGTERM


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks draining", description=__doc__)
    add = parser.add_argument
    add("--clients", type=int, default=5000, help="[5000]")
    add("--transports", type=choices(TRANSPORTS), default=list(TRANSPORTS), help="[both]")
    add("--drain-seconds", type=float, default=10.0, help="the server's setting [10]")
    add("--patience", type=float, default=60.0, help="seconds until it has to be over [60]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _run(options: argparse.Namespace, transport: str, server: Running) -> Figures:
    """Let all clients in, then end the server. Raises ServerFailed if it does not end well."""
    assert server.pid is not None
    found: Figures = {}
    with crowd(server, options.clients, transport, patience_seconds=options.patience) as comers:
        need_all(comers)
        began = time.monotonic()
        os.kill(server.pid, _SIGNAL)
        while "last" not in found:
            gone = comers.rest(_LOOK_SECONDS)["closed"]
            now = time.monotonic() - began
            if gone and "first" not in found:
                found["first"] = now
            if gone == options.clients:
                found["last"] = now
            elif now > options.patience:
                raise ServerFailed(f"{options.clients - gone} clients were not sent away")
        found["ended"] = _ended_after(server.pid, began, options.patience)
    return found


def _ended_after(pid: int, began: float, patience: float) -> float:
    """Return when the server's process was over. Raises ServerFailed."""
    while time.monotonic() < began + patience:
        # Only looked at, so that whoever started it learns of its end, too.
        status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is not None:
            if (status.si_code, status.si_status) != (os.CLD_EXITED, 0):
                raise ServerFailed(f"the server ended with {status.si_status}")
            return time.monotonic() - began
        time.sleep(_LOOK_SECONDS)
    raise ServerFailed("the server has not ended")


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    most = options.clients + SPARE_DESCRIPTORS
    need_descriptors(most)
    need_compiler()
    own = ("--drain-seconds", f"{options.drain_seconds:g}")
    rows, raw, problems = [], [], []
    bars: dict[str, dict[str, Spread]] = {}
    for transport in options.transports:
        runs = []
        for run in range(options.runs):
            with serve_triocast(most, *own) as server:
                try:
                    runs.append(_run(options, transport, server))
                except ServerFailed as error:
                    problems.append(f"{transport}, run {run + 1}: {error}")
        raw.append({"transport": transport, "runs": runs})
        if not runs:
            continue
        spreads = {name: Spread.of([each[name] for each in runs]) for name in runs[0]}
        if spreads["ended"].median > options.drain_seconds:
            problems.append(
                f"{transport}: ended after {spreads['ended'].median:.1f} s,"
                f" not {options.drain_seconds:g}"
            )
        cells = [show(spread, "{:.1f}") for spread in spreads.values()]
        rows.append([transport, str(options.clients), *cells, f"≤ {options.drain_seconds:g}"])
        bars[transport] = spreads
    columns = ["transport", "clients", "first gone after s", "last gone", "ended", "target"]
    about = (
        f"Seconds from SIGTERM, with `--drain-seconds {options.drain_seconds:g}`: until the first"
        " and the last of the clients had lost their stream, and until the process was over."
    )
    return Result(
        title="Draining",
        tables=[Table("Everybody is sent away", columns, rows, about)],
        charts=[Chart("draining", "From SIGTERM to the end", "s", bars)],
        notes=[f"{options.runs} runs each, medians (least-most)"],
        problems=problems,
        raw=raw,
    )


if __name__ == "__main__":
    sys.exit(main(["draining", *sys.argv[1:]]))
