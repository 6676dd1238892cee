"""Documents as a plain table: what each write made of them, in the order of versions."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import attrs

from triocast.documents import Precondition
from triocast.events import Event, Position, presence_target
from triocast.presence import LEAVE

from . import reading

CHANGED, REMOVED = "document_changed", "document_removed"
Place = tuple[str, str]
"""Channel and key of a document."""


@attrs.frozen
class Written:
    """What one write made of a document; ``content`` is None where it removed it."""

    place: Place
    version: int
    content: object
    expected: Precondition | None = None

    @classmethod
    def by_presence(cls, event: Event) -> Written:
        """Return what is written when a member comes or goes."""
        assert event.version is not None and event.key is not None
        content = None if event.type == LEAVE else json.loads(event.data)
        return cls((event.channel, event.key), event.version, content)


@attrs.frozen
class Entry:
    """A document in a list."""

    version: int
    content: object


@attrs.frozen
class Listing:
    """A channel's documents or members as somebody has read them.

    Changes of a higher ``version`` come behind ``position``.
    """

    channel: str
    entries: dict[str, Entry]
    version: int
    position: Position

    def follow(self, events: Iterable[reading.Event]) -> dict[str, Entry]:
        """Return what a client makes of the list and of the changes that it gets."""
        entries = dict(self.entries)
        for content in (event.content for event in events):
            version = content.get("version", 0)
            if content["channel"] != self.channel or version <= self.version:
                continue
            if content["type"] in (REMOVED, LEAVE):
                entries.pop(content["key"], None)
            else:
                entries[content["key"]] = Entry(version, content["data"])
        return entries


class Table:
    """Documents, as they were at each version."""

    def __init__(self, writes: Iterable[Written]) -> None:
        self._writes = sorted(writes, key=lambda written: written.version)
        self.last = len(self._writes)
        self._by_place: dict[Place, list[Written]] = {}
        for written in self._writes:
            self._by_place.setdefault(written.place, []).append(written)

    def check(self) -> None:
        """Check that each version was given once, and each write found what it expected."""
        assert [written.version for written in self._writes] == list(range(1, self.last + 1))
        for written in self._writes:
            found = self.version(written.place, written.version - 1)
            if written.expected is not None:
                mismatch = written.expected.mismatch(found)
                assert mismatch is None, f"{written} was made on version {found}"

    def version(self, place: Place, at: int) -> int:
        """Return which version a document had; 0 for none."""
        written = self._find(place, at)
        return 0 if written is None else written.version

    def channel(self, name: str, at: int | None = None) -> dict[str, Entry]:
        """Return a channel's documents by their keys: as of a version, or of the end."""
        at = self.last if at is None else at
        found = {place[1]: self._find(place, at) for place in self._by_place if place[0] == name}
        return {
            key: Entry(written.version, written.content)
            for key, written in found.items()
            if written is not None
        }

    def would_conflict(self, events: Sequence[Event], at: int) -> bool:
        """Say whether one of these events' writes would not find what it expects."""
        made: dict[Place, int] = {}
        for version, event in enumerate((e for e in events if e.write is not None), at + 1):
            assert event.write is not None and event.key is not None
            place = event.channel, event.key
            found = made.get(place, self.version(place, at))
            expected = event.write.precondition
            if expected is not None and expected.mismatch(found) is not None:
                return True
            made[place] = 0 if event.write.data is None else version
        return False

    def _find(self, place: Place, at: int) -> Written | None:
        writes = self._by_place.get(place, [])
        index = bisect_right(writes, at, key=lambda written: written.version)
        return writes[index - 1] if index and writes[index - 1].content is not None else None


def is_written_by_presence(event: Event) -> bool:
    return presence_target(event.channel) is not None
