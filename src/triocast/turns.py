"""Long work in turns: a task that has much to do lets the others run in between.

Nothing in Trio interrupts a task. A loop over as many members, events or documents as clients
like would keep everybody else waiting. So each such loop asks a `Turns` after every piece of its
work, of some microseconds, whether its turn is over::

    turns = Turns()
    for member in list(members):
        await turns.give_if_over()
        ...

What the loop goes over can change wherever it gives a turn.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Final, TypeVar

import trio

T = TypeVar("T")

SLICE_SECONDS: Final = 0.0005
"""How long a task works before it gives others their turn, when they have something to do."""

LONGEST_SLICE_SECONDS: Final = 0.004
"""How long it works when nobody had."""

_BUSY_SECONDS: Final = 0.0001
"""A turn that took longer was used by somebody."""

now: Callable[[], float] = time.perf_counter
"""Seconds by the clock that cuts the turns; tests count pieces of work with one of their own."""


class Turns:
    """Cuts one task's work into slices of time, longer ones while nobody else wants a turn."""

    __slots__ = ("_end", "_length")

    def __init__(self) -> None:
        self._length = SLICE_SECONDS
        self._end = now() + self._length

    def over(self) -> bool:
        """Say whether others should have their turn now."""
        return now() > self._end

    async def give(self) -> None:
        """Let others run, and begin the next slice. A checkpoint."""
        began = now()
        await trio.lowlevel.checkpoint()
        back = now()
        if back - began > _BUSY_SECONDS:
            self._length = SLICE_SECONDS
        else:
            self._length = min(2 * self._length, LONGEST_SLICE_SECONDS)
        self._end = back + self._length

    async def give_if_over(self) -> None:
        """Let others run if it is time. A checkpoint only then."""
        if now() > self._end:
            await self.give()


async def finish(steps: Generator[None, None, T]) -> T:
    """Go through a generator that does a piece of work in each step; return what it returns."""
    turns = Turns()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await turns.give_if_over()


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield items, and let others run between two of them whenever a turn is over.

    ``items`` may be a generator that does a piece of work for each item.
    """
    turns = Turns()
    for item in items:
        await turns.give_if_over()
        yield item
