"""The engines that the contract is run on.

An engine joins by a function that takes ``epoch``, ``history_events`` and ``history_bytes`` and
returns an async context manager of the open engine.
"""

from contextlib import asynccontextmanager

import pytest

from triocast.engines import MemoryEngine


@asynccontextmanager
async def memory(**bounds):
    yield MemoryEngine(**bounds)


ENGINES = {"memory": memory}

ROOMY = {"epoch": "e1", "history_events": 100, "history_bytes": 10_000_000}


@pytest.fixture(params=ENGINES)
def open_engine(request):
    def open_engine(**bounds):
        return ENGINES[request.param](**ROOMY | bounds)

    return open_engine


@pytest.fixture
async def engine(open_engine):
    async with open_engine() as engine:
        yield engine
