"""What the parts did, noted where it happened."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from triocast.engines.debounce import Debounce
from triocast.events import Event, Position, Publication
from triocast.hub import Hub
from triocast.subscriptions import EVERYTHING, Filter, Subscriber

from .steps import NAMESPACES


@attrs.frozen
class Change:
    """What a subscriber listens to from here on.

    The hub was given events up to ``live``, and has given those up to ``written`` to everybody.
    """

    names: Sequence[str]
    filter: Filter | None
    """None where it leaves these names."""
    live: int
    written: int


@attrs.frozen
class Move:
    """Somebody begins to listen to a channel of presence, or does not any more."""

    at: float
    channel: str
    id: str
    user: str | None
    is_there: bool


class ObservedHub(Hub):
    """Notes each change of a subscription, in the order in which the replies go out."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.changes: dict[str, list[Change]] = {}
        self.moves: list[Move] = []

    def _note(self, id: str, names: Sequence[str], filter: Filter | None, live: Position) -> None:
        change = Change(tuple(names), filter, live.seq, self.written.seq)
        self.changes.setdefault(id, []).append(change)

    def _move(self, subscriber: Subscriber, names: Sequence[str], *, is_there: bool) -> None:
        now = trio.current_time()
        self.moves += [
            Move(now, name, subscriber.id, subscriber.user, is_there)
            for name in names
            if NAMESPACES.of_channel(name).presence and not name.endswith("*")
        ]

    def add(self, subscriber: Subscriber, filter: Filter = EVERYTHING) -> Position:
        live = super().add(subscriber, filter)
        own = ["$all"] if subscriber.user is None else ["$all", f"$user:{subscriber.user}"]
        self._note(subscriber.id, own, filter, live)
        return live

    def remove(self, subscriber: Subscriber) -> None:
        self._move(subscriber, self.subscriptions(subscriber), is_there=False)
        super().remove(subscriber)

    def subscribe(
        self, subscriber: Subscriber, names: Sequence[str], filter: Filter = EVERYTHING
    ) -> Position:
        live = super().subscribe(subscriber, names, filter)
        self._note(subscriber.id, names, filter, live)
        self._move(subscriber, names, is_there=True)
        return live

    def unsubscribe(self, subscriber: Subscriber, names: Sequence[str]) -> None:
        super().unsubscribe(subscriber, names)
        self._note(subscriber.id, names, None, self.accepted)
        self._move(subscriber, names, is_there=False)


class ObservedDebounce(Debounce):
    """Notes the order in which an engine takes events, and when."""

    def __init__(self) -> None:
        lengths = {name: options.debounce_ms for name, options in NAMESPACES.items()}
        super().__init__(0, {name: ms / 1_000 for name, ms in lengths.items() if ms is not None})
        self.added: list[tuple[Event, float]] = []
        self._unsettled: list[tuple[Event, float]] = []

    def add(self, event: Event, now: float) -> tuple[Event, ...]:
        self._unsettled.append((event, now))
        return super().add(event, now)

    def settle(self) -> None:
        super().settle()
        self.added += self._unsettled
        self._unsettled = []

    def undo(self) -> None:
        self._unsettled = []
        super().undo()


class Accepted:
    """All that was accepted, as an outlet of the engine has it: the model's plain list."""

    has_room = True

    def __init__(self) -> None:
        self.list: list[Publication] = []
        self.times: list[float] = []
        self.version = 0
        """The newest version of a document that was told of."""

    async def wait_for_room(self) -> None:
        raise NotImplementedError

    def put(self, publications: Sequence[Publication]) -> None:
        self.list += publications
        self.times += [trio.current_time()] * len(publications)
        self.version = max([self.version, *(each.event.version or 0 for each in publications)])
