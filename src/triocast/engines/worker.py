"""Handing jobs from many tasks to one worker, and blocking calls to a thread.

A job is *waiting*, then *begun*, then *done*; it never goes back. A caller that is cancelled takes
a waiting job back. Once the worker has begun it, only the worker knows what will become of it, so
the caller waits for the outcome, also where the cancellation came in the very pass of the run loop
in which the job was begun. The worker does all jobs that are ready together, so that they share
the cost of a commit.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

import attrs
import trio

from triocast.errors import InternalError, OutcomeUnknown, Unavailable

PATIENCE_SECONDS: Final = 10.0
"""How long a caller waits for a job that was begun."""

W = TypeVar("W")

RunSync = Callable[..., Awaitable[Any]]
"""Calls a blocking function as `trio.to_thread.run_sync` does, under the same ``limiter``."""


class JobState(enum.Enum):
    """How far a job has come."""

    WAITING = enum.auto()
    BEGUN = enum.auto()
    DONE = enum.auto()


@attrs.define(eq=False)
class Job(Generic[W]):
    """One caller's work, and in the end its result or error."""

    work: W
    size: int
    """Bytes that it counts against the bounds of its queue."""
    state: JobState = JobState.WAITING
    _begun: trio.Event = attrs.field(factory=trio.Event)
    _done: trio.Event = attrs.field(factory=trio.Event)
    _result: Any = None
    _error: Exception | None = None

    def begin(self) -> None:
        """Say that the worker has taken it."""
        self.state = JobState.BEGUN
        self._begun.set()

    def finish(self, result: Any) -> None:
        """Give the caller its result. Does nothing for a job that is done."""
        self._end(result, None)

    def fail(self, error: Exception) -> None:
        """Raise an error in the caller. Does nothing for a job that is done."""
        self._end(None, error)

    def _end(self, result: Any, error: Exception | None) -> None:
        if self.state is not JobState.DONE:
            self.state, self._result, self._error = JobState.DONE, result, error
            self._begun.set()
            self._done.set()

    async def wait_until_begun(self) -> None:
        await self._begun.wait()

    async def outcome(self, patience_seconds: float) -> Any:
        """Return the result or raise the error, whether or not the caller is cancelled.

        Raises trio.TooSlowError if the job is not done in time.
        """
        with trio.CancelScope(deadline=trio.current_time() + patience_seconds, shield=True):
            await self._done.wait()
        if self.state is not JobState.DONE:
            raise trio.TooSlowError
        if self._error is not None:
            raise self._error
        return self._result


class JobQueue(Generic[W]):
    """Jobs that wait for their worker. Bounded in bytes: at the bound, callers wait."""

    def __init__(self, *, max_bytes: int, batch_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._batch_bytes = batch_bytes
        self._waiting: deque[Job[W]] = deque()
        self._size = 0
        self._filled = trio.Event()
        self._room = trio.Event()
        self._closed: str | None = None

    async def do(self, work: W, size: int, *, patience_seconds: float = PATIENCE_SECONDS) -> Any:
        """Have work done; return its result, or raise what it raised.

        A caller that is cancelled before its job is begun takes it back: then nothing happens.
        After that it is waited for, ``patience_seconds`` at the most, and the result is returned in
        spite of the cancellation, which is due at the next checkpoint. Raises OutcomeUnknown when
        that time is over, and Unavailable if the worker has ended.
        """
        await self._wait_for_room()
        job = Job(work, size)
        self._waiting.append(job)
        self._size += size
        self._filled.set()
        try:
            await job.wait_until_begun()
        except trio.Cancelled:  # noqa: ASYNC103  # see the docstring
            if job.state is JobState.WAITING:
                self._waiting.remove(job)
                self._shrink(size)
                raise
        try:
            return await job.outcome(patience_seconds)
        except trio.TooSlowError:
            fault = f"the store did not answer for {patience_seconds:g} s"
            raise OutcomeUnknown.because(fault) from None

    async def _wait_for_room(self) -> None:
        while not self.has_room and self._closed is None:
            if self._room.is_set():  # A new event only where no task waits for this one.
                self._room = trio.Event()
            await self._room.wait()
        if self._closed is not None:
            raise Unavailable(self._closed)

    def _shrink(self, size: int) -> None:
        self._size -= size
        if self.has_room:
            self._room.set()

    @property
    def has_room(self) -> bool:
        """Whether a job would be taken at once."""
        return self._size < self._max_bytes

    @property
    def is_empty(self) -> bool:
        """Whether no job waits."""
        return not self._waiting

    async def wait(self) -> None:
        """Return when there is a job."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting:
            self._filled = trio.Event()
            await self._filled.wait()

    @contextmanager
    def batch(self) -> Iterator[list[Job[W]]]:
        """Take the jobs that are to be done together; each has an outcome at the end of the block.

        Where an error ends the block, the jobs without an outcome fail with InternalError. Where
        the worker is cancelled, they fail with Unavailable, so nothing may have been done for them.
        """
        jobs: list[Job[W]] = []
        size = 0
        while self._waiting and (not jobs or size < self._batch_bytes):
            job = self._waiting.popleft()
            job.begin()
            jobs.append(job)
            size += job.size
        self._shrink(size)
        try:
            yield jobs
        except Exception:
            fail_all(jobs, InternalError())
            raise
        finally:
            fail_all(jobs, Unavailable(self._closed or "this server is going away"))

    def close(self, reason: str) -> None:
        """Refuse every job that waits, and all that come later."""
        self._closed = reason
        self._room.set()
        fail_all(self._waiting, Unavailable(reason))
        self._waiting.clear()


def fail_all(jobs: Iterable[Job[Any]], error: Exception) -> None:
    """Raise one error in the callers of all jobs that are not done."""
    for job in jobs:
        job.fail(error)


class Thread:
    """Calls blocking functions outside of the run loop, one at a time.

    ``run_sync`` does the call, as `trio.to_thread.run_sync` does by default.
    """

    def __init__(self, run_sync: RunSync | None = None) -> None:
        self._run_sync = run_sync
        self._limiter = trio.CapacityLimiter(1)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function and wait for it, even if the caller is cancelled.

        So a step that consists of several calls is either done completely or not begun. The shield
        needs no deadline of its own: Trio cannot abandon a thread that writes to a store anyway.
        """
        run_sync = trio.to_thread.run_sync if self._run_sync is None else self._run_sync
        with trio.CancelScope(shield=True):
            return await run_sync(function, *arguments, limiter=self._limiter)
