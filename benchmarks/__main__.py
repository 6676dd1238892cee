"""Runs one benchmark, or all of them; each has its own ``--help``."""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.arguments import choices
from benchmarks.loading import LoadFailed
from benchmarks.machine import describe_machine
from benchmarks.probing import ProbeFailed
from benchmarks.report import Part, render, render_machine, write_report
from benchmarks.servers import ServerFailed

NAMES = (
    "fan_out",
    "comparison",
    "many_channels",
    "flat",
    "fairness",
    "memory",
    "hostile_memory",
    "tls",
    "storm",
    "draining",
    "publishing",
    "resuming",
    "slow_consumers",
    "loop_steps",
    "compression",
    "signaling",
)
"""Modules of this package with an ``ABOUT`` and a ``measure(arguments) -> Result``."""

WITH_PEERS = ("comparison", "signaling")
"""Those that take ``--install-peers``."""


def offered() -> list[str]:
    return [name for name in NAMES if importlib.util.find_spec(f"benchmarks.{name}")]


def _end(signal_number: int, _frame: FrameType | None) -> None:
    # As an exception, so that the servers which a benchmark started are ended, too.
    sys.exit(128 + signal_number)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    about = (f"  {name:15} {importlib.import_module(f'benchmarks.{name}').ABOUT}" for name in names)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(["benchmarks:", *about]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--report", type=Path, metavar="FOLDER", help="write README.md, results.json and plots")
    add("--install-peers", action="store_true", help="get what they are compared with first")
    add("--parts", type=choices(names), default=list(names), help="some of them [all]")
    add("name", nargs="?", choices=names, metavar="NAME", help="only this one [all]")
    add("arguments", nargs=argparse.REMAINDER, help="its own options")
    return parser


def run_part(name: str, arguments: Sequence[str]) -> Part:
    """Run a benchmark; what cannot be measured is a part with a failure."""
    start = time.monotonic()
    result = failure = None
    try:
        result = importlib.import_module(f"benchmarks.{name}").measure(list(arguments))
    except (ServerFailed, ProbeFailed, LoadFailed) as error:
        failure = str(error)
    return Part(name, arguments, time.monotonic() - start, result, failure)


def main(arguments: Sequence[str]) -> int:
    """Return 0 if all is valid, 1 if something is not, 2 if something could not be measured."""
    names = offered()
    options = _parser(names).parse_args(arguments)
    began, machine = datetime.datetime.now(datetime.UTC), describe_machine()
    print("# Benchmarks", "", render_machine(machine), "", sep="\n", flush=True)
    parts = []
    for name in [options.name] if options.name else options.parts:
        own = list(options.arguments)
        if name in WITH_PEERS and options.install_peers:
            own.append("--install-peers")
        part = run_part(name, own)
        parts.append(part)
        print(render(part), flush=True)
        if options.report:  # after each part: hours of measuring survive what happens to the next
            write_report(options.report, machine, began, parts)
    if options.report:
        print(f"{shlex.quote(str(options.report / 'README.md'))} is written", file=sys.stderr)
    return max(part.exit_code for part in parts)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
