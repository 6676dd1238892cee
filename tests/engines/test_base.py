"""What an engine has to bring, and what it has anyway; `test_contract` tests what it promises."""

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from triocast.engines.base import Engine


def engine_without(*names):
    """Make an engine that has all that it has to bring but this."""
    own = dict.fromkeys(Engine.__abstractmethods__.difference(names))
    return type("SomeEngine", (Engine,), own)()


@pytest.mark.parametrize("name", sorted(Engine.__abstractmethods__))
def test_an_engine_that_lacks_something_cannot_be_made(name):
    with pytest.raises(TypeError, match=name):
        engine_without(name)


async def test_one_with_nothing_to_do_runs_until_it_is_cancelled(nursery):
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


async def test_one_without_retention_has_nothing_to_trim():
    with assert_checkpoints():
        await engine_without().trim()
