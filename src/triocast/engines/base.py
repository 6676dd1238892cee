"""The contract of engines.

An engine gives each event its place in one order, keeps it for a while, and spreads it to the
hub of every process that shares the engine. What each promises:

- ``publish`` is all or nothing. When it returns, the events are accepted: they have consecutive
  ``seq`` within the engine's ``epoch``, they are in history, and they are on their way to every
  attached outlet in the order of ``seq``.
- ``prev`` of a publication is the ``seq`` of the one before it in its channel.
- ``history`` answers from one moment: the publications of channels and patterns after a ``seq``, in
  order, and each name's floor, the highest ``seq`` that retention removed there. A reader whose
  position is below a channel's floor has missed something for good.
- ``latest`` answers from one moment, too: the newest kept publication of each key of each channel;
  those without a key count as one.
- A ``seq`` that has been given is never given again in the same epoch. A store that lost its past
  begins a new epoch.
- An event with ``once`` that has been accepted before, for the same publisher under the same key,
  is not accepted again: its first position is returned. With another digest nothing is accepted,
  and IdempotencyConflict raised. The record of it is kept together with the event, for a time.
- Events to one connection (``$conn:<id>``) are spread but not kept.
- An event that comes too fast may be held back (see `debounce`): it is `Pending`, gets its ``seq``
  later, and is dropped if a later one takes its place. What is held outlives what events outlive;
  it is accepted before anything else when the engine runs again.
- An event's ``write`` and its acceptance are one step, whether it is held back or not. Where the
  document is not at the version that the write expects nothing is accepted, and VersionConflict
  raised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

import attrs
import trio

from triocast.documents import Document
from triocast.engines.usage import Usage
from triocast.events import Accepted, Event, Position, Publication


class Outlet(Protocol):
    """Where an engine spreads what it accepted: the hub's inbox, bounded in bytes."""

    @property
    def has_room(self) -> bool:
        """Whether the outlet is below its bound."""

    async def wait_for_room(self) -> None:
        """Return when the outlet is below its bound. The caller owns the deadline."""

    def put(self, publications: Sequence[Publication]) -> None:
        """Take accepted publications, in order. Never refuses: ask `wait_for_room` before."""


@attrs.frozen
class History:
    """An answer of `Engine.history`.

    ``publications`` are in the order of ``seq``. ``floors`` has every name that was asked for; of a
    pattern it is the highest floor of all channels that it covers, those forgotten included, or
    any number up to ``after`` where that is not above ``after``. ``head`` is the position of the
    last event that the engine had accepted at the moment that this answers for: neither
    ``publications`` nor ``floors`` are above it, and nothing up to it is missing but what the
    floors tell of. ``complete`` is false if ``limit`` cut the publications off; unless that is 0,
    there is at least one then.
    """

    publications: tuple[Publication, ...]
    floors: Mapping[str, int]
    head: Position
    complete: bool


@attrs.frozen
class Documents:
    """Documents of a channel in the order of their keys.

    Whoever listens behind ``head`` hears of everything that was written after these were read.
    They are at ``version`` or newer, all of the channel: an event with a higher one may not be in
    them yet. ``complete`` is false if there are more behind the last one. ``count`` is how many the
    channel has at the moment that ``documents`` are of; None if nobody asked for it.
    """

    documents: tuple[Document, ...]
    head: Position
    version: int
    complete: bool
    count: int | None = None


def spread(outlets: Iterable[Outlet], publications: Sequence[Publication]) -> None:
    """Give accepted publications to all outlets.

    Raises the first outlet's error when all of them have been tried. An engine that meets one has
    to end: not everybody has heard of what it accepted.
    """
    errors: list[Exception] = []
    for outlet in outlets:
        try:
            outlet.put(publications)
        except Exception as error:  # noqa: BLE001  # it is raised below
            errors.append(error)
    if errors:
        raise errors[0]


class Engine(ABC):
    """What every engine can do; the module's docstring says what it promises."""

    damaged: int = 0
    """How many kept rows could not be read, since the start. Whoever misses one is told."""

    most_together: ClassVar[int] = 64
    """How many events of a stream are best published together: more take longer to be spread."""

    @property
    @abstractmethod
    def head(self) -> Position:
        """The position of the last accepted event; ``seq`` 0 before the first."""

    @property
    @abstractmethod
    def merged(self) -> int:
        """How many events were held back and then dropped for a later one, since the start."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """What is kept now. Each kind has bounds of its own, and none evicts another."""

    async def run(self) -> None:
        """Do the engine's work until cancelled. Events are accepted only while this runs."""
        await trio.sleep_forever()

    @abstractmethod
    def close(self) -> None:
        """Let go of what the engine has open, after `run` has ended."""

    async def trim(self) -> None:
        """Remove now what retention removes in its own time."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    def attach(self, outlet: Outlet) -> None:
        """Spread everything accepted from now on to this outlet, too."""

    @abstractmethod
    def detach(self, outlet: Outlet) -> None:
        """Stop spreading to this outlet."""

    @property
    def has_room(self) -> bool:
        """Whether an event can be taken now: neither the engine nor an outlet is at its bound."""
        return True

    @abstractmethod
    async def publish(self, events: Sequence[Event]) -> tuple[Accepted, ...]:
        """Accept all of the events, or none, and return what became of them.

        Waits while an attached outlet is at its bound; cancelling then publishes nothing.
        """

    @abstractmethod
    async def history(
        self,
        names: Sequence[str],
        *,
        after: int,
        limit: int,
        before: int | None = None,
        newest: bool = False,
    ) -> History:
        """Return what channels and patterns had after ``seq`` ``after``, and below ``before``.

        If that is more than ``limit`` publications, the oldest of them, or the ``newest``.
        """

    @abstractmethod
    async def latest(
        self, names: Sequence[str], *, limit: int, limit_bytes: int
    ) -> tuple[Publication, ...] | None:
        """Return the newest publication of each key of each channel, in the order of ``seq``.

        None if there are more than ``limit``, or their data has more bytes than ``limit_bytes``.
        """

    @abstractmethod
    async def document(self, channel: str, key: str) -> Document | None:
        """Return a document as it is now; None if there is none."""

    @abstractmethod
    async def documents(
        self,
        channel: str,
        *,
        after: str = "",
        limit: int,
        limit_bytes: int,
        counted: bool = False,
    ) -> Documents:
        """Return documents of a channel behind the key ``after``; at least one, if there is one.

        ``counted`` asks for the ``count``, too, which may cost more than a page.
        """

    @abstractmethod
    async def document_channels(self, prefix: str) -> tuple[str, ...]:
        """Return the channels that have documents and begin with this, in order."""

    @abstractmethod
    async def forget(self, channels: Sequence[str]) -> int:
        """Remove all events that channels have now; return how many that was.

        Documents stay.

        It cannot be read any more on return, and the channels' floors tell that it is missing.
        """

    @abstractmethod
    async def check_health(self) -> None:
        """Return if the engine can accept events now. Raises Unavailable with the reason."""
