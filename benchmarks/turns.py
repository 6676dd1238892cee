"""Measures servers in turn, each time a new one: A B C A B C, the same load on each."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from benchmarks.cases import Case
from benchmarks.figures import Figures, figures_of, problems_of
from benchmarks.loading import Load, LoadFailed, run_load
from benchmarks.machine import Neighbours
from benchmarks.servers import Paths, Running, ServerFailed


@attrs.frozen
class Contestant:
    """A server that takes its turns."""

    name: str
    start: Callable[[], contextlib.AbstractContextManager[Running]]
    paths: Paths = attrs.field(factory=Paths)
    is_peer: bool = False
    """Whether what goes wrong with it is only told, and does not make the benchmark invalid."""


@attrs.frozen
class Turns:
    """The measurements of a benchmark, and what went wrong in them."""

    raw: list[dict[str, Any]] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    remarks: list[str] = attrs.field(factory=list)
    """What went wrong with peers."""

    def take(self, contestants: Sequence[Contestant], load: Load, runs: int) -> Case:
        """Measure all of them `runs` times.

        Raises ServerFailed or LoadFailed if one that is no peer cannot be measured.
        """
        case = Case(load.clients, load.transport, {each.name: [] for each in contestants})
        for run in range(runs):
            for contestant in contestants:
                case.servers[contestant.name].append(self._measure(contestant, load, run))
        return case

    def _measure(self, contestant: Contestant, load: Load, run: int) -> Figures:
        where = f"{contestant.name}, {load.clients} {load.transport}, run {run + 1}"
        try:
            with contestant.start() as server:
                neighbours = Neighbours(server.pid)
                report = run_load(load, server, contestant.paths)
                others = neighbours.cores()
        except (ServerFailed, LoadFailed) as error:
            if not contestant.is_peer:
                raise
            print(f"{where}: {error}", file=sys.stderr, flush=True)
            self.remarks.append(f"{where}: could not be measured")
            return {}
        found = problems_of(report)
        figures = {**figures_of(report), "others.cores": others}
        self.raw.append(
            {"server": contestant.name, "run": run, "report": report, "figures": figures}
        )
        rate = figures.get("single.deliveries_per_second")
        said = "" if rate is None else f"{rate:,.0f} single deliveries/s"
        print(f"{where}: {'; '.join(found) or said or 'done'}", file=sys.stderr, flush=True)
        told = self.remarks if contestant.is_peer else self.problems
        told.extend(f"{where}: {problem}" for problem in found)
        # Wrong deliveries are no measure to be compared with.
        return {} if contestant.is_peer and found else figures
