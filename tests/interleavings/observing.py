"""What the parts did, noted where it happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from triocast.engines.debounce import Debounce
from triocast.events import Event, Position, Publication, is_connection_channel, namespace_of
from triocast.hub import Hub
from triocast.subscriptions import EVERYTHING, Filter, Subscriber

from .steps import NAMESPACES

if TYPE_CHECKING:
    from .stores import Kept


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
        self.fault: Exception | None = None
        """What is raised when it is given something."""

    def put(self, publications: Sequence[Publication]) -> None:
        if self.fault is not None:
            raise self.fault
        super().put(publications)

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
        self._added: list[tuple[Event, float]] = []
        self._unsettled: list[tuple[Event, float]] = []
        self._are_unsettled_kept = False

    def add(self, event: Event, now: float) -> tuple[Event, ...]:
        self._unsettled.append((event, now))
        return super().add(event, now)

    def settle(self) -> None:
        super().settle()
        self._added += self._unsettled
        self._unsettled = []
        self._are_unsettled_kept = False

    def undo(self) -> None:
        self._unsettled = []
        super().undo()

    def note_kept(self) -> None:
        """Be told that the store has kept what is not settled yet."""
        self._are_unsettled_kept = True

    def taken(self) -> tuple[list[tuple[Event, float]], int]:
        """Return the events that the engine has taken for good, and how many it dropped."""
        if self._are_unsettled_kept:
            return [*self._added, *self._unsettled], self.merged
        return [*self._added], self._merged_before


LOST = "lost"


def is_lost(publication: Publication) -> bool:
    """Say whether nothing but the place of an event is known; see `Accepted`."""
    return publication.event.type == LOST


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

    def find_what_was_not_told(self, head: Position, kept: Kept) -> None:
        """Add what a killed process had kept, but not spread any more; check what it left.

        Of events to one connection, which are not kept, nothing but their place is known.
        """
        assert head.seq >= len(self.list), "what was spread is not kept"
        by_seq = {publication.seq: publication for publication in kept.publications}
        for publication in self.list:
            channel = publication.event.channel
            floor = max(
                kept.channel_floors.get(channel, 0),
                kept.namespace_floors.get(namespace_of(channel), 0),
            )
            found = by_seq.get(publication.seq)
            assert found == publication or (
                found is None and (is_connection_channel(channel) or publication.seq <= floor)
            ), f"it was spread, but not kept: {publication}"
        for seq in range(len(self.list) + 1, head.seq + 1):
            lost = Publication(
                Event(type=LOST, data=b'{"n": null}', channel="$conn:lost", timestamp=""),
                Position(head.epoch, seq),
                prev=0,
            )
            self.put([by_seq.get(seq, lost)])
