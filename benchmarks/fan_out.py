"""One event to many clients: rates, latencies, CPU and memory, next to a loop of write() in C.

Every measurement has a server of its own, and the two take turns: server, C loop, server, …
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.arguments import NO_COMPILER, add_load_options, load_note, load_of, numbers
from benchmarks.cases import charts_of, limits_of, tables_of
from benchmarks.compiling import compile_program, find_compiler
from benchmarks.probing import probe
from benchmarks.results import Result
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    Paths,
    Running,
    ServerFailed,
    need_descriptors,
    serve_command,
    serve_loop,
    serve_triocast,
)
from benchmarks.turns import Contestant, Turns

ABOUT = "one event to many clients, next to a C loop that only calls write()"
LOOP = "C loop"

Start = Callable[[], contextlib.AbstractContextManager[Running]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fan_out", description=__doc__)
    parser.add_argument(
        "--clients", type=numbers, default=[100, 1000, 5000], help="[100,1000,5000]"
    )
    add_load_options(parser)
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


def loop_next_to(
    subject: Contestant,
    program: Path,
    transport: str,
    data_bytes: int,
    headers: list[str] | None = None,
) -> Contestant:
    """Return the C loop that sends what `subject` does on a transport. Raises ProbeFailed."""
    paths = subject.paths
    with subject.start() as server:
        frame = probe(
            (server.host, server.port),
            transport,
            paths.stream(transport),
            paths.publish,
            headers or [],
            data_bytes,
        )
    return Contestant(LOOP, lambda: serve_loop(program, frame), paths)


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    need_descriptors(max(options.clients) + SPARE_DESCRIPTORS)
    compiler = None if options.python_client else find_compiler()
    load_program = compile_program("load", compiler) if compiler else None
    loop_program = compile_program("baseline", compiler) if compiler else None
    name = options.name or ("server" if options.url or options.command else "Triocast")
    paths = Paths(options.sse_path, options.websocket_path, options.publish_path)
    subject = Contestant(name, _starter(options), paths)
    turns = Turns()
    cases = []
    for clients in options.clients:
        for transport in options.transports:
            contestants = [subject]
            if loop_program is not None:
                loop = loop_next_to(
                    subject, loop_program, transport, options.data_bytes, options.header
                )
                contestants.append(loop)
            load = load_of(
                options, load_program, clients, transport, options.phases, options.header
            )
            cases.append(turns.take(contestants, load, options.runs))
    return Result(
        title="Fan-out",
        tables=[*tables_of(cases, name, [LOOP]), limits_of(cases)],
        charts=charts_of("fan-out", cases),
        notes=[load_note(options), *([] if compiler else [NO_COMPILER])],
        problems=turns.problems,
        missing=[] if compiler else ["a C compiler, so the C load client and the C loop"],
        raw=turns.raw,
    )
