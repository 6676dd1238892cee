"""The engines that scripts are played on."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from triocast.engines import Engine, MemoryEngine
from triocast.engines.sqlite import SQLiteEngine, store

from .observing import ObservedDebounce

SHARED_MEMORY = Path("/dev/shm")
BOUNDS = {"history_events": 10, "history_bytes": 100_000_000}


class Disk:
    """Does what a store's threads would do, in the task that waits for it.

    So a script is played the same way each time. Others get ``turns`` of the run loop before and
    after it is done.
    """

    def __init__(self) -> None:
        self.turns = 1
        self.is_full = False
        self.failures = 0

    async def run_sync(
        self, function: Callable[..., Any], *arguments: Any, limiter: trio.CapacityLimiter
    ) -> Any:
        async with limiter:
            with trio.CancelScope(shield=True):  # a thread cannot be cancelled either
                await self._take_turns()
                if self.is_full and function is store.append:
                    self.failures += 1
                    raise sqlite3.OperationalError("database or disk is full")
                result = function(*arguments)
                await self._take_turns()
                return result

    async def _take_turns(self) -> None:
        for _ in range(self.turns):
            await trio.lowlevel.checkpoint()


@attrs.frozen
class Store:
    engine: Engine
    debounce: ObservedDebounce
    disk: Disk


@contextmanager
def memory() -> Iterator[Store]:
    debounce = ObservedDebounce()
    yield Store(MemoryEngine(epoch="e", debounce=debounce, **BOUNDS), debounce, Disk())


@contextmanager
def sqlite() -> Iterator[Store]:
    debounce, disk = ObservedDebounce(), Disk()
    # Where nothing waits for a real disk, which has no part in what is tested.
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        engine = SQLiteEngine(
            Path(folder) / "events.db",
            debounce=debounce,
            durable=False,
            run_sync=disk.run_sync,
            **BOUNDS,
        )
        try:
            yield Store(engine, debounce, disk)
        finally:
            engine.close()


STORES = {"memory": memory, "sqlite": sqlite}
