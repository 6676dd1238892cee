"""Who was there, and what others must have been told of it and when.

A member comes in the moment in which its first connection does. It is gone when it has had none
for the time of grace.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence

import attrs
import pytest

from triocast.events import Event, presence_channel
from triocast.presence import JOIN, LEAVE

from .observing import Move

GRACE_SECONDS = 2.45
"""Of no number of whole pauses: who comes back just then may be told of or not."""

Member = tuple[str, str]
"""A channel of presence and a member's key."""


@attrs.define
class Stay:
    """A time for which a member was there; ``until`` is infinite if it still is."""

    since: float
    until: float = math.inf


def member_of(move: Move) -> Member:
    if move.user is not None:
        key = f"user:{move.user}"
    else:
        key = f"anonymous:{hashlib.sha256(move.id.encode()).hexdigest()[:16]}"
    return presence_channel(move.channel), key


def stays(moves: Iterable[Move]) -> dict[Member, list[Stay]]:
    """Return when members were there by at least one of their connections."""
    found: dict[Member, list[Stay]] = {}
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


def check_told(moves: Iterable[Move], told: Sequence[tuple[Event, float]], end: float) -> None:
    """Check that by ``end`` each coming and each going was told of, once and in time."""
    by_member: dict[Member, list[tuple[str, float]]] = {}
    for event, at in told:
        assert event.key is not None
        by_member.setdefault((event.channel, event.key), []).append((event.type, at))
    for member, its in stays(moves).items():
        was_told = by_member.pop(member, [])
        expected = _expected(its, was_told, end)
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
        if later.since - earlier.until < GRACE_SECONDS:
            visits[-1].append(later)
        else:
            visits.append([later])
    expected = []
    for visit in visits:
        since, until = visit[0].since, visit[-1].until
        came = [stay.since for stay in visit if stay.until > stay.since]
        came += [at for kind, at in was_told if kind == JOIN and since <= at <= until]
        if came:
            expected.append((JOIN, min(came)))
            if until + GRACE_SECONDS <= end:
                expected.append((LEAVE, until + GRACE_SECONDS))
    return expected
