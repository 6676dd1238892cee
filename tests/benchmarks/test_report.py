"""The suite: what it runs, what it says about it, and the folder it writes."""

from __future__ import annotations

import datetime
import importlib.machinery
import importlib.util
import json
import sys
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import __main__ as suite
from benchmarks import plotting
from benchmarks.figures import Spread
from benchmarks.report import Part, render, write_report
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import ServerFailed

from .conftest import need

BEGAN = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
CHART = Chart(
    "fake-rate",
    "How fast",
    "deliveries/s",
    {
        "10 sse": {"Triocast": Spread(100, 90, 120), "Nchan": Spread(80, 80, 80)},
        "20 sse": {"Triocast": Spread(150, 140, 160), "C loop": Spread(20_000, 19_000, 21_000)},
    },
)
RESULT = Result(
    title="A fake",
    tables=[Table("Rates", ["server", "rate"], [["a|b", "1"], ["c", "2"]], about="By clock.")],
    charts=[CHART],
    notes=["on a quiet machine"],
    missing=["Nchan: not there"],
    raw=[{"run": 1}],
)

Outcome = Callable[[list[str]], Result]


@pytest.fixture
def matplotlib() -> None:
    need(importlib.util.find_spec("matplotlib"), "install matplotlib: pip install matplotlib")


def _part(result: Result | None = RESULT, failure: str | None = None) -> Part:
    return Part("fake", ["--runs", "1"], 12.3, result, failure)


def _write(folder: Path, *parts: Part) -> str:
    write_report(folder, {"cpu": "a fast one"}, BEGAN, parts)
    return (folder / "README.md").read_text()


def test_markdown_has_tables_notes_and_what_was_missing() -> None:
    lines = render(_part()).splitlines()
    assert lines[0] == "## A fake"
    assert "- on a quiet machine" in lines
    assert "- Nchan: not there" in lines
    at = lines.index("### Rates")
    assert lines[at + 2] == "By clock."
    assert lines[at + 4 : at + 8] == [
        "| server | rate |",
        "| --- | --- |",
        "| a\\|b | 1 |",
        "| c | 2 |",
    ]
    assert "Not valid" not in render(_part())


def test_markdown_says_what_made_a_part_invalid_and_why_there_is_none() -> None:
    invalid = render(_part(Result(title="A fake", tables=[], problems=["1 lost"])))
    assert "### Not valid\n\n- 1 lost" in invalid
    failed = render(_part(None, "the server did not start"))
    assert "Could not be measured" in failed
    assert "the server did not start" in failed


@pytest.mark.usefixtures("matplotlib")
def test_the_folder_has_a_page_with_plots_and_the_raw_numbers(tmp_path: Path) -> None:
    page = _write(tmp_path / "new" / "report", _part(), Part("other", [], 1, None, "no port"))
    folder = tmp_path / "new" / "report"

    assert "- cpu: a fast one" in page
    assert "2026-01-02 03:04 UTC" in page
    assert "| A fake | valid | 12 | `python -m benchmarks fake --runs 1` |" in page
    assert "| other | **could not be measured** | 1 | `python -m benchmarks other` |" in page
    assert "- A fake: Nchan: not there" in page
    assert "![How fast](fake-rate.svg)" in page
    assert "plots" not in page

    whole = json.loads((folder / "results.json").read_text())
    assert whole["machine"] == {"cpu": "a fast one"}
    fake, other = whole["parts"]
    assert fake["raw"] == [{"run": 1}]
    assert fake["charts"][0]["bars"]["10 sse"]["Triocast"]["median"] == 100
    assert other["failure"] == "no port"


@pytest.mark.usefixtures("matplotlib")
def test_a_plot_names_its_groups_series_and_values(tmp_path: Path) -> None:
    plotting.draw(CHART, tmp_path / "a.svg")
    texts = {
        "".join(element.itertext()).strip()
        for element in ET.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"10 sse", "20 sse", "Triocast", "Nchan", "C loop", "How fast"} <= texts
    assert {"deliveries/s", "100", "80", "150", "20k"} <= texts


@pytest.mark.usefixtures("matplotlib")
def test_the_same_numbers_give_the_same_plot_and_others_another(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plotting.draw(CHART, tmp_path / f"{name}.svg")
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes()

    logarithmic = Chart(CHART.name, CHART.title, CHART.unit, CHART.bars, logarithmic=True)
    plotting.draw(logarithmic, tmp_path / "c.svg")
    assert drawn != (tmp_path / "c.svg").read_bytes()
    assert b"deliveries/s (logarithmic)" in (tmp_path / "c.svg").read_bytes()


def test_without_matplotlib_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    absent = lambda name, package=None: None if name == "matplotlib" else find_spec(name, package)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    page = _write(tmp_path, _part())
    assert "- plots: install matplotlib" in page
    assert ".svg" not in page
    assert not list(tmp_path.glob("*.svg"))
    assert (tmp_path / "results.json").exists()


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the suite one of benchmarks that do as told."""

    def be(**benchmarks: Outcome) -> None:
        for name, measure in benchmarks.items():
            module = types.ModuleType(f"benchmarks.{name}")
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            vars(module).update(ABOUT=f"measures {name}", measure=measure)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(suite, "NAMES", (*benchmarks, "not_written_yet"))

    return be


def _valid(arguments: list[str]) -> Result:
    return Result(title=f"Given {arguments}", tables=[])


def _invalid(_arguments: list[str]) -> Result:
    return Result(title="Invalid", tables=[], problems=["1 lost"])


def _failing(_arguments: list[str]) -> Result:
    raise ServerFailed("it did not start")


def test_what_is_not_there_is_not_offered(
    offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer(one=_valid)
    with pytest.raises(SystemExit) as end:
        suite.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "measures one" in shown
    assert "not_written_yet" not in shown
    with pytest.raises(SystemExit) as end:
        suite.main(["not_written_yet"])
    assert end.value.code == 2


def test_one_benchmark_gets_its_own_options(
    offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer(one=_valid, other=_failing)
    assert suite.main(["one", "--clients", "3"]) == 0
    assert "## Given ['--clients', '3']" in capsys.readouterr().out


def test_without_a_name_all_run_and_the_worst_outcome_counts(
    offer: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(one=_failing, two=_valid, three=_invalid)
    assert suite.main(["--report", str(tmp_path)]) == 2
    shown = capsys.readouterr().out
    page = (tmp_path / "README.md").read_text()
    for text in (shown, page):
        assert "it did not start" in text
        assert "## Given []" in text
        assert "1 lost" in text
    assert len(json.loads((tmp_path / "results.json").read_text())["parts"]) == 3


def test_an_invalid_part_makes_the_suite_invalid(offer: Callable[..., None]) -> None:
    offer(two=_valid, three=_invalid)
    assert suite.main([]) == 1


def test_what_was_measured_is_written_before_the_next_part(
    offer: Callable[..., None], tmp_path: Path
) -> None:
    def broken(_arguments: list[str]) -> Result:
        raise RuntimeError("a mistake in a benchmark")

    offer(two=_valid, three=broken)
    with pytest.raises(RuntimeError):
        suite.main(["--report", str(tmp_path)])
    assert "## Given []" in (tmp_path / "README.md").read_text()


def test_peers_are_installed_by_the_comparison_alone(
    offer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    offer(two=_valid, comparison=_valid)
    assert suite.main(["--install-peers"]) == 0
    shown = capsys.readouterr().out
    assert "## Given []" in shown
    assert "## Given ['--install-peers']" in shown
