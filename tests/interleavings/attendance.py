"""Who was there, and what others must have been told of it and when.

A member comes in the moment in which its first connection does. It is gone when it has had none
for the time of grace. Those of a process that ended are gone when they have not come back to the
next one for a longer time.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
import pytest

from triocast.events import Event, presence_channel
from triocast.presence import JOIN, LEAVE

from .observing import Move

GRACE_SECONDS = 2.45
"""Of no number of whole pauses: who comes back just then may be told of or not."""

RETURN_SECONDS = 3.35
"""How long those of an earlier process have to come back."""

TOLERANCE = 1e-6

Member = tuple[str, str]
"""A channel of presence and a member's key."""


@attrs.define
class Stay:
    """A time for which a member was there; ``until`` is infinite if it still is.

    One ``of_before`` was there when an earlier process ended, as others know.
    """

    since: float
    until: float = math.inf
    of_before: bool = False

    @property
    def gone_at(self) -> float:
        """When others are told, if it does not come back."""
        return self.until + (RETURN_SECONDS if self.of_before else GRACE_SECONDS)


def key_of(id: str, user: str | None) -> str:
    """Return the key of the member that a connection is of."""
    if user is not None:
        return f"user:{user}"
    return f"anonymous:{hashlib.sha256(id.encode()).hexdigest()[:16]}"


def member_of(move: Move) -> Member:
    return presence_channel(move.channel), key_of(move.id, move.user)


def stays(
    moves: Iterable[Move], *, of_before: Iterable[Member] = (), born: float = 0.0
) -> dict[Member, list[Stay]]:
    """Return when members were there by at least one of their connections.

    Those ``of_before`` were there when an earlier process ended, and this one was born.
    """
    found = {member: [Stay(born, born, of_before=True)] for member in of_before}
    there: dict[Member, set[str]] = {}
    for move in moves:
        member = member_of(move)
        connections = there.setdefault(member, set())
        was_there = bool(connections)
        (connections.add if move.is_there else connections.discard)(move.id)
        if connections and not was_there:
            found.setdefault(member, []).append(Stay(move.at))
        elif was_there and not connections:
            found[member][-1].until = move.at
    return found


def check_told(
    stays_of: Mapping[Member, Sequence[Stay]],
    told: Sequence[tuple[Event, float]],
    end: float,
    *,
    is_cut: bool = False,
) -> None:
    """Check that by ``end`` each coming and each going was told of, once and in time.

    Where the process is cut off then, what was to be told in that moment may be told or not.
    """
    by_member: dict[Member, list[tuple[str, float]]] = {}
    for event, at in told:
        assert event.key is not None
        by_member.setdefault((event.channel, event.key), []).append((event.type, at))
    for member, its in stays_of.items():
        was_told = by_member.pop(member, [])
        expected = _expected(its, was_told, end)
        if is_cut:
            due = sum(at < end - TOLERANCE for _, at in expected)
            expected = expected[: max(due, len(was_told))]
        assert [kind for kind, _ in was_told] == [kind for kind, _ in expected], (member, its)
        assert [at for _, at in was_told] == pytest.approx([at for _, at in expected]), member
    assert not by_member, f"nobody came: {by_member}"


def _expected(
    its: Sequence[Stay], was_told: Sequence[tuple[str, float]], end: float
) -> list[tuple[str, float]]:
    """Return what others must have been told of one member.

    Who comes and goes in the same moment may be told of or not.
    """
    visits = [[its[0]]]
    for earlier, later in itertools.pairwise(its):
        if later.since < earlier.gone_at:
            visits[-1].append(later)
        else:
            visits.append([later])
    expected = []
    for visit in visits:
        since, last = visit[0].since, visit[-1]
        came = [stay.since for stay in visit if stay.until > stay.since]
        came += [at for kind, at in was_told if kind == JOIN and since <= at <= last.until]
        is_known = visit[0].of_before
        if came and not is_known:
            expected.append((JOIN, min(came)))
        if (came or is_known) and last.gone_at <= end:
            expected.append((LEAVE, last.gone_at))
    return expected
