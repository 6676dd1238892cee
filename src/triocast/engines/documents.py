"""What an engine checks before it writes documents, and a table of them in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from triocast.documents import Document
from triocast.errors import TooManyDocuments, VersionConflict
from triocast.events import Event

Place = tuple[str, str]
"""Channel and key of a document."""

Page = tuple[tuple[Document, ...], bool]

DOCUMENT_OVERHEAD: Final = 400
"""Bytes that a document in an answer counts beyond its data."""


def place_of(event: Event) -> Place:
    """Return where the document stands that an event writes."""
    assert event.key is not None
    return (event.channel, event.key)


def cut(documents: Iterable[Document], *, limit: int, limit_bytes: int) -> Page:
    """Return the first of some documents, at least one, and whether these are all of them."""
    chosen: list[Document] = []
    for document in documents:
        limit_bytes -= len(document.data) + DOCUMENT_OVERHEAD
        if chosen and (len(chosen) == limit or limit_bytes < 0):
            return tuple(chosen), False
        chosen.append(document)
    return tuple(chosen), True


def check_writes(
    events: Iterable[Event], known: Mapping[Place, int], revision: int, room: int
) -> None:
    """Say whether all of the events can write their documents, one after the other.

    ``known`` are the versions that documents have, ``revision`` the last one given, and ``room``
    how many more documents there may be. If that is negative, documents can still be changed and
    removed. Raises VersionConflict, TooManyDocuments.
    """
    versions: dict[Place, int] = {}
    for event in events:
        write = event.write
        if write is None:
            continue
        place = place_of(event)
        version = versions.get(place, known.get(place, 0))
        mismatch = write.precondition and write.precondition.mismatch(version)
        if mismatch:
            raise VersionConflict(f"the document {event.key!r} is not as expected: {mismatch}")
        revision += 1
        is_there, will_be_there = version > 0, write.data is not None
        versions[place] = revision if will_be_there else 0
        if not event.channel.startswith("$"):  # The server's own have bounds of their own.
            added = will_be_there - is_there
            room -= added
            if room < 0 < added:
                raise TooManyDocuments("there are as many documents as max_documents allows")


def apply_write(event: Event, version: int) -> tuple[Event, Document | None]:
    """Return the event with the version it writes, and the document; None if that is removed."""
    assert event.write is not None
    data = event.write.data
    document = None
    if data is not None:
        channel, key = place_of(event)
        document = Document(channel, key, version, data, event.timestamp, event.user)
    return attrs.evolve(event, version=version, write=None), document


class DocumentTable:
    """Documents in memory, by channel and key."""

    def __init__(self) -> None:
        self.revision = 0
        self.count = 0
        """How many there are, without those in the server's own channels."""
        self._channels: dict[str, dict[str, Document]] = {}
        self._keys: dict[str, list[str]] = {}  # In their order, for those that were listed.

    def versions(self, events: Iterable[Event]) -> dict[Place, int]:
        """Return the versions of the documents that events write."""
        places = (place_of(event) for event in events if event.write is not None)
        found = ((place, self.get(*place)) for place in places)
        return {place: document.version for place, document in found if document is not None}

    def get(self, channel: str, key: str) -> Document | None:
        return self._channels.get(channel, {}).get(key)

    def channels(self, prefix: str) -> tuple[str, ...]:
        """Return the channels that have documents and begin with this, in order."""
        return tuple(sorted(name for name in self._channels if name.startswith(prefix)))

    def list(self, channel: str, after: str) -> Iterator[Document]:
        """Yield a channel's documents behind a key, in the order of their keys."""
        documents = self._channels.get(channel, {})
        keys = self._keys.get(channel)
        if keys is None:
            keys = self._keys[channel] = sorted(documents)
        for index in range(bisect_right(keys, after), len(keys)):
            yield documents[keys[index]]

    def write(self, event: Event) -> Event:
        """Do what an event that was checked does; return it with its version."""
        self.revision += 1
        event, document = apply_write(event, self.revision)
        channel, key = place_of(event)
        counted = not channel.startswith("$")
        documents = self._channels.setdefault(channel, {})
        if (key in documents) == (document is None):
            self._keys.pop(channel, None)
        self.count -= counted and key in documents
        if document is None:
            documents.pop(key, None)
            if not documents:
                del self._channels[channel]
        else:
            documents[key] = document
            self.count += counted
        return event
