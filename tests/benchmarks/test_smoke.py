"""Small runs of the benchmark, so that it never rots, and proof that it would see a loss."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import fan_out
from benchmarks.figures import problems_of
from benchmarks.loading import Load, run_load
from benchmarks.servers import Paths, Running

from .faulty_server import faulty_server

_LOSING = ("drop", "swap", "close", "refuse")
"""Behind these something is waited for that never comes."""


def _measure(program: Path | None, fault: str, phase: str) -> dict:
    load = Load(
        program,
        clients=3,
        transport="sse",
        phases=[phase],
        events=20,
        publishers=1,
        stall_ms=300 if fault in _LOSING else 10_000,
        settle_ms=10,
        open_rate=100,
    )
    with faulty_server(fault) as server:
        return run_load(load, Running("127.0.0.1", server.port, None), Paths())


@pytest.mark.parametrize("python_client", [False, True], ids=["C", "Python"])
def test_triocast_delivers_everything_and_single_events_alone(
    python_client: bool, request: pytest.FixtureRequest
) -> None:
    arguments = ["--clients", "20", "--runs", "1", "--events", "30", "--open-rate", "100"]
    arguments += ["--settle-ms", "50"]
    if python_client:
        arguments += ["--python-client"]
    else:
        request.getfixturevalue("compiler")
    result = fan_out.measure(arguments)

    assert result.problems == []
    servers = {"Triocast"} if python_client else {"Triocast", "C loop"}
    measured = {(each["server"], each["report"]["transport"]) for each in result.raw}
    assert measured == {(who, how) for who in servers for how in ("sse", "websocket")}
    for measurement in result.raw:
        report, figures = measurement["report"], measurement["figures"]
        assert not any(report["faults"].values())
        assert [phase["name"] for phase in report["phases"]] == ["single", "burst", "open"]
        assert all(phase["deliveries"] == 30 * 20 for phase in report["phases"])
        assert figures["single.events_per_read"] == 1
        assert report["phases"][0]["most_events_in_a_read"] == 1
        # One more or less: a publisher's reply, or a wake-up, may be written in between.
        assert figures["single.events_per_write"] == pytest.approx(1, rel=0.1)
    shown = {cell for table in result.tables for row in table.rows for cell in row}
    assert ("**Triocast ÷ C loop**" in shown) is not python_client
    assert bool(result.missing) is python_client


@pytest.mark.usefixtures("compiler")
def test_the_c_loop_gets_frames_of_the_servers_size() -> None:
    arguments = ["--clients", "20", "--runs", "1", "--events", "30", "--phases", "single"]
    arguments += ["--settle-ms", "50"]
    result = fan_out.measure(arguments)
    assert result.problems == []

    sizes: dict[str, dict[str, float]] = {}
    for each in result.raw:
        size = each["figures"]["single.bytes_per_delivery"]
        sizes.setdefault(each["report"]["transport"], {})[each["server"]] = size
    for size in sizes.values():
        assert size["C loop"] == pytest.approx(size["Triocast"], rel=0.03)


@pytest.mark.parametrize("phase", ["single", "burst", "open"])
def test_a_faultless_server_is_found_faultless(load_program: Path | None, phase: str) -> None:
    report = _measure(load_program, "none", phase)
    assert report["ok"]
    assert problems_of(report) == []
    assert report["phases"][0]["deliveries"] == 60


def test_events_that_arrive_in_pieces_are_found(load_program: Path | None) -> None:
    report = _measure(load_program, "split", "burst")
    assert report["ok"], report
    (phase,) = report["phases"]
    assert phase["deliveries"] == 60
    assert phase["reads"] > phase["reads_with_events"]


@pytest.mark.parametrize(
    ("fault", "phase", "told"),
    [
        ("drop", "single", {"lost"}),
        ("drop", "burst", {"lost", "skipped"}),
        ("swap", "burst", {"skipped", "late_or_repeated"}),
        ("repeat", "burst", {"late_or_repeated"}),
        ("repeat", "single", {"late_or_repeated"}),
        ("close", "single", {"closed"}),
        ("refuse", "single", {"publish_errors"}),
    ],
)
def test_a_fault_of_one_client_is_told(
    load_program: Path | None, fault: str, phase: str, told: set[str]
) -> None:
    report = _measure(load_program, fault, phase)
    assert not report["ok"]
    assert told <= {name for name, count in report["faults"].items() if count}
    assert problems_of(report)


def test_a_fault_is_a_problem_of_the_result() -> None:
    with faulty_server("drop") as server:
        arguments = ["--url", f"http://127.0.0.1:{server.port}", "--python-client"]
        arguments += ["--transports", "sse", "--clients", "3", "--runs", "1"]
        arguments += ["--phases", "single", "--events", "10"]
        result = fan_out.measure([*arguments, "--stall-ms", "300"])
    assert "server, 3 sse, run 1: 1 lost" in result.problems


def test_joined_single_events_are_a_problem() -> None:
    phase = {"name": "single", "most_events_in_a_read": 2}
    report = {"ok": True, "faults": {"lost": 0}, "not_measured": [], "phases": [phase]}
    assert problems_of(report) == ["2 single events in one read"]


def test_a_phase_without_a_delivery_is_a_problem() -> None:
    report = {"ok": True, "faults": {}, "not_measured": ["burst"], "phases": []}
    assert problems_of(report) == ["burst was not measured"]
