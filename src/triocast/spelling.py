"""What somebody may have meant by a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_NAME = 64
"""Characters of a name that are looked at and quoted: what clients send can be of any length."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that this one is most like; None if it is like none."""
    spelled = {candidate.lower(): candidate for candidate in known}
    asked = name[:MAX_NAME].lower().replace("-", "_").removesuffix("[]")
    close = difflib.get_close_matches(asked, spelled, n=1)
    return spelled[close[0]] if close else None


def unknown(name: str, known: Iterable[str]) -> str:
    """Return a sentence's rest about a name: that it is not known, and what may have been meant."""
    names = sorted(known)
    close = nearest(name, names)
    if close is not None:
        hint = f"did you mean {close!r}?"
    else:
        hint = f"there are {', '.join(names)}" if names else "there are none"
    return f"{name[:MAX_NAME]!r} is not known here; {hint}"
