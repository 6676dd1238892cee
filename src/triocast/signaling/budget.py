"""The bytes that all mailboxes may keep together, and who gives way at the bound.

The most goes from whom the most is kept for, within a factor of two: so nobody loses anything to
others for whom more is kept, however many connections and rooms those make. Each change and each
choice takes a time that does not depend on how many mailboxes there are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from triocast.signaling.mailbox import Mailbox

ENTRY_BYTES: Final = 256
"""What a kept message costs besides its text, about."""


class Budget:
    """Counts what is kept. Mailboxes report to it, `Delivery` keeps it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        """Bytes, `ENTRY_BYTES` for each message among them."""
        # By the binary digits of their weights, so that the heaviest are found without a search.
        # Ordered, because a plain dict is slow to find its first after many were taken out.
        self._classes: list[OrderedDict[Mailbox, None]] = []

    def moved(self, mailbox: Mailbox, before: int, after: int) -> None:
        """Be told that a mailbox has got heavier or lighter."""
        self.used += after - before
        old, new = before.bit_length(), after.bit_length()
        if old == new:
            return
        if old:
            del self._classes[old][mailbox]
        if new:
            while len(self._classes) <= new:
                self._classes.append(OrderedDict())
            self._classes[new][mailbox] = None
        while self._classes and not self._classes[-1]:
            self._classes.pop()

    def takes(self, mailbox: Mailbox, weight: int) -> bool:
        """Whether a mailbox may get heavier by this: there is room, or a heavier one makes it."""
        heaviest = len(self._classes) - 1
        is_heaviest = (mailbox.weight + weight).bit_length() >= heaviest
        return self.used + weight <= self._most or not is_heaviest

    def heaviest(self) -> Mailbox | None:
        """Return a mailbox that has to give way now; None if all is within the bound."""
        if self.used <= self._most:
            return None
        return next(iter(self._classes[-1]))
