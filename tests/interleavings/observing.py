"""What the hub and the engine did, noted where it happened."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from triocast.events import Position, Publication
from triocast.hub import Hub
from triocast.subscriptions import EVERYTHING, Filter, Subscriber


@attrs.frozen
class Change:
    """What a subscriber listens to from here on; ``written`` is how far the hub was."""

    names: Sequence[str]
    filter: Filter | None
    """None where it leaves these names."""
    live: int
    written: int


class ObservedHub(Hub):
    """Notes each change of a subscription, in the order in which the replies go out."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.changes: dict[str, list[Change]] = {}

    def _note(self, id: str, names: Sequence[str], filter: Filter | None, live: Position) -> None:
        change = Change(tuple(names), filter, live.seq, self.written.seq)
        self.changes.setdefault(id, []).append(change)

    def add(self, subscriber: Subscriber, filter: Filter = EVERYTHING) -> Position:
        live = super().add(subscriber, filter)
        own = ["$all"] if subscriber.user is None else ["$all", f"$user:{subscriber.user}"]
        self._note(subscriber.id, own, filter, live)
        return live

    def subscribe(
        self, subscriber: Subscriber, names: Sequence[str], filter: Filter = EVERYTHING
    ) -> Position:
        live = super().subscribe(subscriber, names, filter)
        self._note(subscriber.id, names, filter, live)
        return live

    def unsubscribe(self, subscriber: Subscriber, names: Sequence[str]) -> None:
        super().unsubscribe(subscriber, names)
        self._note(subscriber.id, names, None, self.accepted)


class Accepted:
    """All that was accepted, as an outlet of the engine has it: the model's plain list."""

    has_room = True

    def __init__(self) -> None:
        self.list: list[Publication] = []

    async def wait_for_room(self) -> None:
        raise NotImplementedError

    def put(self, publications: Sequence[Publication]) -> None:
        self.list += publications
