"""What all tests share: Hypothesis' profiles, the tiers, and a table of where the time went.

docs/how-to/test.md explains the tiers and how to work with them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import hypothesis
import pytest
import trio

from triocast import turns

TESTS = Path(__file__).parent

# Shared machines are noisy: a slow example is no finding, so there is no deadline.
hypothesis.settings.register_profile("triocast", deadline=None, derandomize=True)
hypothesis.settings.register_profile(
    "search",
    deadline=None,
    max_examples=int(os.environ.get("TRIOCAST_TEST_EXAMPLES", "1000")),
    print_blob=True,
)
hypothesis.settings.load_profile("triocast")

TIERS = {"e2e": ("e2e",), "benchmarks": ("e2e", "once")}
"""The markers that a folder gives to all of its tests."""


class Work(trio.abc.Instrument):
    """Counts pieces of work per step of the run loop, and is the clock that cuts the turns.

    A test calls `did` in whatever its loop has to call for each piece.
    """

    SECONDS = 0.000_01
    """What a piece takes by this clock."""

    PER_TURN = round(turns.LONGEST_SLICE_SECONDS / SECONDS)
    """Pieces in the longest slice."""

    def __init__(self) -> None:
        self.done = 0
        self.longest = 0
        """The most pieces in one step."""
        self._before = 0

    def did(self, pieces: int = 1) -> None:
        self.done += pieces
        self.longest = max(self.longest, self.done - self._before)

    def now(self) -> float:
        return self.done * self.SECONDS

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self.done


@pytest.fixture
async def work(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Work]:
    """Count the work of this test's steps."""
    counted = Work()
    monkeypatch.setattr(turns, "now", counted.now)
    trio.lowlevel.add_instrument(counted)
    yield counted
    trio.lowlevel.remove_instrument(counted)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in TIERS.get(part_of(item.path), ()):
            item.add_marker(marker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Undo what a test has done to logging: tests of the command line configure it.

    For tests in process no time goes by for long work: how fast the machine is decides nothing.
    """
    clock = turns.now
    if item.get_closest_marker("e2e") is None:
        turns.now = lambda: 0.0
    loggers = [logging.getLogger(), logging.getLogger("triocast")]
    before = [(logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    try:
        return (yield)
    finally:
        turns.now = clock
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers[:], logger.propagate = handlers, propagate


def part_of(path: Path) -> str:
    """Return the part of the suite that a test file belongs to: its folder below ``tests``."""
    first, *rest = path.relative_to(TESTS).parts
    return first if rest else "."


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show which part took how long, so that a slow one is seen when it becomes slow."""
    counts: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                part = part_of(TESTS.parent / report.nodeid.partition("::")[0])
                counts[part] += report.when == "call"
                seconds[part] += report.duration
    version = ".".join(map(str, sys.version_info[:2]))
    terminalreporter.section(f"seconds of work by part (Python {version})")
    for part in sorted(seconds, key=seconds.__getitem__, reverse=True):
        terminalreporter.write_line(f"{seconds[part]:8.1f}  {counts[part]:5}  tests/{part}")
