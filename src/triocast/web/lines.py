"""NDJSON bodies: a stream of any length, published line by line as it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import attrs
import trio

from triocast.errors import Timeout, TooLarge, TriocastError, Unavailable
from triocast.events import Accepted, Event, Publication
from triocast.publisher import Publisher
from triocast.turns import Turns
from triocast.wire import cursor

LINES_PER_TURN: Final = 64
"""How many lines are read before others get their turn, at the most."""


@attrs.define
class Progress:
    """How far a stream of lines was published."""

    line: int = 0
    published: int = 0
    pending: int = 0
    first: Publication | None = None
    last: Publication | None = None
    error: TriocastError | None = None

    def as_dict(self) -> dict[str, object]:
        """Return ``{published, pending, first, last, error}``.

        ``pending`` of the ``published`` have no position yet. ``first`` and ``last`` are cursors,
        null where there is none.
        """
        error = None if self.error is None else {"line": self.line, **self.error.as_dict()}
        return {
            "published": self.published,
            "pending": self.pending,
            "first": None if self.first is None else cursor.encode(self.first.position),
            "last": None if self.last is None else cursor.encode(self.last.position),
            "error": error,
        }


async def publish_lines(
    publisher: Publisher,
    chunks: AsyncIterator[bytes],
    event_of_line: Callable[[bytes], Event],
    *,
    max_line_bytes: int,
    silence_seconds: float,
) -> Progress:
    """Publish lines as they arrive; return how far that went.

    Each line stands alone. The first bad one ends it, and what came before stays published; so
    it is when the client falls silent or goes away. Empty lines are passed over.
    """

    def check_size(line: bytes | bytearray) -> None:
        if len(line) > max_line_bytes:
            raise TooLarge(f"a line has at most {max_line_bytes} bytes")

    def parse(line: bytes) -> Event | None:
        check_size(line)
        return event_of_line(line) if line.strip() else None

    progress = Progress()
    begun = bytearray()  # a line whose end is still to come
    try:
        while (chunk := await _next(chunks, silence_seconds)) is not None:
            end = chunk.rfind(b"\n") + 1
            if end:
                begun += chunk[: end - 1]
                whole, begun = bytes(begun), bytearray()
                await _publish(publisher, whole.split(b"\n"), parse, progress)
            begun += chunk[end:]
            if len(begun) > max_line_bytes:
                progress.line += 1
                check_size(begun)
        await _publish(publisher, [bytes(begun)], parse, progress)
    except TriocastError as error:
        progress.error = error
    return progress


async def _next(chunks: AsyncIterator[bytes], silence_seconds: float) -> bytes | None:
    with trio.move_on_after(silence_seconds):
        return await anext(chunks, None)
    raise Timeout(f"nothing came for {silence_seconds:g} s")


async def _publish(
    publisher: Publisher,
    lines: list[bytes],
    parse: Callable[[bytes], Event | None],
    progress: Progress,
) -> None:
    ready: list[tuple[int, Event]] = []
    error: TriocastError | None = None
    turns = Turns()
    for number, line in enumerate(lines, progress.line + 1):
        progress.line = number
        try:
            event = parse(line)
        except TriocastError as refused:
            error = refused
            break
        if event is not None:
            ready.append((number, event))
        if len(ready) == publisher.most_together:
            await _accept(publisher, ready, progress)
            ready = []
        if number % LINES_PER_TURN == 0 or turns.over():
            # Engines need not block; the fan-out has to get its turn all the same.
            await turns.give()
    if ready:
        await _accept(publisher, ready, progress)
    if error is not None:
        raise error


async def _accept(publisher: Publisher, ready: list[tuple[int, Event]], progress: Progress) -> None:
    published: Sequence[Accepted] | None = None
    try:
        published = await publisher.publish([event for _, event in ready])
    except TriocastError as error:
        if isinstance(error, Unavailable) or len(ready) == 1:
            progress.line = ready[0][0]
            raise
    if published is None:  # It is one line's fault, and those before it are published.
        half = len(ready) // 2  # Found by halves: each publish may take a commit.
        for lines in (ready[:half], ready[half:]):
            await _accept(publisher, lines, progress)
            await trio.lowlevel.checkpoint()
        return
    placed = [accepted for accepted in published if isinstance(accepted, Publication)]
    if placed:
        progress.first = progress.first or placed[0]
        progress.last = placed[-1]
    progress.published += len(published)
    progress.pending += len(published) - len(placed)
