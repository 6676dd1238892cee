"""Conditional headers: ``If-Match`` and ``If-None-Match`` (RFC 9110, sections 8.8.3 and 13.1).

A document's entity tag names its exact version. A proxy that compresses makes the tag weak without
changing the document, so ``W/`` is passed over in both headers: else no client behind such a proxy
could ever write with the tag that it has read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from triocast.documents import AnyVersion, Precondition, Versions
from triocast.errors import BadRequest, VersionConflict
from triocast.web.call import Headers
from triocast.wire.numbers import parse_whole

MAX_VERSION: Final = 10**18 - 1
"""Higher versions than this are never reached."""

_TAG: Final = re.compile('(?:W/)?"([!\x23-\x7e\x80-\xff]*)"')
_BETWEEN: Final = re.compile(r"[ \t]*(?:,[ \t]*)*")

Tags = tuple[str, ...] | AnyVersion
"""Entity tags without their quotes and ``W/``, or any."""


def parse_tags(name: str, lines: Sequence[str]) -> Tags | None:
    """Return the entity tags in a header's lines; None if there is no line. Raises BadRequest."""
    if not lines:
        return None
    text = ", ".join(lines).strip()
    if text == "*":
        return AnyVersion.ANY
    tags: list[str] = []
    position = _skip(text, 0)
    while position < len(text):
        tag = _TAG.match(text, position)
        behind = len(text) if tag is None else _skip(text, tag.end())
        if tag is None or (behind < len(text) and "," not in text[tag.end() : behind]):
            raise BadRequest(
                f'{name} takes * or entity tags in double quotes, such as "a1b2.7", with commas'
                " between them"
            )
        tags.append(tag[1])
        position = behind
    if not tags:
        raise BadRequest(f"{name} is empty: name an entity tag, or *")
    return tuple(tags)


def tag_of(epoch: str, version: int) -> str:
    """Return a document's entity tag. It has the epoch: a restored store gives versions again."""
    return f'"{epoch}.{version}"'


def read_precondition(headers: Headers, epoch: str) -> Precondition | None:
    """Return what a request demands of a document of the store with this epoch.

    None if it demands nothing. Raises BadRequest.
    """
    match = parse_tags("If-Match", headers.all("If-Match"))
    none_match = parse_tags("If-None-Match", headers.all("If-None-Match"))
    if match is None and none_match is None:
        return None
    return Precondition(_versions(match, epoch), _versions(none_match, epoch))


def is_current(headers: Headers, tag: str) -> bool:
    """Return whether a client has what it asks for, whose entity tag this is, in its quotes.

    Raises VersionConflict if it asks for something else by ``If-Match``, and BadRequest.
    """
    match = parse_tags("If-Match", headers.all("If-Match"))
    if match is not None and not names_tag(match, tag):
        raise VersionConflict(f"there is {tag}, and If-Match asks for another one")
    none_match = parse_tags("If-None-Match", headers.all("If-None-Match"))
    return none_match is not None and names_tag(none_match, tag)


def names_tag(tags: Tags, tag: str) -> bool:
    """Return whether tags name one, which is in its quotes."""
    return tags is AnyVersion.ANY or tag.strip('"') in tags


def _versions(tags: Tags | None, epoch: str) -> Versions | None:
    """Return the versions that tags name; one of another store or form names none."""
    if tags is None or tags is AnyVersion.ANY:
        return tags
    parts = (tag.rpartition(".") for tag in tags)
    versions = (parse_whole(text, most=MAX_VERSION) for store, _, text in parts if store == epoch)
    return tuple(version for version in versions if version is not None)


def _skip(text: str, position: int) -> int:
    """Return where the next tag begins: a list may have empty elements (RFC 9110, 5.6.1)."""
    found = _BETWEEN.match(text, position)
    assert found is not None
    return found.end()
