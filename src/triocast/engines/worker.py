"""Work for one thread: all jobs that are ready are done in one go, so that they share its costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from triocast.errors import Unavailable

PATIENCE_SECONDS: Final = 10.0
"""How long a job that was begun is waited for."""

J = TypeVar("J")


@attrs.define(eq=False)
class _Order(Generic[J]):
    job: J
    size: int
    begun: trio.Event = attrs.field(factory=trio.Event)
    done: trio.Event = attrs.field(factory=trio.Event)
    result: Any = None
    error: Exception | None = None


class Desk(Generic[J]):
    """Where jobs wait for whoever does them. Bounded in bytes: at the bound, callers wait."""

    def __init__(self, *, most_bytes: int, batch_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._batch_bytes = batch_bytes
        self._waiting: deque[_Order[J]] = deque()
        self._size = 0
        self._filled = trio.Event()
        self._room = trio.Event()
        self._closed: str | None = None

    async def do(self, job: J, size: int) -> Any:
        """Have a job done; return its result, or raise what it raised.

        A caller who is cancelled before the job is begun takes it back. Later nobody can, and it
        is waited for, `PATIENCE_SECONDS` long. Raises Unavailable after that, and if nobody works
        here any more.
        """
        while self._size >= self._most_bytes and self._closed is None:
            if self._room.is_set():  # else others wait for this one already
                self._room = trio.Event()
            await self._room.wait()
        if self._closed is not None:
            raise Unavailable(self._closed)
        order = _Order(job, size)
        self._waiting.append(order)
        self._size += size
        self._filled.set()
        try:
            await order.begun.wait()
        except trio.Cancelled:
            if not order.begun.is_set():
                self._take_back(order)
                raise
            # It was begun after the cancel, before this task could run: too late to take it back.
        with trio.move_on_after(PATIENCE_SECONDS, shield=True):
            await order.done.wait()
        if not order.done.is_set():
            raise Unavailable(f"nothing was heard of it for {PATIENCE_SECONDS:g} s")
        if order.error is not None:
            raise order.error
        return order.result

    def _take_back(self, order: _Order[J]) -> None:
        self._waiting.remove(order)
        self._shrink(order.size)

    def _shrink(self, size: int) -> None:
        self._size -= size
        if self._size < self._most_bytes:
            self._room.set()

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    async def wait(self) -> None:
        """Return when there is a job."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting:
            self._filled = trio.Event()
            await self._filled.wait()

    def take(self) -> list[_Order[J]]:
        """Take the jobs for one go."""
        taken: list[_Order[J]] = []
        size = 0
        while self._waiting and (not taken or size < self._batch_bytes):
            order = self._waiting.popleft()
            order.begun.set()
            taken.append(order)
            size += order.size
        self._shrink(size)
        return taken

    def close(self, reason: str) -> None:
        """Refuse everything that waits, and all that comes."""
        self._closed = reason
        self._room.set()
        finish(self._waiting, error=Unavailable(reason))
        self._waiting.clear()


def finish(
    orders: Sequence[_Order[Any]] | deque[_Order[Any]],
    results: Sequence[Any] = (),
    error: Exception | None = None,
) -> None:
    """Give their results, or one error, to those who wait."""
    for index, order in enumerate(orders):
        order.error = error
        if error is None:
            order.result = results[index]
        order.begun.set()
        order.done.set()


async def in_thread(
    limiter: trio.CapacityLimiter, function: Callable[..., Any], *arguments: Any
) -> Any:
    """Call a blocking function in a thread and wait for it, even if the caller is cancelled.

    So a step that consists of several calls is either done completely or not begun.
    """
    with trio.CancelScope(shield=True):
        return await trio.to_thread.run_sync(function, *arguments, limiter=limiter)
