"""An application whose node runs, and a client on the same machine."""

import httpx
import pytest
from trio.testing import wait_all_tasks_blocked

from triocast.node import NodeState
from triocast.settings import Settings
from triocast.web import create_app, node_of


@pytest.fixture
async def run_node(nursery):
    """Run the node of an application that has not been started yet."""

    async def run_node(app):
        if node_of(app).state is NodeState.NOT_STARTED:
            nursery.start_soon(node_of(app).run)
            await wait_all_tasks_blocked()
        return app

    return run_node


@pytest.fixture
async def app(run_node):
    return await run_node(create_app(Settings()))


@pytest.fixture
async def client(app, run_node):
    await run_node(app)
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
