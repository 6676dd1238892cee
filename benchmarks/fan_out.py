"""One event to many clients: rates, latencies, CPU and memory, next to a loop of write() in C.

Every measurement has a server of its own, and the two take turns: server, C loop, server, …
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks.compiling import compile_program, find_compiler
from benchmarks.figures import figures_of, problems_of
from benchmarks.loading import Load, LoadFailed, run_load
from benchmarks.machine import Neighbours, describe_machine
from benchmarks.probing import LEAST_DATA_BYTES, Frame, ProbeFailed, probe
from benchmarks.report import Case, render
from benchmarks.servers import (
    Paths,
    Running,
    ServerFailed,
    raise_descriptor_limit,
    serve_command,
    serve_loop,
    serve_triocast,
)

SPARE_DESCRIPTORS = 500
MOST_DATA_BYTES = 8000
TRANSPORTS = ("sse", "websocket")
PHASES = ("single", "burst", "open")

Start = Callable[[], contextlib.AbstractContextManager[Running]]


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _choices(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        parts = _list(text)
        if not parts or not set(parts) <= set(known):
            raise argparse.ArgumentTypeError(f"give some of {','.join(known)}")
        return parts

    return parse


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in _list(text)]
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError("give whole numbers above 0, such as 100,1000")
    return numbers


def _data_bytes(text: str) -> int:
    if not LEAST_DATA_BYTES <= int(text) <= MOST_DATA_BYTES:
        raise argparse.ArgumentTypeError(f"from {LEAST_DATA_BYTES} to {MOST_DATA_BYTES}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fan_out", description=__doc__)
    add = parser.add_argument
    add("--clients", type=_numbers, default=[100, 1000, 5000], help="[100,1000,5000]")
    add("--transports", type=_choices(TRANSPORTS), default=list(TRANSPORTS), help="[both]")
    add("--phases", type=_choices(PHASES), default=list(PHASES), help="[single,burst,open]")
    add("--runs", type=int, default=3, help="measurements of each kind [3]")
    add("--seconds", type=float, default=3.0, help="length of a phase [3]")
    add("--events", type=int, help="most events of a phase [no limit]")
    add("--data-bytes", type=_data_bytes, default=128, help="size of an event's data [128]")
    add("--publishers", type=int, default=16, help="POST connections in bursts [16]")
    add("--in-flight", type=int, default=64, help="events not yet everywhere in bursts [64]")
    add("--open-rate", type=int, default=20, help="events per second by the clock [20]")
    add("--stall-ms", type=int, default=10_000, help="patience for a missing event [10000]")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--python-client", action="store_true", help="do without the C compiler, and the C loop")
    server = parser.add_argument_group("another server than `triocast serve`")
    add = server.add_argument
    add("--url", metavar="http://127.0.0.1:PORT", help="one that runs already")
    add("--pid", type=int, help="its process, for CPU time and memory")
    add("--command", help="a command to start it, with {port} in it")
    add("--name", help="its name in the tables")
    add("--sse-path", default=Paths().sse)
    add("--websocket-path", default=Paths().websocket)
    add("--publish-path", default=Paths().publish)
    add("--header", action="append", default=[], help="a line for each request")
    return parser


def _starter(options: argparse.Namespace) -> Start:
    if options.url:
        url = urlsplit(options.url)
        if url.scheme != "http" or url.hostname is None or url.port is None:
            raise ServerFailed("--url takes the form http://127.0.0.1:8000")
        running = Running(url.hostname, url.port, options.pid)
        return lambda: contextlib.nullcontext(running)
    if options.command:
        return lambda: serve_command(options.command)
    most = max(options.clients) + SPARE_DESCRIPTORS
    return lambda: serve_triocast(most)


@attrs.frozen
class FanOut:
    """The measurements of one run of the benchmark, and what they found."""

    options: argparse.Namespace
    start: Start
    paths: Paths
    load_program: Path | None
    loop_program: Path | None
    raw: list[dict[str, Any]] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)

    def find_frame(self, transport: str) -> Frame:
        with self.start() as server:
            return probe(
                (server.host, server.port),
                transport,
                self.paths.stream(transport),
                self.paths.publish,
                self.options.header,
                self.options.data_bytes,
            )

    def measure(self, who: str, load: Load, start: Start, run: int) -> dict[str, float]:
        with start() as server:
            neighbours = Neighbours(server.pid)
            report = run_load(load, server, self.paths)
            others = neighbours.cores()
        where = f"{who}, {load.clients} {load.transport}, run {run + 1}"
        found = problems_of(report)
        self.problems.extend(f"{where}: {problem}" for problem in found)
        figures = {**figures_of(report), "others.cores": others}
        self.raw.append({"server": who, "run": run, "report": report, "figures": figures})
        rate = figures.get("single.deliveries_per_second")
        said = "" if rate is None else f"{rate:,.0f} single deliveries/s"
        print(f"{where}: {'; '.join(found) or said or 'done'}", file=sys.stderr, flush=True)
        return figures

    def measure_case(self, name: str, clients: int, transport: str) -> Case:
        options = self.options
        case = Case(clients, transport)
        frame = self.find_frame(transport)
        load = Load(
            program=self.load_program,
            clients=clients,
            transport=transport,
            phases=options.phases,
            seconds=options.seconds,
            events=options.events,
            data_bytes=options.data_bytes,
            publishers=options.publishers,
            in_flight=options.in_flight,
            open_rate=options.open_rate,
            stall_ms=options.stall_ms,
            headers=options.header,
        )
        for run in range(options.runs):
            case.runs.append(self.measure(name, load, self.start, run))
            if (loop := self.loop_program) is not None:
                peer = self.measure("C loop", load, lambda: serve_loop(loop, frame), run)
                case.peers.append(peer)
        return case


def _notes(options: argparse.Namespace, compiled: bool) -> list[str]:
    notes = [
        f"{options.runs} runs of {options.seconds:g} s per phase, medians (least-most); "
        f"events of {options.data_bytes} bytes of data; bursts by {options.publishers} publishers, "
        f"{options.in_flight} events in flight; {options.open_rate} events/s by the clock",
    ]
    if not compiled:
        notes.append(
            "**measured with the load client in Python, which is itself the limit, and without the "
            "C loop**: install a C compiler (apt-get install gcc libc6-dev) for real numbers"
        )
    return notes


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    wanted = max(options.clients) + SPARE_DESCRIPTORS
    if raise_descriptor_limit(wanted) < wanted:
        print(f"{wanted} open files are needed: raise `ulimit -n`", file=sys.stderr)
        return 2
    compiler = None if options.python_client else find_compiler()
    load_program = compile_program("load", compiler) if compiler else None
    loop_program = compile_program("baseline", compiler) if compiler else None
    machine = describe_machine()
    name = options.name or ("server" if options.url or options.command else "Triocast")
    cases = []
    try:
        paths = Paths(options.sse_path, options.websocket_path, options.publish_path)
        run = FanOut(options, _starter(options), paths, load_program, loop_program)
        for clients in options.clients:
            cases += [run.measure_case(name, clients, each) for each in options.transports]
    except (ServerFailed, ProbeFailed, LoadFailed) as error:
        print(error, file=sys.stderr)
        return 2
    notes = _notes(options, compiler is not None)
    print(render(machine, notes, name, cases))
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items()}
        whole = {"machine": machine, "notes": notes, "settings": settings}
        whole |= {"problems": run.problems, "measurements": run.raw}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    if run.problems:
        print("\n### Not valid\n", *(f"- {problem}" for problem in run.problems), sep="\n")
    return 1 if run.problems else 0
