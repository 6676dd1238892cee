"""What a process has used of the processors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.servers import ServerFailed


def cpu_seconds(pid: int | None) -> float:
    """Return the CPU time that a running process has used, user and system, of all its threads.

    Raises ServerFailed if there is no such process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError as error:
        raise ServerFailed(f"the server's CPU time is not known: {error}") from error
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_used(pid: int | None, work: Callable[[], object]) -> float:
    """Return the CPU time that a process uses while ``work`` is done."""
    before = cpu_seconds(pid)
    work()
    return cpu_seconds(pid) - before
