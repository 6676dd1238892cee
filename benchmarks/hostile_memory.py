"""Memory of the server under hostile input: how much its process grows by, at the most."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.__main__ import main
from benchmarks.arguments import choices
from benchmarks.attacks import ATTACKS, KINDS, Attack
from benchmarks.figures import Spread, show
from benchmarks.processor_time import processor_seconds
from benchmarks.results import Result, Table
from benchmarks.servers import Running, ServerFailed, serve_triocast
from benchmarks.wire import Wrong, get_json

ABOUT = "memory under hostile input, and what clients leave behind"

_CONNECTIONS = 1000
_LOOK_SECONDS = 0.1
_AT_REST = 0.1
"""Of a core; a server that uses less has done with what it was sent."""
_MAX_LOOKS = 300


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks hostile_memory", description=__doc__
    )
    add = parser.add_argument
    add("--only", type=choices(KINDS), default=list(KINDS), help=f"some of {','.join(KINDS)} [all]")
    add("--share", type=float, default=1.0, help="of each input that is sent [1]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _kb(pid: int, word: str) -> int:
    """Return a line of the process's status. Raises ServerFailed if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:
        raise ServerFailed(f"memory cannot be looked at: {error}") from error
    found = re.search(rf"^{word}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise ServerFailed("the server has ended")
    return int(found[1])


def _settle(pid: int) -> None:
    """Wait until the server has done with what it was sent."""
    used = processor_seconds(pid)
    for _ in range(_MAX_LOOKS):
        time.sleep(_LOOK_SECONDS)
        before, used = used, processor_seconds(pid)
        if used - before < _AT_REST * _LOOK_SECONDS:
            return


def _measure(attack: Attack, server: Running, share: float) -> dict[str, Any]:
    """Return what was sent and what memory grew by. Raises Wrong, ServerFailed or OSError."""
    assert server.pid is not None
    attack.prepare(server, share)
    _settle(server.pid)
    before = _kb(server.pid, "VmRSS")
    word = "VmRSS" if attack.at_the_end else "VmHWM"
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # forget the most that was held
    sent = attack.run(server, share)
    _settle(server.pid)
    grown = _kb(server.pid, word) - before
    get_json(server, "/healthz")  # it has to be there still
    return {"sent_mb": sent / 1e6, "grown_mb": grown * 1024 / 1e6}


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    rows, raw, problems = [], [], []
    for attack in [each for each in ATTACKS if each.kind in options.only]:
        runs = []
        for run in range(options.runs):
            try:
                with serve_triocast(_CONNECTIONS, *attack.options) as server:
                    runs.append(_measure(attack, server, options.share))
            except (Wrong, ServerFailed, OSError) as error:
                problems.append(f"{attack.name}, run {run + 1}: {error}")
        raw.append({"input": attack.name, "runs": runs})
        if not runs:
            continue
        grown = Spread.of([each["grown_mb"] for each in runs])
        if grown.median > attack.max_growth_mb:
            problems.append(
                f"{attack.name}: {grown.median:.1f} MB more, not {attack.max_growth_mb:g}"
            )
        sent = Spread.of([each["sent_mb"] for each in runs])
        cells = [show(sent, "{:.1f}") if sent.most else "", show(grown, "{:.1f}")]
        rows.append([attack.name, *cells, f"≤ {attack.max_growth_mb:g}"])
        print(f"{attack.name}: {rows[-1][2]} MB", file=sys.stderr, flush=True)
    about = (
        "How much more resident memory the server's process held at any moment while it was given"
        " the input; of clients who came and went and of names, how much more at the end. *Sent*"
        " is what the server took before it hung up or took no more, or what was published."
    )
    columns = ["input", "sent MB", "MB more", "target"]
    return Result(
        title="Memory under hostile input",
        tables=[Table("What hostile input costs", columns, rows, about)],
        notes=[f"{options.runs} runs each, medians (least-most), each with a new server"],
        problems=problems,
        raw=raw,
    )


if __name__ == "__main__":
    sys.exit(main(["hostile_memory", *sys.argv[1:]]))
