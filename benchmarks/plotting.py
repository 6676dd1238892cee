"""Draws charts as SVG files, by matplotlib without a display."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from benchmarks.results import Chart

SUBJECT = "Triocast"
SUBJECT_COLOUR = "#0072b2"
# Told apart by colour-blind eyes, too; the limit, which is no peer, is grey.
LIMIT = "C loop"
LIMIT_COLOUR = "#8c8c8c"
COLOURS = ("#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a900", "#6a3d9a", "#4d4d4d")
BAR_INCHES = 0.42
GROUP_GAP = 1.0


class NoMatplotlib(Exception):
    """There is no matplotlib, so no plot."""


def _colours(chart: Chart) -> dict[str, str]:
    series = list(dict.fromkeys(name for group in chart.bars.values() for name in group))
    colours = {SUBJECT: SUBJECT_COLOUR, LIMIT: LIMIT_COLOUR}
    others = [name for name in series if name not in colours]
    colours |= {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}
    return {name: colours[name] for name in series}


def _label(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(chart: Chart, file: Path) -> None:
    """Draw grouped bars with the least and the most as whiskers. Raises NoMatplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoMatplotlib("install matplotlib: pip install 'triocast[benchmarks]'")
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    count = sum(len(group) for group in chart.bars.values())
    width = max(6.0, 1.5 + BAR_INCHES * (count + GROUP_GAP * len(chart.bars)))
    colours = _colours(chart)
    # The same numbers give the same file: no random ids, no date. Text stays text.
    settings = {"svg.hashsalt": chart.name, "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, 4.2), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if chart.logarithmic:
            axes.set_yscale("log")
        place, ticks = 0.0, []
        for group in chart.bars.values():
            ticks.append(place + (len(group) - 1) / 2)
            for name, spread in group.items():
                low, high = spread.median - spread.least, spread.most - spread.median
                axes.bar(
                    place,
                    spread.median,
                    width=0.86,
                    color=colours[name],
                    yerr=[[low], [high]],
                    error_kw={"elinewidth": 0.9, "capsize": 2.5, "ecolor": "#333333"},
                )
                axes.annotate(
                    _label(spread.median),
                    (place, spread.most),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                )
                place += 1
            place += GROUP_GAP
        axes.set_xticks(ticks, chart.bars.keys())
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel(chart.unit + (" (logarithmic)" if chart.logarithmic else ""))
        axes.set_title(chart.title, loc="left")
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        handles = [matplotlib.patches.Patch(color=colour) for colour in colours.values()]
        figure.legend(
            handles,
            list(colours),
            loc="outside lower center",
            ncols=min(len(colours), 6),
            frameon=False,
            fontsize=8,
        )
        canvas.print_svg(file, metadata={"Date": None})
