"""Runs the load client, compiled or not, and reads its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from benchmarks.servers import Paths, Running

RECORD = "{record}"
"""Where the load client puts the record, a tag and a number, by which it knows an event again."""

RECORD_BYTES = 18

FALLBACK = Path(__file__).parent / "load" / "fallback.py"


class LoadFailed(Exception):
    """The load client could not measure at all."""


@attrs.frozen
class Load:
    """What the load client does to a server; the same for every server of a run."""

    program: Path | None
    """The compiled client; None runs the one in Python."""
    clients: int
    """All of them, also those that stall."""
    transport: str
    phases: Sequence[str] = ("single", "burst", "open")
    seconds: float = 3.0
    events: int | None = None
    data_bytes: int = 128
    publishers: int = 16
    in_flight: int = 64
    open_rate: int = 20
    handshakes: int = 100
    stall_ms: int = 10_000
    settle_ms: int = 500
    headers: Sequence[str] = ()
    stalled: int = 0
    """So many of the clients get in and then never read; they count as no receivers."""


def _body(paths: Paths, data_bytes: int) -> str:
    head, tail = '{"n":"', '"}'
    pad = '","pad":"'
    filling = max(data_bytes - len(head) - RECORD_BYTES - len(pad) - len(tail), 0)
    before, behind = head, pad + "x" * filling + tail
    if paths.content_type == "application/x-www-form-urlencoded":
        # The record itself needs no encoding: its @ and : mean nothing in a form.
        before, behind = quote(before, safe=""), quote(behind, safe="")
    return paths.body.replace("{data}", before + RECORD + behind)


def run_load(load: Load, server: Running, paths: Paths) -> dict[str, Any]:
    """Measure a server; return what the load client reports, faults included.

    Raises LoadFailed if there is no report.
    """
    command = [sys.executable, str(FALLBACK)] if load.program is None else [str(load.program)]
    arguments = {
        "host": server.host,
        "port": server.port,
        "path": paths.stream(load.transport),
        "publish-path": paths.publish,
        "transport": load.transport,
        "clients": load.clients,
        "handshakes": load.handshakes,
        "publishers": load.publishers,
        "in-flight": load.in_flight,
        "body": _body(paths, load.data_bytes),
        "content-type": paths.content_type,
        "phases": ",".join(load.phases),
        "seconds": load.seconds,
        "open-rate": load.open_rate,
        "settle-ms": load.settle_ms,
        "stall-ms": load.stall_ms,
        "stalled": load.stalled,
    }
    if ready := paths.ready(load.transport):
        arguments["ready"] = ready
    if load.events is not None:
        arguments["events"] = load.events
    if server.pid is not None:
        arguments["server-pid"] = server.pid
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    for name, lines in (
        ("header", load.headers),
        ("publish-header", paths.publish_headers),
        ("message", paths.messages(load.transport)),
    ):
        for line in lines:
            command += [f"--{name}", line]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    # The one in Python ends with 1, too, when it cannot go on: then it has said nothing.
    if done.returncode not in (0, 1) or not done.stdout:
        raise LoadFailed(f"the load client ended with {done.returncode}: {command}")
    report: dict[str, Any] = json.loads(done.stdout)
    measured = [phase["name"] for phase in report["phases"] if phase["deliveries"]]
    report["not_measured"] = [name for name in load.phases if name not in measured]
    report["ok"] = done.returncode == 0
    return report
