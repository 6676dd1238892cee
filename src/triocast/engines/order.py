"""Publications in the order of their ``seq``, read from any place on, forward and backward.

What is read may change meanwhile: readers find their place again. So nobody has to hold others up
while reading.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from operator import attrgetter
from typing import Any, Final, TypeVar

import attrs

from triocast.events import Publication

MAX_PIECE: Final = 512
"""Publications in one piece; no operation handles more in one go."""

SWEEPS: Final = 4
"""Pieces that are swept for each new one: more goes than comes."""

SEQ: Final[Callable[[Publication], int]] = attrgetter("position.seq")

T = TypeVar("T")


@attrs.define(eq=False)
class Queue:
    """Publications that go in the order in which they came."""

    _items: list[Publication] = attrs.field(factory=list, init=False)
    _start: int = attrs.field(default=0, init=False)  # What is before it has gone.

    def __len__(self) -> int:
        return len(self._items) - self._start

    @property
    def first(self) -> Publication:
        return self._items[self._start]

    def append(self, publication: Publication) -> None:
        self._items.append(publication)

    def popleft(self) -> Publication:
        items, start = self._items, self._start
        gone = items[start]
        items[start] = _GONE
        start += 1
        if 2 * start > len(items):
            del items[:start]
            start = 0
        self._start = start
        return gone

    def forward(self, after: int) -> Iterator[Publication]:
        """Yield what is behind a ``seq``, the oldest first."""
        while True:
            begin = bisect_right(self._items, after, lo=self._start, key=SEQ)
            some = self._items[begin : begin + MAX_PIECE]
            if not some:
                return
            yield from some
            after = SEQ(some[-1])

    def backward(self, before: int) -> Iterator[Publication]:
        """Yield what is before a ``seq``, the newest first."""
        while True:
            end = bisect_left(self._items, before, lo=self._start, key=SEQ)
            some = self._items[max(end - MAX_PIECE, self._start) : end]
            if not some:
                return
            yield from reversed(some)
            before = SEQ(some[0])


_GONE: Final[Any] = None
"""Stands where a publication was."""


class Order:
    """Publications of many channels. Those that are gone stay until they are swept.

    ``is_kept`` says which are not gone.
    """

    __slots__ = ("_firsts", "_is_kept", "_pieces", "_sweeps", "_tail", "count")

    def __init__(self, is_kept: Callable[[Publication], bool]) -> None:
        self.count = 0
        """How many there are, with those that are gone, but for the last piece."""
        self._is_kept = is_kept
        self._pieces: list[list[Publication]] = []
        self._firsts: list[int] = []  # No piece begins before it, nor the one before it ends after.
        self._tail: list[Publication] = []
        self._sweeps = 0

    def append(self, publication: Publication, kept: int) -> None:
        """Add what is newest; ``kept`` is how many are not gone."""
        tail = self._tail
        if not tail or len(tail) >= MAX_PIECE:
            tail = self._begin(publication, kept)
        tail.append(publication)

    def _begin(self, publication: Publication, kept: int) -> list[Publication]:
        self.count += len(self._tail)
        self._tail = []
        self._pieces.append(self._tail)
        self._firsts.append(SEQ(publication))
        for _ in range(SWEEPS):
            if self.count > 2 * kept + MAX_PIECE:
                self._sweep()
        return self._tail

    def popleft(self) -> Publication:
        """Remove and return the oldest, which may be gone."""
        piece = self._pieces[0]
        oldest = piece.pop(0)
        if piece is not self._tail:
            self.count -= 1
        if not piece:
            del self._pieces[0], self._firsts[0]
        return oldest

    def trim(self, seq: int) -> None:
        """Throw out pieces of which nothing is behind a ``seq``: all up to there has gone."""
        while self._pieces and self._pieces[0][-1].position.seq <= seq:
            if self._pieces[0] is self._tail:
                return
            self.count -= len(self._pieces[0])
            del self._pieces[0], self._firsts[0]

    def _sweep(self) -> None:
        """Throw out what is gone of one piece, of another one each time."""
        pieces, number = self._pieces, self._sweeps
        if number >= len(pieces) - 1:
            self._sweeps = number = 0
        piece = pieces[number]
        if piece is self._tail:
            return
        kept = list(filter(self._is_kept, piece))
        self.count -= len(piece) - len(kept)
        if number and len(pieces[number - 1]) + len(kept) <= MAX_PIECE:
            pieces[number - 1] += kept
            kept = []
        if kept:
            pieces[number] = kept
            self._sweeps += 1
        else:
            del pieces[number], self._firsts[number]

    def forward(self, after: int) -> Iterator[Publication]:
        """Yield what is behind a ``seq``, the oldest first, with what is gone."""
        while True:
            number = max(bisect_right(self._firsts, after) - 1, 0)
            if number < len(self._pieces) and SEQ(self._pieces[number][-1]) <= after:
                number += 1
            if number >= len(self._pieces):
                return
            piece = self._pieces[number]
            some = piece[bisect_right(piece, after, key=SEQ) :]
            yield from some
            after = SEQ(some[-1])

    def backward(self, before: int) -> Iterator[Publication]:
        """Yield what is before a ``seq``, the newest first, with what is gone."""
        while (number := bisect_left(self._firsts, before) - 1) >= 0:
            piece = self._pieces[number]
            some = piece[: bisect_left(piece, before, key=SEQ)]
            yield from reversed(some)
            before = SEQ(some[0]) if some else self._firsts[number]


def merge(
    sources: Iterable[Iterator[T | None]], place: Callable[[T], int], *, newest: bool
) -> Iterator[T | None]:
    """Yield what sources have in one order, by its place, each once; ``newest`` goes downward.

    None stands for work that has found nothing, in sources as in what is yielded.
    """
    sign = -1 if newest else 1
    heap: list[tuple[int, int, T, Iterator[T | None]]] = []
    for number, source in enumerate(sources):
        for item in source:
            if item is not None:
                heap.append((sign * place(item), number, item, source))
                break
            yield None
    heapify(heap)
    last: int | None = None
    while heap:
        at, number, first, source = heap[0]
        if at != last:
            yield first
            last = at
        if len(heap) == 1:
            yield from source
            return
        for item in source:
            if item is not None:
                heapreplace(heap, (sign * place(item), number, item, source))
                break
            yield None
        else:
            heappop(heap)
