"""The longest step of the run loop under loads that any client can create, of a size and of half.

A step is one task's work between two scheduling points; the server measures it in the CPU time of
its own thread (`longest_step_ms`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from urllib.parse import quote

import attrs
from hyperframe.frame import PriorityFrame, SettingsFrame, WindowUpdateFrame

from benchmarks.__main__ import main
from benchmarks.arguments import choices
from benchmarks.figures import Spread, show
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    Paths,
    Running,
    ServerFailed,
    need_descriptors,
    serve_triocast,
)
from benchmarks.wire import (
    JSON,
    Wrong,
    connect,
    frame,
    get_json,
    post_request,
    publish_stream,
    read_reply,
    receive,
    upgrade,
)

ABOUT = "the longest step of the run loop: large fan-outs, histories, documents, and floods"

MAX_MS = 20.0
MAX_GROWTH = 2.2
ONE_SLICE_MS = 4.0
"""Below this a step is as long as the server lets it be, and growth says nothing."""

ENGINES = ("memory", "sqlite")
EVENTS = 2_000
_LINES = 1_000
_PATIENCE = 120.0
_POUR_SECONDS = 2.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@attrs.frozen
class Load:
    """``run`` gets the server and the size; the option that has the size bears the name ``of``."""

    name: str
    of: str
    run: Callable[[Running, int], None]
    engines: Sequence[str] = ("memory",)


# Subscribers.


@contextlib.contextmanager
def _listeners(
    server: Running, count: int, query: Callable[[int], str]
) -> Iterator[Callable[[int], None]]:
    """Let clients in that read all they get; give what waits for so many bytes. Raises Wrong."""
    got, over = 0, False
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:

        def read() -> None:
            nonlocal got
            while not over:
                for key, _ in waiting.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    with contextlib.suppress(OSError):
                        got += len(key.fileobj.recv(1 << 18))

        def wait(events: int) -> None:
            # An event's envelope has more than 60 bytes.
            deadline = time.monotonic() + _PATIENCE
            while got < events * 60:
                if time.monotonic() > deadline:
                    raise Wrong(f"{got} bytes are too few for {events} events")
                time.sleep(0.05)

        for number in range(count):
            stream = stack.enter_context(connect(server))
            path = f"{Paths().sse}?{query(number)}"
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if not receive(stream).startswith(b"HTTP/1.1 200"):
                raise Wrong("a subscriber was not let in")
            waiting.register(stream, selectors.EVENT_READ)
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield wait
        finally:
            over = True
            reader.join()


def _ask(server: Running, request: bytes) -> bytes:
    with connect(server) as stream:
        stream.settimeout(_PATIENCE)
        stream.sendall(request)
        return read_reply(stream)


def _lines(events: Sequence[dict[str, object]]) -> bytes:
    return b"\n".join(json.dumps(event).encode() for event in events)


def _fan_out(
    server: Running,
    count: int,
    *,
    channels: Sequence[str],
    query: Callable[[int], str],
    as_array: bool = False,
) -> None:
    events: list[dict[str, object]] = [
        {"channel": channels[number % len(channels)], "data": number} for number in range(EVENTS)
    ]
    with _listeners(server, count, query) as wait:
        if as_array:
            events = events[:_LINES]
            _ask(server, post_request(Paths().publish, json.dumps(events).encode(), JSON))
        else:
            with connect(server) as stream:
                publish_stream(stream, _lines(events), len(events))
        wait(count * len(events))


def _of_two(_number: int) -> str:
    return "channel=a&channel=b"


def _filtered(number: int) -> str:
    return f"channel=a&channel=b&type=message&type=t{number}"


# Histories and documents.


def _fill(server: Running, count: int) -> None:
    with connect(server) as stream:
        stream.settimeout(_PATIENCE)
        for start in range(0, count, _LINES):
            numbers = range(start, min(start + _LINES, count))
            events: list[dict[str, object]] = [
                {"channel": f"n:{number}", "key": "k", "data": number} for number in numbers
            ]
            publish_stream(stream, _lines(events), len(events))


def _replay(server: Running, count: int, *, start: str) -> None:
    """Fill so many channels, and listen to all of them by a pattern until the stream is live."""
    _fill(server, count)
    epoch = get_json(server, "/realtime/stats")["epoch"]
    path = f"{Paths().sse}?channel={quote('n:*')}&{start.format(epoch=epoch)}"
    with connect(server) as stream:
        stream.settimeout(_PATIENCE)
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        got = b""
        while b'"live"' not in got:
            got = got[-10:] + receive(stream)
    get_json(server, f"/realtime/history?channel={quote('n:*')}&limit=1000")


def _documents(server: Running, count: int) -> None:
    """Write so many documents into one channel, and list them all."""
    with connect(server) as stream:
        for number in range(count):
            body = b'{"n":%d}' % number
            head = (
                f"PUT /realtime/documents?channel=d&key=k{number:06} HTTP/1.1\r\n"
                f"Host: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            stream.sendall(head.encode() + body)
            read_reply(stream)
    after, found, more = "", 0, True
    while more:
        page = get_json(server, f"/realtime/documents?channel=d&limit=1000&after={after}")
        found, more = found + len(page["documents"]), page["more"]
        after = page["documents"][-1]["key"]
    if found != count:
        raise Wrong(f"{found} of {count} documents were listed")


# Floods.


def _flood(server: Running, count: int, *, begin: Callable[[socket.socket], object],
           chunk: bytes) -> None:  # fmt: skip
    """Pour small frames into so many connections, for a time or until the server ends them."""
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(connect(server)) for _ in range(count)]
        for stream in streams:
            begin(stream)
            stream.setblocking(False)
        end = time.monotonic() + _POUR_SECONDS
        while streams and time.monotonic() < end:
            for stream in list(streams):
                try:
                    stream.send(chunk)
                except BlockingIOError:
                    continue
                except OSError:
                    streams.remove(stream)


def _begin_http2(stream: socket.socket) -> None:
    stream.sendall(_PREFACE + SettingsFrame(0).serialize())


def _begin_websocket(stream: socket.socket) -> None:
    upgrade(stream, Paths().websocket)


def _begin_fragments(stream: socket.socket) -> None:
    _begin_websocket(stream)
    stream.sendall(bytes((frame(b"")[0] & 0x7F,)) + frame(b"")[1:])


def _repeated(one: bytes) -> bytes:
    return one * (65_536 // len(one))


_FLOODS = {
    "HTTP/2 WINDOW_UPDATE": (_begin_http2, WindowUpdateFrame(0, 1).serialize()),
    "HTTP/2 PRIORITY": (_begin_http2, PriorityFrame(1, depends_on=0, stream_weight=1).serialize()),
    "empty WebSocket fragments": (_begin_fragments, b"\x00\x80\x00\x00\x00\x00"),
    "WebSocket pings": (_begin_websocket, frame(b"", 9)),
}

LOADS = (
    Load("one channel", "subscribers", partial(_fan_out, channels=["a"], query=_of_two)),
    Load("two channels in one batch", "subscribers",
         partial(_fan_out, channels=["a", "b"], query=_of_two)),
    Load("a filter for each", "subscribers",
         partial(_fan_out, channels=["a", "b"], query=_filtered)),
    Load("array POST", "subscribers",
         partial(_fan_out, channels=["a", "b"], query=_of_two, as_array=True)),
    Load("replay of a pattern", "channels",
         partial(_replay, start="last_event_id=0.{epoch}.0"), ENGINES),
    Load("since=latest of a pattern", "channels", partial(_replay, start="since=latest"), ENGINES),
    Load("documents", "documents", _documents, ENGINES),
    *(
        Load(name, "floods", partial(_flood, begin=begin, chunk=_repeated(one)))
        for name, (begin, one) in _FLOODS.items()
    ),
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks loop_steps", description=__doc__)
    add = parser.add_argument
    add("--subscribers", type=int, default=5_000, help="[5000]")
    add("--channels", type=int, default=50_000, help="with an event each [50000]")
    add("--documents", type=int, default=50_000, help="[50000]")
    add("--floods", type=int, default=40, help="connections that send small frames [40]")
    add("--engines", type=choices(ENGINES), default=list(ENGINES), help="[both]")
    kinds = sorted({load.of for load in LOADS})
    add("--loads", type=choices(kinds), default=kinds, help="some of these [all]")
    add("--runs", type=int, default=1, help="[1]")
    return parser


@contextlib.contextmanager
def _serve(engine: str, most: int) -> Iterator[Running]:
    options = ["--history-events", "1000"]
    if engine == "memory":
        with serve_triocast(most, *options) as server:
            yield server
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = ["--engine", f"sqlite:///{folder}/events.db"]
            with serve_triocast(most, *options, *file) as server:
                yield server


def _measure_load(load: Load, engine: str, size: int, most: int) -> float:
    """Return the longest step in ms. Raises Wrong, ServerFailed or OSError."""
    with _serve(engine, most) as server:
        load.run(server, size)
        return float(get_json(server, "/realtime/stats")["longest_step_ms"])


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    most = max(options.subscribers, options.floods) + SPARE_DESCRIPTORS
    need_descriptors(most)
    rows, raw, problems = [], [], []
    bars: dict[str, dict[str, Spread]] = {}
    for load in LOADS:
        if load.of not in options.loads:
            continue
        size = getattr(options, load.of)
        for engine in [each for each in load.engines if each in options.engines]:
            name = load.name if len(load.engines) == 1 else f"{load.name}, {engine}"
            found: dict[int, list[float]] = {max(size // 2, 1): [], size: []}
            for run in range(options.runs):
                for each, steps in found.items():
                    try:
                        steps.append(_measure_load(load, engine, each, most))
                    except (Wrong, ServerFailed, OSError) as error:
                        problems.append(f"{name}, {each} {load.of}, run {run + 1}: {error}")
            raw.append({"load": name, "steps": {str(each): steps for each, steps in found.items()}})
            if not all(found.values()):
                continue
            half, whole = (Spread.of(steps) for steps in found.values())
            growth = whole.median / half.median
            problems += _judge(name, whole.median, growth)
            rows.append(
                [name, f"{size} {load.of}", show(half, "{:.1f}"), show(whole, "{:.1f}"),
                 f"≤ {MAX_MS:g}", f"{growth:.2f}", f"≤ {MAX_GROWTH}"]
            )  # fmt: skip
            bars[name] = {"half": half, "whole": whole}
    columns = ["load", "size", "longest step ms of half", "of all", "target", "growth", "target"]
    about = (
        "Milliseconds of the thread's own CPU time, since the server had started: the clients'"
        f" arrival is part of it. Growth is judged from {ONE_SLICE_MS:g} ms on, as long as a step"
        " may be."
    )
    return Result(
        title="Steps of the run loop",
        tables=[Table("The longest step", columns, rows, about)],
        charts=[Chart("loop-steps", "The longest step of the run loop", "ms", bars)],
        notes=[f"{options.runs} runs each, medians (least-most), each with a server of its own"],
        problems=problems,
        raw=raw,
    )


def _judge(name: str, ms: float, growth: float) -> list[str]:
    found = []
    if ms > MAX_MS:
        found.append(f"{name}: a step of {ms:.1f} ms, not {MAX_MS:g}")
    if ms > ONE_SLICE_MS and growth > MAX_GROWTH:
        found.append(f"{name}: {growth:.2f} times as long with twice as many, not {MAX_GROWTH}")
    return found


if __name__ == "__main__":
    sys.exit(main(["loop_steps", *sys.argv[1:]]))
