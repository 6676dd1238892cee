"""Resuming by cursor out of many stored events, and what keeping them costs on each engine."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks.__main__ import main
from benchmarks.arguments import choices
from benchmarks.crowding import crowd, need_compiler, record, turned_away
from benchmarks.figures import Figures, Spread, ratios_of, show, spread_of
from benchmarks.flat import fitting
from benchmarks.loading import LoadFailed
from benchmarks.processor_time import processor_seconds
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import SPARE_DESCRIPTORS, Paths, Running, ServerFailed, serve_triocast
from benchmarks.wire import (
    JSON,
    NDJSON,
    PIECE,
    Wrong,
    connect,
    get_json,
    post_request,
    read_reply,
    receive,
)

ABOUT = "resuming out of a million stored events, and what keeping them costs"

MOST_RESUME_RATIO = 1.5
LEAST_STREAMED = 20_000
MOST_GROWTH = 1.25
"""The file's size at the end by its largest in the first half of the steps."""

PARTS = ("resume", "crowd", "publish", "file")
MEMORY = "memory"
SQLITE = {"sqlite, power": "power", "sqlite, process": "process"}
ENGINES = (MEMORY, *SQLITE)
DISK = "the disk alone"
BOUNDS = BY_EVENTS, BY_BYTES = "history_events", "history_bytes"

_CHANNEL = "bench"
_BLOCK = 20_000
"""Events of one request where a store is filled."""
_BYTES_OF_EVENT = 400
"""About what a stored event takes of a file."""
_MUCH = 1 << 40
_REQUESTS_PER_CONNECTION = 500
_LIVE = b": live"
_NUMBER = re.compile(rb'"number":(\d+)')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks resuming", description=__doc__)
    add = parser.add_argument
    add("--only", type=choices(PARTS), default=list(PARTS), help=f"some of {','.join(PARTS)} [all]")
    add("--stored", type=int, default=1_000_000, help="events in the large store [1000000]")
    add("--few", type=int, default=1000, help="events in the small one [1000]")
    add("--missed", type=int, default=10, help="events that a client has missed [10]")
    add("--resumes", type=int, default=200, help="resumes of a run, one after the other [200]")
    add("--clients", type=int, default=10_000, help="clients that resume at once [10000]")
    add("--patience", type=float, default=60.0, help="seconds until they give up [60]")
    add("--events", type=int, default=100_000, help="events that are streamed [100000]")
    add("--streams", type=int, default=16, help="streams at once, besides a single one [16]")
    add("--posts", type=int, default=1000, help="POSTs one after the other [1000]")
    add("--kept", type=int, default=40_000, help="events that retention keeps [40000]")
    add("--steps", type=int, default=20, help="so many times that are published [20]")
    add("--bounds", type=choices(BOUNDS), default=list(BOUNDS), help="of the file [both]")
    add("--file-streams", type=int, default=64, help="streams at once into the file [64]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


# What all parts do.


@contextlib.contextmanager
def _serve(engine: str, connections: int, *options: str) -> Iterator[tuple[Running, Path | None]]:
    """Run a server, with its file in a folder of its own."""
    if engine == MEMORY:
        with serve_triocast(connections, *options) as server:
            yield server, None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.db"
        own = ("--engine", f"sqlite:///{path}", "--durability", SQLITE[engine])
        with serve_triocast(connections, *own, *options) as server:
            yield server, path


def _keeping(events: int) -> tuple[str, ...]:
    """Return options of a server that keeps so many events of one channel, whatever they take."""
    return ("--history-events", str(events), "--history-bytes", str(_MUCH))


def _data(number: int) -> str:
    return f'{{"number":{number},"mark":"{record()}","pad":"{"x" * 60}"}}'


def _lines(numbers: Sequence[int]) -> bytes:
    head = f'{{"channel":"{_CHANNEL}","data":'
    return "".join(f"{head}{_data(number)}}}\n" for number in numbers).encode()


def _stream(server: Running, lines: bytes, events: int) -> dict[str, Any]:
    """Publish NDJSON in one request; return the reply. Raises Wrong unless it was all of it."""
    with connect(server) as stream:
        stream.sendall(post_request(Paths().publish, lines, NDJSON))
        reply: dict[str, Any] = json.loads(read_reply(stream))
    if reply["published"] != events or reply["error"]:
        raise Wrong(f"{events} lines were sent, and the reply is {reply}")
    return reply


def _fill(server: Running, stored: int, missed: int) -> str:
    """Store events; return the cursor of who has got all but the last. Raises Wrong."""
    cursor = None
    had = stored - missed
    for first in range(0, had, _BLOCK):
        numbers = range(first, min(first + _BLOCK, had))
        reply = _stream(server, _lines(numbers), len(numbers))
        cursor = cursor or reply["first"]
        last: str = reply["last"]
    _stream(server, _lines(range(had, stored)), missed)
    page = get_json(server, f"/realtime/history?channel={_CHANNEL}&after={cursor}&limit=1")
    if page["lost"] or [event["data"]["number"] for event in page["events"]] != [1]:
        raise Wrong(f"not all of {stored} events were kept")
    return last


def _note(problems: list[str], what: str, work: Callable[[], Figures]) -> Figures | None:
    """Return the figures of one measurement; one that went wrong becomes a problem."""
    try:
        return work()
    except (Wrong, OSError) as error:
        problems.append(f"{what}: {error}")
        return None


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _cell(runs: Sequence[Figures], name: str, form: str = "{:.0f}") -> str:
    return show(spread_of(runs, name), form)


Runs = dict[str, list[Figures]]


@attrs.define
class _Found:
    """What came out so far."""

    tables: list[Table] = attrs.field(factory=list)
    charts: list[Chart] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    missing: list[str] = attrs.field(factory=list)
    raw: dict[str, Any] = attrs.field(factory=dict)


# One client after the other, out of few and out of many.


def _resume(server: Running, cursor: str, due: Sequence[int]) -> float:
    """Return the seconds from the request to the last missed event. Raises Wrong."""
    lines = [f"GET {Paths().sse}?channel={_CHANNEL} HTTP/1.1", "Host: localhost"]
    lines += ["Accept: text/event-stream", f"Last-Event-ID: {cursor}", "", ""]
    request, last = "\r\n".join(lines).encode(), f'"number":{due[-1]},'.encode()
    seconds = None
    got = bytearray()
    with connect(server) as stream:
        start = time.monotonic()
        stream.sendall(request)
        while _LIVE not in got:
            got += receive(stream, PIECE)
            if seconds is None and last in got:
                seconds = time.monotonic() - start
    found = [int(number) for number in _NUMBER.findall(got)]
    if seconds is None or found != list(due):
        raise Wrong(f"events {due[0]} to {due[-1]} were missed, and {found} came")
    return seconds


def _resumes(options: argparse.Namespace, found: _Found) -> None:
    """Two servers of each engine, one with few events and one with many, are asked in turn."""
    rows, bars, raw = [], {}, {}
    for engine in (MEMORY, "sqlite, power"):
        runs = _resume_engine(options, engine, found.problems)
        raw[engine] = runs
        few, many = runs
        if not runs[few]:
            continue
        ratios = ratios_of(runs[many], runs[few], "ms")
        for stored, each in runs.items():
            cells = [_cell(each, name, "{:.2f}") for name in ("ms", "most_ms")]
            ratio = ["1", ""]
            if stored == many:
                ratio = [show(ratios, "{:.2f}"), f"≤ {MOST_RESUME_RATIO}"]
            rows.append([engine, stored, *cells, _cell(each, "us"), *ratio])
        bars[engine] = {
            f"{stored} stored": Spread.of([run["ms"] for run in each])
            for stored, each in runs.items()
        }
    columns = [
        "engine", "stored", "ms until the last", "most ms", "server CPU µs",
        f"÷ {options.few} stored", "target",
    ]  # fmt: skip
    about = (
        f"{options.missed} missed events by SSE with `Last-Event-ID`, from the request to the last"
        f" of them; {options.resumes} times, one after the other."
    )
    title = f"Resuming out of {options.few} and {options.stored} events"
    found.tables.append(Table(title, columns, rows, about))
    found.charts.append(Chart("resuming-ms", title, "ms", bars))
    found.raw["resume"] = raw


def _resume_engine(options: argparse.Namespace, engine: str, problems: list[str]) -> Runs:
    sizes = [options.few, options.stored]
    runs: Runs = {str(stored): [] for stored in sizes}
    with contextlib.ExitStack() as stack:
        servers = []
        for stored in sizes:
            server, _ = stack.enter_context(_serve(engine, 100, *_keeping(stored)))
            try:
                cursor = _fill(server, stored, options.missed)
            except (Wrong, OSError) as error:
                problems.append(f"{engine}, {stored} stored: {error}")
                return runs
            servers.append((server, cursor, range(stored - options.missed, stored)))

        def work() -> list[Figures]:
            seconds: list[list[float]] = [[] for _ in servers]
            before = [processor_seconds(server.pid) for server, *_ in servers]
            for number in range(options.resumes):
                # Who is asked second has the advantage of a machine that is awake.
                for which in (0, 1) if number % 2 else (1, 0):
                    seconds[which].append(_resume(*servers[which]))
            used = [
                processor_seconds(server.pid) - then
                for (server, *_), then in zip(servers, before, strict=True)
            ]
            return [
                {
                    "ms": statistics.median(each) * 1e3,
                    "most_ms": max(each) * 1e3,
                    "us": cpu / options.resumes * 1e6,
                }
                for each, cpu in zip(seconds, used, strict=True)
            ]

        for run in range(options.runs):
            try:
                for each, figures in zip(runs.values(), work(), strict=True):
                    each.append(figures)
            except (Wrong, OSError) as error:
                problems.append(f"{engine}, run {run + 1}: {error}")
    return runs


# Many at once.


def _come(
    options: argparse.Namespace, engine: str, clients: int, *, resuming: bool
) -> tuple[Figures, list[str]]:
    """Let all clients come at once to a new server; return the figures, and who is not in."""
    due = clients * options.missed if resuming else 0
    connections = clients + SPARE_DESCRIPTORS
    with _serve(engine, connections, *_keeping(options.few)) as (server, _):
        cursor = _fill(server, options.few, options.missed)
        headers = [f"Last-Event-ID: {cursor}"] if resuming else []
        before = processor_seconds(server.pid)
        with crowd(
            server,
            clients,
            "sse",
            query=f"?channel={_CHANNEL}",
            headers=headers,
            patience_seconds=options.patience,
        ) as comers:
            counts = comers.wait("records", due, options.patience)
            used = processor_seconds(server.pid) - before
            later = comers.rest(0.2)
        # That the right ones come is for a client that reads numbers to say.
        numbers = range(options.few - options.missed, options.few)
        _resume(server, cursor, numbers)
    arrival = comers.arrival
    end = counts["now_ns"] if resuming else arrival["last_served_ns"]
    seconds = max(end - arrival["first_connect_ns"], 1) / 1e9
    problems = turned_away(later)
    if later["records"] != due:
        problems.append(f"{due} missed events were due, {later['records']} came")
    figures = {
        "clients": later["open"],
        "seconds": seconds,
        "rate": later["open"] / seconds,
        "us": used / clients * 1e6,
        "client_share": counts["cpu_seconds"] / seconds,
    }
    return figures, problems


def _crowds(options: argparse.Namespace, found: _Found) -> None:
    try:
        need_compiler()
        (*_, clients), missing = fitting([options.clients])
    except (LoadFailed, ServerFailed) as error:  # the other parts can be measured all the same
        found.missing.append(str(error))
        return
    found.missing += missing
    rows, raw = [], {}
    bars: dict[str, dict[str, Spread]] = {}
    for engine in (MEMORY, "sqlite, power"):
        runs: Runs = {"new": [], "resuming": []}
        for run in range(options.runs):
            try:
                both = [_come(options, engine, clients, resuming=each) for each in (False, True)]
            except (Wrong, OSError) as error:
                found.problems.append(f"{clients} clients, {engine}, run {run + 1}: {error}")
                continue
            for (who, each), (figures, problems) in zip(runs.items(), both, strict=True):
                each.append(figures)
                found.problems += [
                    f"{clients} {who}, {engine}, run {run + 1}: {problem}" for problem in problems
                ]
        raw[engine] = runs
        for who, each in runs.items():
            ratio = ratios_of(each, runs["new"], "us") if who == "resuming" else None
            rows.append(
                [
                    engine,
                    who,
                    _cell(each, "clients"),
                    _cell(each, "seconds", "{:.2f}"),
                    _cell(each, "rate"),
                    _cell(each, "us"),
                    show(ratio, "{:.2f}") if ratio else "1",
                    _cell(each, "client_share", "{:.0%}"),
                ]
            )
            if rate := spread_of(each, "rate"):
                bars.setdefault(engine, {})[who] = rate
    columns = [
        "engine", "who", "complete", "seconds", "per second", "server CPU µs per client", "÷ new",
        "crowd, of a core",
    ]  # fmt: skip
    about = f"All connect in one instant; who resumes has missed {options.missed} events."
    found.tables.append(Table(f"{clients} clients at once", columns, rows, about))
    found.charts.append(Chart("resuming-crowd", "Clients served at once", "per second", bars))
    found.raw["crowd"] = {"clients": clients, "runs": raw}


# Publishing.


def _rate(server: Running, streams: int, events: int) -> Figures:
    """Stream events over some connections at once. Raises Wrong."""
    own = events // streams
    lines = _lines(range(own))
    wrong: list[Exception] = []

    def go() -> None:
        try:
            _stream(server, lines, own)
        except (Wrong, OSError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=go) for _ in range(streams)]
    before, start = processor_seconds(server.pid), time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    used = processor_seconds(server.pid) - before
    if wrong:
        raise Wrong(str(wrong[0])) from wrong[0]
    return {"rate": own * streams / seconds, "us": used / own / streams * 1e6}


def _posts(server: Running, posts: int) -> Figures:
    """Publish one event after the other. Raises Wrong."""
    seconds, seqs = [], []
    before = processor_seconds(server.pid)
    for first in range(0, posts, _REQUESTS_PER_CONNECTION):
        with connect(server) as stream:
            for number in range(first, min(first + _REQUESTS_PER_CONNECTION, posts)):
                body = _lines([number]).rstrip()
                request = post_request(Paths().publish, body, JSON)
                start = time.monotonic()
                stream.sendall(request)
                reply = read_reply(stream)
                seconds.append(time.monotonic() - start)
                seqs.append(json.loads(reply)["seq"])
    used = processor_seconds(server.pid) - before
    if seqs != list(range(seqs[0], seqs[0] + posts)):
        raise Wrong(f"{posts} events were posted, and their places are not one after the other")
    return {**_latencies(seconds), "us": used / posts * 1e6}


def _latencies(seconds: Sequence[float]) -> Figures:
    return {"p50": _quantile(seconds, 0.5) * 1e3, "p99": _quantile(seconds, 0.99) * 1e3}


def _disk(writes: int) -> Figures:
    """Write a page at the end of a file and wait for the disk, as often."""
    seconds = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(writes):
            start = time.monotonic()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            seconds.append(time.monotonic() - start)
    return _latencies(seconds)


def _publishing(options: argparse.Namespace, found: _Found) -> None:
    several = {f"{count}": count for count in (1, options.streams)}
    rates: Runs = {f"{engine}, {name}": [] for engine in ENGINES for name in several}
    posts: Runs = {engine: [] for engine in (*ENGINES, DISK)}
    for run in range(options.runs):
        for engine in ENGINES:
            for name, count in several.items():
                with _serve(engine, 100) as (server, _):
                    what = f"{engine}, {name} streams, run {run + 1}"
                    work = partial(_rate, server, count, options.events)
                    if figures := _note(found.problems, what, work):
                        rates[f"{engine}, {name}"].append(figures)
            with _serve(engine, 100) as (server, _):
                what = f"{engine}, POSTs, run {run + 1}"
                if figures := _note(found.problems, what, partial(_posts, server, options.posts)):
                    posts[engine].append(figures)
        posts[DISK].append(_disk(options.posts))
    streamed = []
    bars: dict[str, dict[str, Spread]] = {}
    for engine in ENGINES:
        for name in several:
            each = rates[f"{engine}, {name}"]
            ratio = ratios_of(each, rates[f"{MEMORY}, {name}"], "rate")
            target = "" if engine == MEMORY else f"≥ {LEAST_STREAMED}"
            cells = [
                _cell(each, "rate"),
                target,
                show(ratio, "{:.2f}"),
                _cell(each, "us", "{:.1f}"),
            ]
            streamed.append([engine, name, *cells])
            if rate := spread_of(each, "rate"):
                bars.setdefault(engine, {})[f"{name} streams"] = rate
    columns = ["engine", "streams", "events/s", "target", "÷ memory", "server CPU µs per event"]
    about = "NDJSON, nobody listens; from the first byte to the last reply, default retention."
    found.tables.append(Table("Publishing streams", columns, streamed, about))
    posted = [
        [
            what,
            *(_cell(each, name, "{:.3f}") for name in ("p50", "p99")),
            show(ratios_of(each, posts[MEMORY], "p50"), "{:.2f}"),
            show(ratios_of(each, posts[DISK], "p50"), "{:.2f}"),
            _cell(each, "us"),
        ]
        for what, each in posts.items()
    ]
    columns = [
        "what", "p50 ms", "p99 ms", "p50 ÷ memory", f"p50 ÷ {DISK}", "server CPU µs per POST",
    ]  # fmt: skip
    found.tables.append(Table("One POST after the other", columns, posted))
    found.charts.append(Chart("resuming-publish", "Events streamed", "per second", bars))
    found.raw["publish"] = {"streams": rates, "posts": posts}


# The file.


def _size(path: Path) -> int:
    """Return the bytes of a store and of the log before it."""
    log = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


def _grow(options: argparse.Namespace, bound: str) -> list[int]:
    """Return the file's size after each step, without a rest between them. Raises Wrong."""
    kept, allowed = options.kept, options.kept * _BYTES_OF_EVENT
    bounds = (kept, _MUCH) if bound == BY_EVENTS else (_MUCH, allowed)
    more = ("--history-events", str(bounds[0]), "--history-bytes", str(bounds[1]))
    sizes = []
    with _serve("sqlite, process", 100, *more) as (server, path):
        assert path is not None
        for _ in range(options.steps):
            _rate(server, options.file_streams, kept)
            sizes.append(_size(path))
    return sizes


def growth(sizes: Sequence[int]) -> float:
    """Return the last size by the largest of the first half."""
    return sizes[-1] / max(sizes[: (len(sizes) + 1) // 2])


def _file(options: argparse.Namespace, found: _Found) -> None:
    shown = sorted({1, (options.steps + 3) // 4, (options.steps + 1) // 2, options.steps})
    rows, raw = [], {}
    bars: dict[str, dict[str, Spread]] = {}
    for bound in options.bounds:
        runs: list[list[int]] = []
        for run in range(options.runs):
            try:
                runs.append(_grow(options, bound))
            except (Wrong, OSError) as error:
                found.problems.append(f"file by {bound}, run {run + 1}: {error}")
        raw[bound] = runs
        if not runs:
            continue
        sizes = [Spread.of([run[step - 1] / 1e6 for run in runs]) for step in shown]
        grown = Spread.of([growth(run) for run in runs])
        if grown.median > MOST_GROWTH:
            found.problems.append(
                f"file by {bound}: still growing, the last size is {grown.median:.2f} of the"
                " largest in the first half"
            )
        cells = [show(size, "{:.1f}") for size in sizes]
        times = Spread.of([run[-1] / run[0] for run in runs])
        cells += [show(times, "{:.1f}"), show(grown, "{:.2f}"), f"≤ {MOST_GROWTH}"]
        rows.append([bound, *cells])
        bars[bound] = {f"after {step}": size for step, size in zip(shown, sizes, strict=True)}
    steps = [f"MB after {step} times" for step in shown]
    columns = ["bound", *steps, "last ÷ first", "growth", "target"]
    about = (
        f"`history_events` is {options.kept}, or `history_bytes` {options.kept * _BYTES_OF_EVENT};"
        f" {options.kept} events are published again and again by {options.file_streams} streams at"
        " once. Sizes are those of the file and its write-ahead log."
    )
    found.tables.append(Table("The file under retention", columns, rows, about))
    found.charts.append(Chart("resuming-file", "The file under retention", "MB", bars))
    found.raw["file"] = raw


_MEASURE: dict[str, Callable[[argparse.Namespace, _Found], None]] = {
    "resume": _resumes,
    "crowd": _crowds,
    "publish": _publishing,
    "file": _file,
}


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    found = _Found()
    for part in PARTS:
        if part in options.only:
            _MEASURE[part](options, found)
    return Result(
        title="Resuming and keeping",
        tables=found.tables,
        charts=found.charts,
        notes=[
            f"{options.runs} runs each, medians (least-most); events of {len(_data(0))} bytes of"
            f" data and more, by the digits of their number"
        ],
        problems=found.problems,
        missing=found.missing,
        raw=found.raw,
    )


if __name__ == "__main__":
    sys.exit(main(["resuming", *sys.argv[1:]]))
