"""Who offers, for each pair of peers.

The newcomer begins towards everybody who is there: the server's order of joins decides, so no two
first offers ever meet. Later offers may come from both sides where one of them can roll back
("perfect negotiation"): that one is polite. Where none can, the pair is strict: its initiator
alone offers, and the other asks for it with ``renegotiate``.

A pair is made once, when the later of the two joins, and remembered until one has left for good:
nothing that happens to connections in between changes it.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

import attrs

ROLLBACK: Final = "rollback"

SESSIONS_APART: Final = 1_000
"""Between the first sessions of two pairs. An initiator counts on by itself: what it sent to a
peer that has left, and was made anew under the same id, must not look like the new pair's."""


def next_session(last: int) -> int:
    """Return the first session of a pair, beyond ``last`` and those on their way."""
    return (last // SESSIONS_APART + 1) * SESSIONS_APART + 1


@attrs.define
class Pair:
    """What is agreed between two peers.

    ``polite`` is the one that gives way when two offers meet, None where only the initiator may
    offer. ``session`` numbers their RTCPeerConnections: messages of an earlier one are stale.
    ``answered`` says whether the session's first offer has been answered.
    """

    initiator: str
    responder: str
    polite: str | None
    session: int
    answered: bool = False

    @property
    def strict(self) -> bool:
        """Whether the initiator alone may ever offer."""
        return self.polite is None

    def may_offer(self, peer: str) -> bool:
        """Whether an offer of this side is in order now.

        The responder waits until it has answered the first one: rolling back a first offer
        leaves some browsers without a connection, and without an error.
        """
        return peer == self.initiator or (not self.strict and self.answered)

    def accepts_session(self, peer: str, session: int, *, is_offer: bool) -> bool:
        """Whether a message of this side belongs to the session, or may begin the next one."""
        begins = is_offer and peer == self.initiator and session == self.session + 1
        return begins or session == self.session

    def note_offer(self, session: int) -> None:
        """Note that an offer of this session was made."""
        if session > self.session:
            self.session = session
            self.answered = False

    def note_answer(self, peer: str) -> None:
        """Note that this side has answered."""
        if peer == self.responder:
            self.answered = True


def pair_up(
    elder: str,
    elder_can: Set[str],
    newcomer: str,
    newcomer_can: Set[str],
    *,
    session: int,
) -> Pair:
    """Return the pair of a peer that was there and one that joins, with their capabilities.

    ``session`` is a number that no earlier pair of these two has had.
    """
    if ROLLBACK in elder_can:
        polite: str | None = elder
    elif ROLLBACK in newcomer_can:
        polite = newcomer
    else:
        polite = None
    return Pair(initiator=newcomer, responder=elder, polite=polite, session=session)
