"""Which methods an engine must implement, and the defaults of the others.

`test_contract` tests what engines promise.
"""

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from triocast.engines.base import Engine

ABSTRACT = {
    "attach", "check_health", "close", "detach", "document", "document_channels", "documents",
    "forget", "head", "history", "latest", "merged", "publish", "usage",
}  # fmt: skip


def engine_without(*names):
    """Make an engine that implements all abstract methods except these."""
    return type("SomeEngine", (Engine,), dict.fromkeys(ABSTRACT.difference(names)))()


@pytest.mark.parametrize("name", sorted(ABSTRACT))
def test_an_engine_must_implement_all_abstract_methods(name):
    with pytest.raises(TypeError, match=name):
        engine_without(name)


async def test_by_default_an_engine_runs_until_it_is_cancelled(nursery):
    ended = trio.Event()

    async def run():
        try:
            await engine_without().run()
        finally:
            ended.set()

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    assert not ended.is_set()
    nursery.cancel_scope.cancel()


async def test_by_default_trimming_does_nothing_but_yield():
    with assert_checkpoints():
        await engine_without().trim()
