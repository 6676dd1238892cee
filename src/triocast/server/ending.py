"""Ends the process in time, whatever its run loop and its disk do.

SIGTERM and SIGINT are taken by a thread, and another one keeps the deadlines. So they work, too,
while the run loop is busy, or waits for a thread that hangs in `fsync`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

log = logging.getLogger("triocast.server")

EXIT_FAILURE: Final = 1
"""The exit code of a server that failed, or that was ended before it was done."""

GRACE_SECONDS: Final = 3.0
"""How long the process may take, beyond ``drain_seconds``, to end after SIGTERM or SIGINT."""

AT_ONCE_SECONDS: Final = 0.3
"""How long it may take after a second signal."""

FAILURE_SECONDS: Final = 5.0
"""How long it may take to tell its clients and end once it has failed."""

TELL_SECONDS: Final = 0.3
"""How long the last log line may take; nobody may be reading the log any more."""

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})


class Ending:
    """Watches over the end of this process."""

    def __init__(self, *, drain_seconds: float) -> None:
        self.was_hurried = False
        """Whether a second signal came."""
        self._drain_seconds = drain_seconds
        self._signals = itertools.count(1)
        self._is_over = False
        self._is_told = threading.Event()
        # Of this type because it may be used in a signal handler.
        self._deadlines: queue.SimpleQueue[tuple[float, str] | None] = queue.SimpleQueue()

    @contextlib.contextmanager
    def watch(self, *, drain: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
        """Call ``drain`` at the first signal, ``stop`` at the second; keep the deadlines.

        Both are called in any thread, and must not wait. For the main thread. When the block has
        ended the process may take any time.
        """
        self._drain, self._stop = drain, stop
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        # Threads from before do not have them blocked, and may be given one by the kernel.
        handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        listener = threading.Thread(target=self._listen, name="signals", daemon=True)
        keeper = threading.Thread(target=self._keep_deadlines, name="deadlines", daemon=True)
        listener.start()
        keeper.start()
        try:
            yield
        finally:
            self._is_over = True
            self._deadlines.put(None)
            assert listener.ident is not None
            signal.pthread_kill(listener.ident, signal.SIGTERM)
            self._is_told.set()
            listener.join()
            keeper.join()
            # What came when all was over is dropped. This never waits: another thread may take
            # a pending signal first.
            while signal.sigtimedwait(SIGNALS, 0) is not None:
                pass
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def end_within(self, seconds: float, why: str) -> None:
        """End the process hard if it has not ended by itself in this time."""
        self._deadlines.put((time.monotonic() + seconds, why))

    def _listen(self) -> None:
        while True:
            number = signal.sigwait(SIGNALS)
            if self._is_over:
                self._is_told.wait()  # A thread that has ended must not be signalled.
                return
            self._take(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._take(number)

    def _take(self, number: int) -> None:
        name = signal.Signals(number).name
        count = next(self._signals)
        if count == 1:
            seconds = self._drain_seconds + GRACE_SECONDS
            self.end_within(seconds, f"it did not end within {seconds:g} s of {name}")
            self._drain()
        elif count == 2:
            self.was_hurried = True
            self.end_within(AT_ONCE_SECONDS, f"it did not end at once at a second {name}")
            self._stop()

    def _keep_deadlines(self) -> None:
        deadline, why = math.inf, ""
        while True:
            wait = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            try:
                earlier = self._deadlines.get(timeout=wait)
            except queue.Empty:
                end_now(why)
                return
            if earlier is None:
                return
            deadline, why = min((deadline, why), earlier)


def end_now(why: str) -> None:
    """End this process at once, with one line in the log."""
    with contextlib.suppress(RuntimeError):  # no thread could be started
        told = threading.Thread(
            target=log.critical,
            args=("this process ends now, with exit code %d: %s", EXIT_FAILURE, why),
            daemon=True,
        )
        told.start()
        told.join(TELL_SECONDS)
    os._exit(EXIT_FAILURE)
