"""Documents: small versioned records, written in one step with the event that tells of it.

A document stands in a channel, under the key of its events. Its version is one growing number over
all documents of a store, so that a document that was removed and made anew never has a version
again that it had before.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Write:
    """What an event does to the document of its channel and key.

    ``data`` is compact JSON text in UTF-8; None removes the document. ``if_version`` is what it has
    to be at: a version, 0 where there must be none, or None for anything.
    """

    data: bytes | None
    if_version: int | None = None


@attrs.frozen
class Document:
    """A record as it is now. ``timestamp`` and ``user`` are those of the event that wrote it."""

    channel: str
    key: str
    version: int
    data: bytes
    timestamp: str
    user: str | None = None
