"""Small runs of the part about resuming: each fills its tables, and sees a loss."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from benchmarks import resuming
from benchmarks.results import Result, Table
from benchmarks.wire import Wrong

RESUME = ["--only", "resume", "--stored", "300", "--few", "50", "--resumes", "4", "--runs", "1"]
CROWD = ["--only", "crowd", "--clients", "20", "--few", "50", "--patience", "2", "--runs", "1"]
PUBLISH = ["--only", "publish", "--events", "400", "--streams", "4", "--posts", "8", "--runs", "1"]
FILE = ["--only", "file", "--kept", "200", "--steps", "4", "--runs", "1"]
FILE += ["--file-streams", "1", "--bounds", "history_events"]


def column(result: Result, title: str, table: int = 0) -> list[float]:
    """The medians of a column."""
    found: Table = result.tables[table]
    place = list(found.columns).index(title)
    return [float(re.findall(r"\d+\.?\d*", row[place])[0]) for row in found.rows]


def test_resumes_out_of_few_and_many_stand_next_to_each_other() -> None:
    result = resuming.measure(RESUME)
    assert result.problems == []
    assert column(result, "stored") == [50, 300, 50, 300]
    for title in ("ms until the last", "server CPU µs"):
        assert len(column(result, title)) == 4
    ratios = column(result, "÷ 50 stored")
    assert ratios[0] == ratios[2] == 1
    for ratio, runs in zip(ratios[1::2], result.raw["resume"].values(), strict=True):
        ((few,), (many,)) = runs.values()
        assert ratio == pytest.approx(many["ms"] / few["ms"], abs=0.005)


@pytest.mark.parametrize("by", [-1, 1], ids=["lost", "repeated"])
def test_a_resume_notices_what_is_lost_or_repeated(
    by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = resuming._lines

    def another_number(numbers: Sequence[int]) -> bytes:
        # Only in the last request of a store, which has what is missed.
        if len(numbers) != 10:
            return lines(numbers)
        return lines([*numbers[:5], numbers[5] + by, *numbers[6:]])

    monkeypatch.setattr(resuming, "_lines", another_number)
    result = resuming.measure(RESUME)
    assert len(result.problems) == 2
    for problem, engine in zip(result.problems, ("memory", "sqlite, power"), strict=True):
        assert problem.startswith(f"{engine}, run 1: events ")
        assert " were missed, and " in problem
    assert result.tables[0].rows == []


def test_a_resume_notices_a_gap() -> None:
    with resuming._serve("memory", 10, *resuming._keeping(50)) as (server, _):
        cursor = resuming._fill(server, 50, 10)
        resuming._resume(server, cursor, range(40, 50))
        resuming._stream(server, resuming._lines(range(50, 91)), 41)
        with pytest.raises(Wrong, match=r"were missed, and \[\] came"):
            resuming._resume(server, cursor, range(40, 91))


def test_a_store_that_did_not_keep_all_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = resuming._keeping
    monkeypatch.setattr(resuming, "_keeping", lambda events: keeping(events // 2))
    problems = resuming.measure(RESUME).problems
    # The file keeps some more than it is told, to remove several at a time.
    assert problems[0] == "memory, 50 stored: not all of 50 events were kept"


@pytest.mark.usefixtures("compiler")
def test_all_who_resume_at_once_get_all() -> None:
    result = resuming.measure([*CROWD, "--patience", "60"])
    assert result.problems == []
    assert [row[1] for row in result.tables[0].rows] == ["new", "resuming"] * 2
    assert column(result, "complete") == [20] * 4
    for title in ("seconds", "per second", "server CPU µs per client"):
        assert len(column(result, title)) == 4


@pytest.mark.usefixtures("compiler")
def test_a_crowd_that_is_given_less_than_it_missed_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = resuming._data
    # One event goes without what the crowd counts; whoever reads its number still finds it.
    monkeypatch.setattr(
        resuming, "_data", lambda n: data(n).replace("@ns:", "") if n == 45 else data(n)
    )
    problems = resuming.measure(CROWD).problems
    assert [problem.partition(":")[2] for problem in problems] == [
        " 200 missed events were due, 180 came"
    ] * 2


def test_without_a_compiler_the_crowd_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.crowding.find_compiler", lambda: None)
    result = resuming.measure(CROWD)
    assert result.tables == []
    (said,) = result.missing
    assert "install gcc" in said


def test_publishing_is_measured_on_each_engine() -> None:
    result = resuming.measure(PUBLISH)
    assert result.problems == []
    streams, posts = result.tables
    assert [row[:2] for row in streams.rows] == [
        [engine, count] for engine in resuming.ENGINES for count in ("1", "4")
    ]
    assert len(column(result, "events/s")) == 6
    assert [row[0] for row in posts.rows] == [*resuming.ENGINES, resuming.DISK]
    for title in ("p50 ms", "p99 ms"):
        assert len(column(result, title, 1)) == 4


def test_what_is_not_published_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = resuming._lines
    monkeypatch.setattr(resuming, "_lines", lambda numbers: lines(numbers)[:-3])
    monkeypatch.setattr(resuming, "ENGINES", (resuming.MEMORY,))
    problems = resuming.measure(PUBLISH).problems
    assert len(problems) == 3  # by one stream, by several, and by POSTs


def test_the_size_of_a_file_under_retention_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "MOST_GROWTH", math.inf)  # the benchmark itself is to judge
    result = resuming.measure(FILE)
    assert result.problems == []
    ((*_, growth, target),) = result.tables[0].rows
    (sizes,) = result.raw["file"]["history_events"]
    assert len(sizes) == 4
    assert (growth, target) == (f"{resuming.growth(sizes):.2f}", "≤ inf")


def test_a_file_that_grows_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "MOST_GROWTH", 0.0)
    result = resuming.measure([*FILE, "--bounds", "history_bytes"])
    (problem,) = result.problems
    assert problem.startswith("file by history_bytes: still growing")


def test_growth_is_the_last_by_the_largest_before() -> None:
    assert resuming.growth([10, 20, 15, 30]) == 1.5
    assert resuming.growth([10, 20, 40, 30, 20]) == 0.5
    assert resuming.growth([10]) == 1
