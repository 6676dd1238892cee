"""Where a subscription begins, if not now: behind a cursor, or with the state for a newcomer.

Clients say it by a cursor, ``since=latest`` or ``last=n``. A cursor outweighs the others: a browser
comes back to the very address that it began with, and the cursor says what it has got meanwhile.
"""

from __future__ import annotations

from typing import Final

import attrs

from triocast.errors import BadRequest, InvalidCursor
from triocast.events import Position
from triocast.wire import cursor

MOST_LAST: Final = 1_000
"""Events that a newcomer may ask for of each channel."""

SHARD: Final = 0
"""The one shard there is."""


@attrs.frozen
class After:
    """From a cursor on; None for one that tells nothing about this server's events."""

    position: Position | None


@attrs.frozen
class Latest:
    """The newest event of each key of each channel."""


@attrs.frozen
class Last:
    """The last events of each channel or pattern, ``count`` at the most."""

    count: int


Start = After | Latest | Last


def standing(start: Start | None, live: Position) -> Position | None:
    """Return where a client stands that begins there: the cursor that it is told at first.

    None if it has not got yet what would make it stand somewhere: the state that it asked for, or
    what fills its gap. ``live`` is where its subscription begins.
    """
    if start is None:
        return live
    return start.position if isinstance(start, After) else None


def parse_cursor(text: str) -> After:
    """Return where a cursor is. Raises InvalidCursor."""
    for standing in cursor.decode(text):
        if standing.shard == SHARD:
            return After(standing.position)
    return After(None)


def parse_foreign_cursor(text: str) -> After:
    """Return where a cursor is; also of text that this server did not write.

    For what browsers and polyfills send by themselves, which nobody can mend: they would send the
    same text for ever.
    """
    try:
        return parse_cursor(text)
    except InvalidCursor:
        return After(None)


def parse_state(since: str | None, last: int | None) -> Start | None:
    """Return what a newcomer asks for, None if that is nothing. Raises BadRequest."""
    if since is not None and last is not None:
        raise BadRequest("give 'since' or 'last', not both")
    if since is not None:
        if since != "latest":
            raise BadRequest("since is 'latest'")
        return Latest()
    if last is None:
        return None
    if not 1 <= last <= MOST_LAST:
        raise BadRequest(f"last is a number from 1 to {MOST_LAST}")
    return Last(last)
