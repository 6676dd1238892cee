"""Doing the reads of a store: a slice of each at a time, each answered when it is done.

Reads are done in one thread, on a few connections, so that a few can be under way at one time. One
that takes longer than a slice goes on by slices, and others are done in between. One connection
is kept for those that come: where long reads have all others, a read that turns out to be long is
begun anew when one of them has ended. So a short read never waits for a long one.

A read whose caller is cancelled is left out, or ended where it is. One that waits for its turn
waits for as long as that takes; only where a slice does not end is its caller told that the store
does not answer.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

import attrs
import trio

from triocast import turns
from triocast.engines.worker import PATIENCE_SECONDS, Thread
from triocast.errors import TriocastError, Unavailable

SLICE_SECONDS: Final = 0.001
"""How long a read goes on before another one does."""

TURN_SECONDS: Final = 0.004
"""How long reads are done before the reader looks what else has come."""

READS_PER_TURN: Final = 64
"""So many reads are begun in one turn at the most."""

Work = Callable[[sqlite3.Connection], Any]
"""Reads and returns the answer, or a generator that does: it yields where others may go on."""


@attrs.define(eq=False)
class _Read:
    """One caller's read."""

    work: Work
    done: trio.Event = attrs.field(factory=trio.Event)
    result: Any = None
    error: Exception | None = None
    steps: Generator[None, None, Any] | None = None
    db: sqlite3.Connection | None = None

    def end(self, result: Any, error: Exception | None) -> None:
        if not self.done.is_set():
            self.result, self.error = result, error
            self.done.set()


class Reader:
    """Does reads on connections, two at least, in a thread.

    ``explain`` makes what a caller is told of the error that ended its read.
    """

    def __init__(
        self,
        connections: Sequence[sqlite3.Connection],
        thread: Thread,
        *,
        explain: Callable[[Exception], TriocastError],
    ) -> None:
        self._thread = thread
        self._explain = explain
        self._waiting: deque[_Read] = deque()
        self._filled = trio.Event()
        self._closed: str | None = None
        # What follows is the thread's while a turn lasts.
        self._free = list(connections)
        self._next: deque[_Read] = deque()
        self._begun: deque[_Read] = deque()
        self._long: deque[_Read] = deque()  # Each took a slice, and will be begun anew.
        self._max_begun = len(connections) - 1
        self._current: _Read | None = None
        self._turn: object | None = None
        self._turn_began = trio.Event()

    async def do(self, work: Work) -> Any:
        """Have a read done; return its answer, or raise what ended it.

        Raises Unavailable if the store does not answer, or the reader has ended.
        """
        if self._closed is not None:
            raise Unavailable(self._closed)
        read = _Read(work)
        self._waiting.append(read)
        self._filled.set()
        try:
            await read.done.wait()
        finally:
            read.done.set()  # Nobody waits for it any more: it is left out.
        if read.error is not None:
            raise read.error
        return read.result

    async def run(self) -> None:
        """Do reads until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            answer = _Answer(trio.lowlevel.current_trio_token(), self._explain)
            while True:
                await trio.lowlevel.checkpoint_if_cancelled()
                while not (self._waiting or self._next or self._begun or self._long):
                    self._filled = trio.Event()
                    await self._filled.wait()
                while self._waiting and len(self._next) < READS_PER_TURN:
                    self._next.append(self._waiting.popleft())
                self._turn = object()
                self._turn_began.set()
                await self._thread.call(self._work, answer)
                self._turn = self._current = None

    def close(self, reason: str) -> None:
        """Refuse every read that is not done, and all that come later."""
        self._closed = reason
        for read in (*self._begun, *self._long, *self._next, *self._waiting):
            if read.steps is not None:
                read.steps.close()
            read.end(None, Unavailable(reason))
        for reads in (self._begun, self._long, self._next, self._waiting):
            reads.clear()

    async def _watch(self) -> None:
        """Tell the caller of a read whose slice does not end."""
        while True:
            if self._turn is None:
                self._turn_began = trio.Event()
                await self._turn_began.wait()
            turn = self._turn
            await trio.sleep(PATIENCE_SECONDS)
            read = self._current
            if turn is self._turn and read is not None:
                seconds = f"{PATIENCE_SECONDS:g} s"
                read.end(None, Unavailable(f"the event store did not answer for {seconds}"))

    # In the thread.

    def _work(self, answer: _Answer) -> None:
        """Do reads for one turn: a new one, then one that has begun, and so on."""
        end = turns.now() + TURN_SECONDS
        while self._next or self._begun or self._long:
            if self._next:
                self._go_on(self._next.popleft(), answer)
            if self._long and len(self._begun) < self._max_begun:
                self._begun.append(self._long.popleft())
            if self._begun:
                self._go_on(self._begun.popleft(), answer)
            if turns.now() > end:
                return

    def _go_on(self, read: _Read, answer: _Answer) -> None:
        """Begin a read, or go on with it, for a slice; answer it if that is its end."""
        self._current = read
        if read.done.is_set():
            self._let_go(read)
            return
        end = turns.now() + SLICE_SECONDS
        try:
            steps = read.steps
            if steps is None:
                read.db = self._free.pop()
                found = read.work(read.db)
                if not isinstance(found, Generator):
                    self._let_go(read)
                    answer(read, found, None)
                    return
                steps = read.steps = found
            while turns.now() <= end:
                next(steps)
        except StopIteration as ended:
            self._let_go(read)
            answer(read, ended.value, None)
        except Exception as error:  # noqa: BLE001  # it is raised where the read was asked for
            self._let_go(read)
            answer(read, None, error)
        else:
            if len(self._begun) < self._max_begun:
                self._begun.append(read)
            else:
                self._let_go(read)
                self._long.append(read)

    def _let_go(self, read: _Read) -> None:
        if read.steps is not None:
            read.steps.close()
            read.steps = None
        if read.db is not None:
            self._free.append(read.db)
            read.db = None


@attrs.frozen
class _Answer:
    """Answers a read from the thread, at once."""

    _token: trio.lowlevel.TrioToken
    _explain: Callable[[Exception], TriocastError]

    def __call__(self, read: _Read, result: Any, error: Exception | None) -> None:
        self._token.run_sync_soon(self._end, read, result, error)

    def _end(self, read: _Read, result: Any, error: Exception | None) -> None:
        read.end(result, None if error is None else self._explain(error))
