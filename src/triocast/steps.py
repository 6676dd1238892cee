"""How long the longest step of the run loop was.

While a task runs from one scheduling point to the next, nobody else does. So the longest such step
is what any client may have waited for, whatever else it asked for. Measured in the CPU time of the
loop's own thread, as a step is not to blame for what other processes do meanwhile.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Final

import attrs
import trio

WINDOW_SECONDS: Final = 60.0
"""How far the second figure looks back; up to a twelfth of it more."""

_SPAN_SECONDS: Final = WINDOW_SECONDS / 12
_EXACT_SECONDS: Final = 0.000_25


@attrs.frozen
class StepStats:
    """Seconds of the thread's CPU time, up to a quarter of a millisecond too many."""

    longest: float
    """Of the longest step since the start."""
    longest_lately: float
    """Of the longest in the last `WINDOW_SECONDS`."""


class StepMeter(trio.abc.Instrument):
    """Measures each step of a run loop to which it is added; call it in that loop's thread only.

    The CPU's clock takes a system call to read. So each step is measured by the cheap clock, and
    the other is read four times in a millisecond at the most, and after a step that may be the
    longest.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget all steps up to now, the one under way, too."""
        now = time.perf_counter()
        self._longest = self._longest_of_span = 0.0
        self._spans: deque[float] = deque(maxlen=12)
        self._begin_span(now)
        self._began = now
        self._read_cpu(now)

    def statistics(self) -> StepStats:
        """Return the figures of now; the step that asks is not among them."""
        self._change_span(time.perf_counter())
        lately = max(self._longest_of_span, *self._spans, 0.0)
        return StepStats(max(self._longest, lately), lately)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """End the step before, and begin this one."""
        now = time.perf_counter()
        if now - self._began > self._longest_of_span:
            self._measure(now)
        if now > self._cpu_is_exact_until:
            self._change_span(now)
            self._read_cpu(now)
        self._began = now

    def before_io_wait(self, timeout: float) -> None:
        """End the last step of a pass."""
        now = time.perf_counter()
        if now - self._began > self._longest_of_span:
            self._measure(now)
        self._began = math.inf  # What the loop does by itself is no task's step.

    def _measure(self, now: float) -> None:
        before = self._cpu
        self._read_cpu(now)
        self._longest_of_span = max(
            self._longest_of_span, min(now - self._began, self._cpu - before)
        )

    def _read_cpu(self, now: float) -> None:
        self._cpu = time.thread_time()
        self._cpu_is_exact_until = now + _EXACT_SECONDS

    def _begin_span(self, now: float) -> None:
        self._longest_of_span = 0.0
        self._span_ends = now + _SPAN_SECONDS

    def _change_span(self, now: float) -> None:
        """Begin another span if the last one is over, and empty ones where nothing ran."""
        if now < self._span_ends:
            return
        self._longest = max(self._longest, self._longest_of_span)
        self._spans.append(self._longest_of_span)
        for _ in range(min(int((now - self._span_ends) // _SPAN_SECONDS), 12)):
            self._spans.append(0.0)
        self._begin_span(now)
