"""Documents: small versioned records, written in one step with the event that tells of it.

A document stands in a channel, under the key of its events. Its version is one growing number over
all documents of a store, so that a document that was removed and made anew never has a version
again that it had before.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs


class AnyVersion(enum.Enum):
    """Stands for every version, as ``*`` does in the headers of HTTP."""

    ANY = "*"


Versions = tuple[int, ...] | AnyVersion
"""Some versions of a document, or any."""


@attrs.frozen
class Precondition:
    """What has to be true of a document for it to be written (RFC 9110, 13.1.1 and 13.1.2).

    ``match`` are versions of which it has to have one, ``none_match`` those of which it may have
    none. A document that is not there has no version.
    """

    match: Versions | None = None
    none_match: Versions | None = None

    def mismatch(self, version: int) -> str | None:
        """Return why a document at ``version`` (0 for none) is not as wanted; None if it is."""
        found = f"it is at version {version}" if version else "there is none"
        if self.match is not None and not _is_among(version, self.match):
            wanted = "one" if self.match is AnyVersion.ANY else "another version"
            return f"{wanted} was expected, {found}"
        if self.none_match is not None and _is_among(version, self.none_match):
            wanted = "none" if self.none_match is AnyVersion.ANY else "any other version"
            return f"{wanted} was expected, {found}"
        return None


def _is_among(version: int, versions: Versions) -> bool:
    return version > 0 and (versions is AnyVersion.ANY or version in versions)


PRESENT: Final = Precondition(match=AnyVersion.ANY)
"""There has to be a document."""

ABSENT: Final = Precondition(none_match=AnyVersion.ANY)
"""There must not be one."""


def at(version: int) -> Precondition:
    """Return the precondition that a document is at this version."""
    return Precondition(match=(version,))


@attrs.frozen
class Write:
    """What an event does to the document of its channel and key.

    ``data`` is compact JSON text in UTF-8; None removes the document. It is done only where the
    ``precondition`` is true of the document.
    """

    data: bytes | None
    precondition: Precondition | None = None


@attrs.frozen
class Document:
    """A record as it is now. ``timestamp`` and ``user`` are those of the event that wrote it."""

    channel: str
    key: str
    version: int
    data: bytes
    timestamp: str
    user: str | None = None
