"""How old what is in a store is, whatever becomes of the time of day.

Idempotency records grow old by the machine's monotonic clock, also from one run to the next. So
when the time of day jumps forward no key is forgotten, and nothing is published twice. Only where
the machine was started anew in between, or the store came from another one, does the time of day
say how much time went by.
"""

from __future__ import annotations

import time
from typing import Final

import attrs

OFFSET: Final = "age_offset"
"""The name under which a store's ``meta`` has `Ages.offset`."""


@attrs.frozen
class Ages:
    """A clock that never goes back, in seconds: ``offset`` and what the monotonic clock says.

    It begins as the time of day, and is not compared with it after that.
    """

    offset: float

    @classmethod
    def continued(cls, offset: float | None, *, newest: float) -> Ages:
        """Return the clock of a store that is opened.

        ``offset`` is that of its last run, None if that was not since this machine's start.
        ``newest`` is when the newest record was made, or 0: no time can have been before it.
        """
        if offset is None:
            offset = time.time() - time.monotonic()
        return cls(max(offset, newest - time.monotonic()))

    def now(self) -> float:
        return self.offset + time.monotonic()
