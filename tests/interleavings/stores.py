"""The stores that scripts are played on, and what a killed process leaves of them."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from triocast.engines import Engine, MemoryEngine
from triocast.engines.sqlite import SQLiteEngine, store
from triocast.engines.sqlite import file as file_module
from triocast.engines.sqlite.rows import COLUMNS, publication_of
from triocast.events import Publication

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
        self.note_kept: Callable[[], None] = lambda: None
        """Called when a commit is kept, which its engine does not know yet."""

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
                if function is store.append:
                    self.note_kept()
                await self._take_turns()
                return result

    async def _take_turns(self) -> None:
        for _ in range(self.turns):
            await trio.lowlevel.checkpoint()


@attrs.frozen
class Kept:
    """What a store has: events, and the floors of channels and namespaces that lost some."""

    publications: Sequence[Publication]
    channel_floors: Mapping[str, int]
    namespace_floors: Mapping[str, int]


class Store(ABC):
    """Where one process after the other keeps its events."""

    outlives_processes: bool

    def __init__(self) -> None:
        self.disk = Disk()

    @abstractmethod
    def open(self, debounce: ObservedDebounce) -> Engine:
        """Return an engine for a new process."""

    def freeze(self) -> Callable[[], None]:
        """Note what a process leaves that is killed now.

        Returns what is to be called when it has let go of the store, which undoes what it still
        did.
        """
        return lambda: None

    def kept(self) -> Kept:
        """Return what there is for the next process."""
        return Kept((), {}, {})


class Memory(Store):
    outlives_processes = False

    def __init__(self) -> None:
        super().__init__()
        self._epochs = iter(range(10**6))

    def open(self, debounce: ObservedDebounce) -> Engine:
        return MemoryEngine(epoch=f"e{next(self._epochs)}", debounce=debounce, **BOUNDS)


class SQLite(Store):
    outlives_processes = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "events.db"
        self._log = folder / "events.db-wal"
        self._index = folder / "events.db-shm"
        self._note = folder / "events.db.head"

    def open(self, debounce: ObservedDebounce) -> Engine:
        self.disk.note_kept = debounce.note_kept
        return SQLiteEngine(
            self._path, debounce=debounce, durable=False, run_sync=self.disk.run_sync, **BOUNDS
        )

    def freeze(self) -> Callable[[], None]:
        paths = (self._path, self._log, self._note)
        contents = {path: path.read_bytes() for path in paths}

        def restore() -> None:
            # In place: by another inode, the store would be taken for a copy.
            for path, content in contents.items():
                path.touch()
                with path.open("r+b") as file:
                    file.truncate(0)
                    file.write(content)
            self._index.unlink(missing_ok=True)  # which is made anew if nobody has the store

        return restore

    def kept(self) -> Kept:
        with closing(sqlite3.connect(self._path)) as db:
            (epoch,) = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            rows = db.execute(
                f"SELECT {COLUMNS}, c.name FROM events e JOIN channels c ON c.id = e.channel"
            ).fetchall()
            return Kept(
                [publication_of(row, row[-1], epoch) for row in rows],
                dict(db.execute("SELECT name, floor FROM channels").fetchall()),
                dict(db.execute("SELECT name, floor FROM namespaces").fetchall()),
            )


@contextmanager
def memory() -> Iterator[Store]:
    yield Memory()


@contextmanager
def sqlite() -> Iterator[Store]:
    # Where nothing waits for a real disk, which has no part in what is tested.
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    epochs = itertools.count()
    secrets = SimpleNamespace(token_hex=lambda size: f"{next(epochs):0{2 * size}}")
    with tempfile.TemporaryDirectory(dir=place) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_module, "secrets", secrets)
        yield SQLite(Path(folder))


STORES = {"memory": memory, "sqlite": sqlite}
