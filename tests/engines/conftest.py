"""The engines that the contract is run on.

An engine joins by a function that takes ``history_events`` and ``history_bytes`` and returns an
async context manager of the open engine, at work.
"""

import os
import tempfile
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import trio

from triocast.engines import MemoryEngine
from triocast.engines.sqlite import SQLiteEngine

MEMORY = "/dev/shm"
"""The file system that Linux keeps in memory: nothing waits for a disk there."""

folder_in_memory = partial(
    tempfile.TemporaryDirectory, dir=MEMORY if os.access(MEMORY, os.W_OK) else None
)


@asynccontextmanager
async def memory(**bounds):
    engine = MemoryEngine(epoch="e1", **bounds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def sqlite(**bounds):
    with folder_in_memory() as folder:
        engine = SQLiteEngine(Path(folder) / "events.db", durable=False, **bounds)
        with closing(engine):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run)
                yield engine
                nursery.cancel_scope.cancel()


class Outlet:
    """Has room for ``bound`` events; `take` makes room."""

    def __init__(self, bound: int = 1) -> None:
        self.bound = bound
        self.inside = 0
        self.most = 0
        self.seqs: list[int] = []
        self._taken = trio.Event()

    @property
    def has_room(self) -> bool:
        return self.inside < self.bound

    async def wait_for_room(self) -> None:
        while not self.has_room:
            await self._taken.wait()

    def put(self, publications) -> None:
        self.seqs += [p.seq for p in publications]
        self.inside += len(publications)
        self.most = max(self.most, self.inside)

    def fill(self) -> None:
        """As another engine would that spreads to it."""
        self.inside = self.bound

    def take(self) -> None:
        self.inside = 0
        self._taken.set()
        self._taken = trio.Event()


@pytest.fixture(scope="session")
def new_folder():
    """Make temporary folders, as context managers."""
    return folder_in_memory


ENGINES = {"memory": memory, "sqlite": sqlite}

ROOMY = {"history_events": 100, "history_bytes": 10_000_000}


@pytest.fixture(params=ENGINES)
def open_engine(request):
    def open_engine(**bounds):
        return ENGINES[request.param](**ROOMY | bounds)

    return open_engine


@pytest.fixture
async def engine(open_engine):
    async with open_engine() as engine:
        yield engine


@pytest.fixture
def new_outlet():
    """Make outlets that fill up."""
    return Outlet
