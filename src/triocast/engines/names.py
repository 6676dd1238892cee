"""Names in their order, found by how they begin."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Final

MAX_PIECE: Final = 1_000
"""Names in one piece; what is inserted moves no more than these."""

_FIRST: Final = itemgetter(0)


class Names:
    """A set of names, none of them empty, that is always in order, whatever comes and goes.

    Adding and removing cost next to nothing, and so does finding where names with a prefix begin.
    """

    __slots__ = ("_pieces",)

    def __init__(self, names: Iterable[str] = ()) -> None:
        ordered = sorted(set(names))
        self._pieces = [ordered[i : i + MAX_PIECE] for i in range(0, len(ordered), MAX_PIECE)]

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, name: str) -> None:
        """Add a name that is not there."""
        if not self._pieces:
            self._pieces.append([name])
            return
        number = self._piece_of(name)
        piece = self._pieces[number]
        insort(piece, name)
        if len(piece) > MAX_PIECE:
            half = len(piece) // 2
            self._pieces[number : number + 1] = [piece[:half], piece[half:]]

    def remove(self, name: str) -> None:
        """Remove a name that is there."""
        number = self._piece_of(name)
        piece = self._pieces[number]
        del piece[bisect_left(piece, name)]
        if not piece:
            del self._pieces[number]

    def behind(self, name: str) -> Iterator[str]:
        """Yield the names behind one, in order, in which names may come and go meanwhile."""
        while self._pieces:
            number = self._piece_of(name)
            piece = self._pieces[number]
            some = piece[bisect_right(piece, name) :]
            if not some:
                if number + 1 == len(self._pieces):
                    return
                some = self._pieces[number + 1].copy()
            yield from some
            name = some[-1]

    def starting_with(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the names that begin with a prefix, in order, behind the name ``after``.

        Names may come and go meanwhile.
        """
        if prefix > after:
            number = self._piece_of(prefix) if self._pieces else 0
            piece = self._pieces[number] if self._pieces else []
            at = bisect_left(piece, prefix)
            if at < len(piece) and piece[at] == prefix:
                yield prefix
            after = prefix
        for name in self.behind(after):
            if not name.startswith(prefix):
                return
            yield name

    def _piece_of(self, name: str) -> int:
        return max(bisect_right(self._pieces, name, key=_FIRST) - 1, 0)
