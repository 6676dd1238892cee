"""The text of a gap: what a client does not get, in the native envelope."""

from __future__ import annotations

import attrs

from triocast.clock import timestamp
from triocast.events import Position, Publication
from triocast.resume import Gap, gap_of
from triocast.wire import envelope


def gap_text(gap: Gap) -> bytes:
    """Return the message that tells of a gap."""
    return envelope.encode_gap(timestamp(), **attrs.asdict(gap, recurse=False))


def loss_text(publication: Publication, *, behind: Position | None = None) -> bytes:
    """Return the message that tells that this publication was lost by an error of ours.

    ``behind`` is as for the envelope of the publication itself.
    """
    gap = gap_of(publication)
    return gap_text(gap if behind is None else attrs.evolve(gap, resume_at=behind))
