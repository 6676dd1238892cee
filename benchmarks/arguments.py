"""Command line options that benchmarks with the load client have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.loading import Load
from benchmarks.probing import LEAST_DATA_BYTES

TRANSPORTS = ("sse", "websocket")
PHASES = ("single", "burst", "open")
MOST_DATA_BYTES = 8000

NO_COMPILER = (
    "**measured with the load client in Python, which is itself the limit, and without the "
    "C loop**: install a C compiler (apt-get install gcc libc6-dev) for real numbers"
)


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def choices(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser of some of the `known` words, with commas between them."""

    def parse(text: str) -> list[str]:
        parts = _list(text)
        if not parts or not set(parts) <= set(known):
            raise argparse.ArgumentTypeError(f"give some of {','.join(known)}")
        return parts

    return parse


def numbers(text: str) -> list[int]:
    """Parse whole numbers above 0, with commas between them."""
    found = [int(part) for part in _list(text)]
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError("give whole numbers above 0, such as 100,1000")
    return found


def _data_bytes(text: str) -> int:
    if not LEAST_DATA_BYTES <= int(text) <= MOST_DATA_BYTES:
        raise argparse.ArgumentTypeError(f"from {LEAST_DATA_BYTES} to {MOST_DATA_BYTES}")
    return int(text)


def add_load_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--transports", type=choices(TRANSPORTS), default=list(TRANSPORTS), help="[both]")
    add("--phases", type=choices(PHASES), default=list(PHASES), help="[single,burst,open]")
    add("--runs", type=int, default=3, help="measurements of each kind [3]")
    add("--seconds", type=float, default=3.0, help="length of a phase [3]")
    add("--events", type=int, help="most events of a phase [no limit]")
    add("--data-bytes", type=_data_bytes, default=128, help="size of an event's data [128]")
    add("--publishers", type=int, default=16, help="POST connections in bursts [16]")
    add("--in-flight", type=int, default=64, help="events not yet everywhere in bursts [64]")
    add("--open-rate", type=int, default=20, help="events per second by the clock [20]")
    add("--stall-ms", type=int, default=10_000, help="patience for a missing event [10000]")
    add("--settle-ms", type=int, default=500, help="rest before each phase [500]")
    add("--python-client", action="store_true", help="do without the C compiler, and the C loop")


def load_of(
    options: argparse.Namespace,
    program: Path | None,
    clients: int,
    transport: str,
    phases: Sequence[str],
    headers: Sequence[str] = (),
) -> Load:
    return Load(
        program=program,
        clients=clients,
        transport=transport,
        phases=phases,
        seconds=options.seconds,
        events=options.events,
        data_bytes=options.data_bytes,
        publishers=options.publishers,
        in_flight=options.in_flight,
        open_rate=options.open_rate,
        stall_ms=options.stall_ms,
        settle_ms=options.settle_ms,
        headers=headers,
    )


def load_note(options: argparse.Namespace) -> str:
    return (
        f"{options.runs} runs of {options.seconds:g} s per phase, medians (least-most); "
        f"events of {options.data_bytes} bytes of data; bursts by {options.publishers} publishers, "
        f"{options.in_flight} events in flight; {options.open_rate} events/s by the clock"
    )
