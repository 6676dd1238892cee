"""How often the users of a room have come to it of late."""

from __future__ import annotations

from typing import Final

PER_SECOND: Final = 2.0
"""Joins of one user to one room, once those that are allowed at once are used up."""


class Comings:
    """What each user has used, as the time at which it is all given back."""

    __slots__ = ("_free_at",)

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._free_at)

    def wait(self, user: str, now: float, *, at_once: int) -> float:
        """Return in how many seconds a user may come; 0 for now."""
        early = self._free_at.get(user, now) - now - (at_once - 1) / PER_SECOND
        return max(0.0, early)

    def note(self, user: str, now: float) -> None:
        """Note that a user has come."""
        # The last to come is the last in the dict, so that those to forget are found in front.
        free_at = max(self._free_at.pop(user, now), now) + 1 / PER_SECOND
        self._free_at[user] = free_at
        while (first := next(iter(self._free_at))) != user and self._free_at[first] <= now:
            del self._free_at[first]
