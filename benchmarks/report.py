"""Results as Markdown on the screen, and as a folder with a page, plots and the raw numbers."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.plotting import NoMatplotlib, draw
from benchmarks.results import Result, Table


@attrs.frozen
class Part:
    """One benchmark that was run: its result, or why there is none."""

    name: str
    arguments: Sequence[str]
    seconds: float
    result: Result | None
    failure: str | None = None

    @property
    def title(self) -> str:
        return self.name if self.result is None else self.result.title

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "benchmarks", self.name, *self.arguments])

    @property
    def exit_code(self) -> int:
        """0: valid; 1: not valid; 2: could not be measured."""
        if self.result is None:
            return 2
        return 1 if self.result.problems else 0


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _table(table: Table) -> Iterator[str]:
    yield from (f"### {table.title}", "")
    if table.about:
        yield from (table.about, "")
    yield from (_row(table.columns), _row(["---"] * len(table.columns)))
    yield from (_row(row) for row in table.rows)
    yield ""


def _bullets(title: str, points: Sequence[str]) -> Iterator[str]:
    if points:
        yield from (title, "", *(f"- {point}" for point in points), "")


def render_machine(machine: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in machine.items())


def render(part: Part, plots: Mapping[str, str] | None = None) -> str:
    """Return a part as Markdown, with the images of `plots`: the file of each chart's name."""
    lines = [f"## {part.title}", ""]
    if part.result is None:
        return "\n".join(
            [*lines, "**Could not be measured:**", "", f"```\n{part.failure}\n```", ""]
        )
    result = part.result
    if result.notes:
        lines += [*(f"- {note}" for note in result.notes), ""]
    lines += _bullets("### Not valid", result.problems)
    if plots is None:  # a page says it at its top
        lines += _bullets("### Missing on this machine", result.missing)
    for table in result.tables:
        lines += _table(table)
    for chart in result.charts:
        if plots and chart.name in plots:
            lines += [f"![{chart.title}]({plots[chart.name]})", ""]
    return "\n".join(lines)


def _plot(parts: Sequence[Part], folder: Path) -> tuple[dict[str, str], str | None]:
    """Return the file of each chart's name, and why there is none."""
    plots: dict[str, str] = {}
    for part in parts:
        for chart in part.result.charts if part.result else ():
            if chart.name in plots:
                raise ValueError(f"two charts are named {chart.name}")
            file = f"{chart.name}.svg"
            try:
                draw(chart, folder / file)
            except NoMatplotlib as error:
                return {}, str(error)
            plots[chart.name] = file
    return plots, None


def _contents(parts: Sequence[Part]) -> Iterator[str]:
    said = {0: "valid", 1: "**not valid**", 2: "**could not be measured**"}
    yield from ("| part | outcome | seconds | command |", "| --- | --- | --- | --- |")
    for part in parts:
        yield _row([part.title, said[part.exit_code], f"{part.seconds:.0f}", f"`{part.command}`"])
    yield ""


def write_report(
    folder: Path,
    machine: Mapping[str, str],
    began: datetime.datetime,
    parts: Sequence[Part],
) -> None:
    """Write ``README.md``, ``results.json`` and an SVG per chart into `folder`.

    What other reports left there under other names stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots, no_plots = _plot(parts, folder)
    missing = [
        f"{part.title}: {each}" for part in parts if part.result for each in part.result.missing
    ]
    if no_plots:
        missing.append(f"plots: {no_plots}")
    lines = ["# Benchmark results", ""]
    lines += [f"Measured on {began:%Y-%m-%d %H:%M} UTC. Figures are medians, with the least and"]
    lines += ["the most of the runs in brackets.", ""]
    lines += ["## The machine", "", render_machine(machine), ""]
    lines += ["## The parts", "", *_contents(parts)]
    lines += _bullets("## What was missing", missing)
    lines += [render(part, plots) for part in parts]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n")
    whole = {
        "began": began.isoformat(timespec="seconds"),
        "machine": dict(machine),
        "parts": [_as_json(part) for part in parts],
    }
    (folder / "results.json").write_text(json.dumps(whole, indent=1) + "\n")


def _as_json(part: Part) -> dict[str, object]:
    shown: dict[str, object] = {
        "name": part.name,
        "arguments": list(part.arguments),
        "seconds": part.seconds,
        "failure": part.failure,
    }
    if (result := part.result) is not None:
        shown |= attrs.asdict(result)
    return shown
