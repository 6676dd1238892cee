"""How long events are kept: by number and age, for each namespace."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from triocast.events import namespace_of


@attrs.frozen
class Keep:
    """What is kept of a channel: its last events, none older than ``seconds``, of at most ``size``
    bytes; 0 is any age and size.
    """

    events: int
    seconds: float = 0
    size: int = 0


class Retention:
    """What is kept of each channel: ``usual``, where its namespace has no rule of its own."""

    def __init__(self, usual: Keep, namespaces: Mapping[str, Keep] | None = None) -> None:
        self._usual = usual
        self._namespaces = dict(namespaces or {})
        self.by_age = any(keep.seconds for keep in (usual, *self._namespaces.values()))
        """Whether anything goes by its age."""

    def of(self, channel: str) -> Keep:
        """Return what is kept of a channel."""
        if not self._namespaces:
            return self._usual
        return self._namespaces.get(namespace_of(channel), self._usual)
