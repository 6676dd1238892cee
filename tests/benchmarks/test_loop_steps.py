"""A small run of the loads whose longest step is measured, and what it takes to be a problem."""

from __future__ import annotations

import pytest
from benchmarks import loop_steps
from benchmarks.loop_steps import ENGINES, LOADS, MAX_MS
from benchmarks.servers import Running, serve_triocast
from benchmarks.wire import Wrong, get_json

SMALL = ["--subscribers", "10", "--channels", "40", "--documents", "20", "--floods", "2"]


@pytest.fixture(autouse=True)
def floods_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_steps, "_POUR_SECONDS", 0.1)


def test_loads_are_measured_in_two_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_steps, "_judge", lambda *_: [])  # for the benchmark itself to say
    loads = [
        next(load for load in LOADS if load.of == kind) for kind in ("subscribers", "channels")
    ]
    monkeypatch.setattr(loop_steps, "LOADS", loads)
    result = loop_steps.measure(SMALL)
    assert result.problems == []
    assert len(result.tables[0].rows) == sum(len(load.engines) for load in loads)
    for row in result.tables[0].rows:
        assert float(row[2]) > 0
        assert float(row[3]) > 0


def test_a_server_stands_every_load() -> None:
    sizes = {"subscribers": 10, "channels": 40, "documents": 20, "floods": 2}
    with serve_triocast(100) as server:
        for load in LOADS:
            load.run(server, sizes[load.of])
        assert get_json(server, "/realtime/stats")["longest_step_ms"] > 0


@pytest.mark.parametrize(
    ("ms", "growth", "problems"),
    [(3.0, 3.0, 0), (15.0, 2.0, 0), (15.0, 2.5, 1), (MAX_MS + 1, 1.0, 1), (MAX_MS + 1, 2.5, 2)],
)
def test_long_steps_and_steps_that_grow_are_problems(
    ms: float, growth: float, problems: int
) -> None:
    assert len(loop_steps._judge("load", ms, growth)) == problems


def test_a_load_that_is_not_served_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_server: Running, _size: int) -> None:
        raise Wrong("injected")

    monkeypatch.setattr(loop_steps, "LOADS", (loop_steps.Load("load", "floods", fail),))
    result = loop_steps.measure([*SMALL, "--engines", ENGINES[0]])
    assert result.tables[0].rows == []
    assert [problem.rpartition(": ")[2] for problem in result.problems] == ["injected"] * 2
