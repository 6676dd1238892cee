"""What a store keeps of each kind, and the bounds of each: one kind never evicts another."""

from __future__ import annotations

from typing import Final

import attrs

MEBIBYTE: Final = 1_048_576


@attrs.frozen
class Usage:
    """Numbers and bytes of what is kept, or how much they change.

    Bytes are those of what clients sent, with a constant for each piece that stands for its row.
    Documents in the server's own channels are not counted: they have bounds of their own.
    """

    events: int = 0
    event_bytes: int = 0
    documents: int = 0
    document_bytes: int = 0
    records: int = 0
    record_bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.events + other.events,
            self.event_bytes + other.event_bytes,
            self.documents + other.documents,
            self.document_bytes + other.document_bytes,
            self.records + other.records,
            self.record_bytes + other.record_bytes,
        )


@attrs.frozen
class Bounds:
    """The most that is kept of documents and idempotency records.

    A document beyond its bounds is refused; the oldest records go before their time.
    """

    documents: int = 100_000
    document_bytes: int = 64 * MEBIBYTE
    records: int = 500_000
    record_bytes: int = 64 * MEBIBYTE
