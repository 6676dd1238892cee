"""Who may not come back to which room, until when."""

from __future__ import annotations


class Bans:
    """At most ``most`` of them; beyond it the one goes that would end first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._until: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, room: str, subject: str, *, until: float, now: float) -> None:
        self._until[room, subject] = until
        if len(self._until) > self._most:
            self.forget_old(now)
        if len(self._until) > self._most:
            del self._until[min(self._until, key=self._until.__getitem__)]

    def remove(self, room: str, subject: str) -> None:
        self._until.pop((room, subject), None)

    def until(self, room: str, subject: str, *, now: float) -> float | None:
        """Return when the ban ends, None if there is none."""
        until = self._until.get((room, subject))
        return None if until is None or until <= now else until

    def forget_old(self, now: float) -> None:
        for key in [key for key, until in self._until.items() if until <= now]:
            del self._until[key]
