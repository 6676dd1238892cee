"""The opaque text of where a client stands: SSE ``id:``, poll and WebSocket ``cursor``.

A list of (shard, epoch, seq), written ``<shard>.<epoch>.<seq>`` and joined by ``~``. One shard
is used today; the parser takes more, so that a cursor outlives a change of layout. The text has
only characters that may stand in a header, a query and an SSE ``id:`` line unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

from triocast.errors import InvalidCursor
from triocast.events import Position

LONGEST: Final = 1024
"""Characters; what is longer was not made here."""

MOST_SHARDS: Final = 64

_NAMED: Final = 9_999

_ELEMENT = re.compile(r"(0|[1-9][0-9]{0,3})\.([A-Za-z0-9_-]{1,32})\.(0|[1-9][0-9]{0,18})")


@attrs.frozen
class ShardPosition:
    """Where a client stands in one shard."""

    shard: int
    position: Position


def encode(position: Position) -> str:
    """Return the cursor of a position in the only shard, 0."""
    return f"0.{position.epoch}.{position.seq}"


def encode_behind(stands: Position, position: Position) -> str:
    """Return a cursor of where a client stands that names an event from before that, too.

    So each such event has an ``id`` of its own; `_NAMED` is no shard, and nobody resumes there.
    """
    return encode_all([ShardPosition(0, stands), ShardPosition(_NAMED, position)])


def encode_all(positions: Sequence[ShardPosition]) -> str:
    """Return the cursor of several shards' positions."""
    return "~".join(f"{p.shard}.{p.position.epoch}.{p.position.seq}" for p in positions)


def decode(text: str) -> tuple[ShardPosition, ...]:
    """Return the positions in a cursor, in its order.

    Raises InvalidCursor for anything that this server cannot have written.
    """
    if len(text) > LONGEST:
        raise InvalidCursor(f"a cursor has at most {LONGEST} characters")
    elements = text.split("~")
    if len(elements) > MOST_SHARDS:
        raise InvalidCursor(f"a cursor names at most {MOST_SHARDS} shards")
    positions = []
    for element in elements:
        match = _ELEMENT.fullmatch(element)
        if match is None:
            raise InvalidCursor("this is not a cursor that this server wrote")
        shard, epoch, seq = match.groups()
        positions.append(ShardPosition(int(shard), Position(epoch, int(seq))))
    if len({p.shard for p in positions}) != len(positions):
        raise InvalidCursor("a cursor names each shard once")
    return tuple(positions)
