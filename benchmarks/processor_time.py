"""What a process has used of the processors, to the nanosecond.

The same time as user and system in ``/proc/PID/stat``, which counts in hundredths of a second: too
coarse for a difference of two short measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.servers import ServerFailed

_ALL_THREADS = 2
"""The kernel's number for the clock of a whole process; see clock_getcpuclockid(3)."""

_REST = 0.005
"""Seconds in which a process gets done with what it was given."""


def processor_seconds(pid: int | None) -> float:
    """Return the CPU time that a running process has used, user and system, of all its threads.

    Waits for some milliseconds first: the kernel counts what a thread has used when it pauses or
    at the next tick, so right after an answer the work for it may not be in.
    Raises ServerFailed if there is no such process.
    """
    if pid is None:
        raise ServerFailed("the server's process is not known, so neither is its CPU time")
    time.sleep(_REST)
    try:
        return time.clock_gettime((~pid << 3) | _ALL_THREADS)
    except OSError as error:
        raise ServerFailed(f"the server's CPU time is not known: {error}") from error


def processor_seconds_of(pid: int | None, work: Callable[[], object]) -> float:
    """Return the CPU time that a process uses while ``work`` is done."""
    before = processor_seconds(pid)
    work()
    return processor_seconds(pid) - before
