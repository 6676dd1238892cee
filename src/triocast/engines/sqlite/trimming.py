"""Retention of a store: what is above its number, its age or the file's bound goes, bit by bit.

Each bit is a transaction of its own, between those of publishers. While they publish, twice as
much is removed as they add, so that the file does not grow however fast they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import trio

from triocast.engines.retention import Retention
from triocast.engines.sqlite import removing
from triocast.engines.sqlite.removing import Removed
from triocast.engines.sqlite.rows import Channel
from triocast.engines.usage import Bounds, Usage
from triocast.engines.worker import Thread
from triocast.events import namespace_of
from triocast.turns import in_turns

TRIM_SLACK: Final = 16
"""Events that a channel may have above its number, so that they go several at a time."""

_CHANNELS_PER_TURN: Final = 200


class Trimming:
    """Removes events of a store. Whoever writes to it holds ``lock``, and so does this.

    ``oldest_record`` tells since when idempotency records are kept, by the store's `Ages`.
    ``channels`` are the engine's, by id; ``forget`` is called for one that nothing is kept of any
    more. All methods raise sqlite3.Error.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        retention: Retention,
        history_bytes: int,
        oldest_record: Callable[[], float],
        bounds: Bounds,
        usage: Callable[[], Usage],
        note_removed: Callable[[Usage], None],
        lock: trio.Lock,
        thread: Thread,
        channels: dict[int, Channel],
        forget: Callable[[Channel], bool],
    ) -> None:
        self._db = db
        self._retention = retention
        self._history_bytes = history_bytes
        self._oldest_record = oldest_record
        self._bounds = bounds
        self._usage = usage
        self._note_removed = note_removed
        self._lock = lock
        self._thread = thread
        self._channels = channels
        self._forget = forget
        self._full: dict[Channel, None] = {}  # The longest full first.

    def note(self, channel: Channel) -> None:
        """Be told that a channel has got more events."""
        keep = channel.keep
        too_many = channel.count > keep.events + max(TRIM_SLACK, keep.events // 10)
        if too_many or 0 < keep.size < channel.size:
            self._full[channel] = None

    @property
    def _has_too_much(self) -> bool:
        return self._usage().event_bytes > self._history_bytes

    @property
    def _has_too_many_records(self) -> bool:
        usage, bounds = self._usage(), self._bounds
        return usage.records > bounds.records or usage.record_bytes > bounds.record_bytes

    async def keep_up(self, published: int) -> None:
        """Remove about twice as many events as were just published, if so many are to go."""
        due = 2 * published
        while due > 0 and self._full:
            due -= await self._trim_full()
        while due > 0 and self._has_too_much and (removed := await self._trim_oldest()):
            due -= removed
        if self._has_too_many_records:
            await self._trim_records()

    async def trim(self) -> None:
        """Remove all that is to go."""
        aging: list[Channel] = []
        async for channels in in_turns(_pieces(list(self._channels.values()))):
            self._full |= {channel: None for channel in channels if channel.is_full}
            aging += [channel for channel in channels if channel.keep.seconds]
        while self._full:
            await self._trim_full()
        if self._retention.by_age:
            for channels in _pieces(aging):
                await self._trim_aged(channels)
        while await self._trim_records():
            pass
        while self._has_too_much and await self._trim_oldest():
            pass

    async def remove(self, channel: Channel, seq: int) -> int:
        """Remove a channel's events up to a ``seq``; return how many there were."""
        count = 0
        while removed := await self._trim_up_to(channel, seq):
            count += removed
        return count

    async def _trim_full(self) -> int:
        channel = next(iter(self._full))
        removed = 0
        if channel.is_full:
            removed = await self._step(removing.trim_channel, channel)
        if not removed or not channel.is_full:
            self._full.pop(channel, None)
        return removed

    async def _trim_aged(self, channels: Sequence[Channel]) -> None:
        """Remove what is above its age from these channels."""
        while channels:
            async with self._lock:
                found = await self._in_thread(removing.find_old, channels)
            for channel, seq in found:
                await self._trim_up_to(channel, seq)
            channels = [channel for channel, _ in found]

    async def _trim_up_to(self, channel: Channel, seq: int) -> int:
        return await self._step(removing.trim_up_to, channel, seq)

    async def _trim_oldest(self) -> int:
        return await self._step(removing.trim_oldest, self._channels)

    async def _trim_records(self) -> bool:
        """Remove some idempotency records that are old or too many; say whether there were any."""
        async with self._lock:
            trim = partial(
                removing.trim_records,
                oldest=self._oldest_record(),
                usage=self._usage(),
                bounds=self._bounds,
            )
            removed: Usage = await self._in_thread(trim)
            self._note_removed(removed)
        return removed.records < 0

    async def _step(self, trim: Callable[..., Removed], *arguments: Any) -> int:
        """Do one transaction that removes events; return how many."""
        async with self._lock:
            removed: Removed = await self._in_thread(trim, *arguments)
            for channel, (count, size) in removed.items():
                channel.count -= count
                channel.size -= size
                self._note_removed(Usage(events=-count, event_bytes=-size))
            await self._forget_all([channel for channel in removed if not channel.count])
        return sum(count for count, _ in removed.values())

    async def _forget_all(self, channels: Sequence[Channel]) -> None:
        """Forget channels that nothing is kept of, together: each commit may wait for the disk."""
        gone: list[tuple[int, str, int]] = []
        for number, channel in enumerate(channels, 1):
            gone.append((channel.id, namespace_of(channel.name), channel.last))
            # First for readers, who must not find a channel without a floor.
            merged = self._forget(channel)
            if merged or number == len(channels):
                await self._in_thread(removing.forget_channels, gone)
                gone = []
            if merged:
                await self._in_thread(removing.merge_floors)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._thread.call(function, self._db, *arguments)


def _pieces(channels: Sequence[Channel]) -> Iterator[Sequence[Channel]]:
    for first in range(0, len(channels), _CHANNELS_PER_TURN):
        yield channels[first : first + _CHANNELS_PER_TURN]
