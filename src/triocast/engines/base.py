"""The contract of engines.

An engine gives each event its place in one order, keeps it for a while, and spreads it to the
hub of every process that shares the engine. What each promises:

- ``publish`` is all or nothing. When it returns, the events are accepted: they have consecutive
  ``seq`` within the engine's ``epoch``, they are in history, and they are on their way to every
  attached outlet in the order of ``seq``.
- ``prev`` of a publication is the ``seq`` of the one before it in its channel.
- ``history`` answers from one moment: the publications of the channels after a ``seq``, in order,
  and each channel's floor, the highest ``seq`` that retention removed. A reader whose position is
  below a channel's floor has missed something for good.
- A ``seq`` that has been given is never given again in the same epoch. A store that lost its past
  begins a new epoch.
- Events to one connection (``$conn:<id>``) are spread but not kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from triocast.events import Event, Position, Publication


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

    ``publications`` are in the order of ``seq``. ``floors`` has every channel that was asked for.
    ``head`` is the position of the last event that the engine had accepted. ``complete`` is false
    if ``limit`` cut the publications off.
    """

    publications: tuple[Publication, ...]
    floors: Mapping[str, int]
    head: Position
    complete: bool


class Engine(ABC):
    """What every engine can do; the module's docstring says what it promises."""

    @property
    @abstractmethod
    def head(self) -> Position:
        """The position of the last accepted event; ``seq`` 0 before the first."""

    @abstractmethod
    def attach(self, outlet: Outlet) -> None:
        """Spread everything accepted from now on to this outlet, too."""

    @abstractmethod
    def detach(self, outlet: Outlet) -> None:
        """Stop spreading to this outlet."""

    @abstractmethod
    async def publish(self, events: Sequence[Event]) -> tuple[Publication, ...]:
        """Accept all of the events, or none, and return them with their positions.

        Waits while an attached outlet is at its bound; cancelling then publishes nothing.
        """

    @abstractmethod
    async def history(self, channels: Sequence[str], *, after: int, limit: int) -> History:
        """Return what the channels had after ``seq`` ``after``, ``limit`` publications at most."""

    @abstractmethod
    async def check_health(self) -> None:
        """Return if the engine can accept events now. Raises Unavailable with the reason."""
