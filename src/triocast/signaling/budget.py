"""The bytes that all holders may keep together, and who gives way at the bound.

The most goes from whom the most is kept for, within a factor of two: so nobody loses anything to
others for whom more is kept, however many connections and rooms those make. Each change and each
choice takes a time that does not depend on how many holders there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

ENTRY_BYTES: Final = 256
"""What a kept message costs besides its text, about."""


class Holder(Hashable, Protocol):
    """Something that keeps messages, equal only to itself."""

    @property
    def weight(self) -> int:
        """Bytes, and what messages cost besides."""


_Holder = TypeVar("_Holder", bound=Holder)


class Budget(Generic[_Holder]):
    """Counts what is kept. Holders report to it; whoever adds to them asks who gives way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        """The weights of all together."""
        # By the binary digits of their weights, so that the heaviest are found without a search.
        # Ordered, because a plain dict is slow to find its first after many were taken out.
        self._classes: list[OrderedDict[_Holder, None]] = []

    def moved(self, holder: _Holder, before: int, after: int) -> None:
        """Be told that a holder has got heavier or lighter."""
        self.used += after - before
        old, new = before.bit_length(), after.bit_length()
        if old == new:
            return
        if old:
            del self._classes[old][holder]
        if new:
            while len(self._classes) <= new:
                self._classes.append(OrderedDict())
            self._classes[new][holder] = None
        while self._classes and not self._classes[-1]:
            self._classes.pop()

    def takes(self, holder: _Holder, weight: int) -> bool:
        """Whether a holder may get heavier by this: there is room, or a heavier one makes it."""
        heaviest = len(self._classes) - 1
        is_heaviest = (holder.weight + weight).bit_length() >= heaviest
        return self.used + weight <= self._most or not is_heaviest

    def heaviest(self) -> _Holder | None:
        """Return a holder that has to give way now; None if all is within the bound."""
        if self.used <= self._most:
            return None
        return next(iter(self._classes[-1]))
