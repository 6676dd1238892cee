"""What an engine checks before it writes documents, and a table of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from triocast.documents import Document
from triocast.engines.names import Names
from triocast.engines.usage import Bounds, Usage
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


@attrs.frozen
class Standing:
    """What an engine has of a document: its version, 0 if there is none, and its size in bytes."""

    version: int = 0
    size: int = 0


NOTHING: Final = Standing()


def size_of(place: Place, data_bytes: int) -> int:
    """Return how many bytes a document counts whose data has ``data_bytes``."""
    channel, key = place
    return data_bytes + len(channel) + len(key) + DOCUMENT_OVERHEAD


def is_counted(channel: str) -> bool:
    """Say whether a channel's documents count against the bounds: not so the server's own."""
    return not channel.startswith("$")


def check_writes(
    events: Iterable[Event],
    known: Mapping[Place, Standing],
    revision: int,
    usage: Usage,
    bounds: Bounds,
) -> None:
    """Say whether all of the events can write their documents, one after the other.

    ``known`` are the documents that are there, ``revision`` is the last version given. Where there
    are more than ``bounds`` allow, documents can still be made smaller and removed. Raises
    VersionConflict, TooManyDocuments.
    """
    changed: dict[Place, Standing] = {}
    count, size = usage.documents, usage.document_bytes
    for event in events:
        write = event.write
        if write is None:
            continue
        place = place_of(event)
        before = changed.get(place, known.get(place, NOTHING))
        mismatch = write.precondition and write.precondition.mismatch(before.version)
        if mismatch:
            raise VersionConflict(f"the document {event.key!r} is not as expected: {mismatch}")
        revision += 1
        after = (
            NOTHING if write.data is None else Standing(revision, size_of(place, len(write.data)))
        )
        changed[place] = after
        if not is_counted(event.channel):
            continue
        added, grown = bool(after.version) - bool(before.version), after.size - before.size
        count += added
        size += grown
        if count > bounds.documents and added > 0:
            raise TooManyDocuments("there are as many documents as max_documents allows")
        if size > bounds.document_bytes and grown > 0:
            raise TooManyDocuments("documents take as many bytes as documents_bytes allows")


def apply_write(event: Event, version: int) -> tuple[Event, Document | None]:
    """Return the event with the version it writes, and the document; None if that is removed."""
    assert event.write is not None
    data = event.write.data
    document = None
    if data is not None:
        channel, key = place_of(event)
        document = Document(channel, key, version, data, event.timestamp, event.user)
    return attrs.evolve(event, version=version, write=None), document


@attrs.define(eq=False)
class _Channel:
    """The documents of a channel by key, and the keys in order."""

    documents: dict[str, Document] = attrs.field(factory=dict)
    keys: Names = attrs.field(factory=Names)


class DocumentTable:
    """Documents in memory, by channel and key. `usage` is what those that count take."""

    def __init__(self) -> None:
        self.revision = 0
        self.usage = Usage()
        self._channels: dict[str, _Channel] = {}
        self._names = Names()

    def standings(self, events: Iterable[Event]) -> dict[Place, Standing]:
        """Return what is there of the documents that events write."""
        places = (place_of(event) for event in events if event.write is not None)
        found = ((place, self.get(*place)) for place in places)
        return {
            place: Standing(document.version, size_of(place, len(document.data)))
            for place, document in found
            if document is not None
        }

    def get(self, channel: str, key: str) -> Document | None:
        found = self._channels.get(channel)
        return None if found is None else found.documents.get(key)

    def count(self, channel: str) -> int:
        """Return how many documents a channel has."""
        found = self._channels.get(channel)
        return 0 if found is None else len(found.documents)

    def channels(self, prefix: str) -> Iterator[str]:
        """Yield the channels that have documents and begin with this, in order.

        Documents may be written meanwhile.
        """
        return self._names.starting_with(prefix)

    def list(self, channel: str, after: str) -> Iterator[Document]:
        """Yield a channel's documents behind a key, in the order of their keys."""
        found = self._channels.get(channel)
        if found is not None:
            for key in found.keys.behind(after):
                yield found.documents[key]

    def write(self, event: Event) -> Event:
        """Do what an event that was checked does; return it with its version."""
        self.revision += 1
        event, document = apply_write(event, self.revision)
        place = channel, key = place_of(event)
        found = self._channels.get(channel)
        before = None if found is None else found.documents.get(key)
        if document is not None:
            if found is None:
                found = self._channels[channel] = _Channel()
                self._names.add(channel)
            if before is None:
                found.keys.add(key)
            found.documents[key] = document
        elif found is not None and before is not None:
            found.keys.remove(key)
            del found.documents[key]
            if not found.documents:
                self._names.remove(channel)
                del self._channels[channel]
        if is_counted(channel):
            for sign, each in ((-1, before), (1, document)):
                if each is not None:
                    size = sign * size_of(place, len(each.data))
                    self.usage += Usage(documents=sign, document_bytes=size)
        return event
