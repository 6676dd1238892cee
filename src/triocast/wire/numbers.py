"""Whole numbers as clients write them in queries and headers."""

from __future__ import annotations

from typing import Final

MAX_DIGITS: Final = 20
"""More digits have no use here, and Python refuses to read some thousands of them."""


def parse_whole(text: str, *, most: int, least: int = 0) -> int | None:
    """Return the number that a text of ASCII digits is; None if it is none, or out of bounds."""
    if len(text) > MAX_DIGITS or not (text.isascii() and text.isdecimal()):
        return None
    number = int(text)
    return number if least <= number <= most else None
