"""What is wrong with a setting, told so that it can be mended without reading the source."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from triocast.spelling import nearest


@attrs.frozen
class Problem:
    """One wrong setting.

    ``name`` is the setting, ``source`` where its value came from, ``problem`` what is wrong
    with it and ``fix`` what to do. ``related`` names other settings that have a part in it.
    The value of a secret appears in none of them.
    """

    name: str
    source: str
    problem: str
    fix: str
    related: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} (from {self.source}): {self.problem}\n    Fix: {self.fix}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Say what to do about a name that nobody knows."""
    close = nearest(name, known)
    return "remove it" if close is None else f"did you mean {close}?"


class SettingsError(Exception):
    """The settings do not allow a start; ``problems`` are all that were found, at least one."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        count = len(self.problems)
        head = "1 setting is wrong:" if count == 1 else f"{count} settings are wrong:"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])
