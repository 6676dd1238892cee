"""What a benchmark hands back: tables, charts, and what makes it invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from benchmarks.figures import Spread


@attrs.frozen
class Table:
    """Rows of finished text under a title; ``about`` is a paragraph between the two."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    about: str = ""


@attrs.frozen
class Chart:
    """Grouped bars: group -> series -> value, with the spread as whiskers.

    ``name`` becomes the file's name, ``unit`` the axis' label. ``logarithmic`` for values that
    differ by orders of magnitude.
    """

    name: str
    title: str
    unit: str
    bars: Mapping[str, Mapping[str, Spread]]
    logarithmic: bool = False


@attrs.frozen
class Result:
    """One benchmark's outcome. Any of ``problems`` makes it invalid.

    ``raw`` is everything that was measured, as JSON has it.
    """

    title: str
    tables: Sequence[Table]
    charts: Sequence[Chart] = ()
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    missing: Sequence[str] = ()
    """What was not measured because this machine lacks it, each with what to do about it."""
    raw: Any = None
