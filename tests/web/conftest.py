"""An application whose node runs, and a client on the same machine."""

import httpx
import pytest
from trio.testing import wait_all_tasks_blocked

from triocast.settings import Settings
from triocast.web import create_app, node_of


@pytest.fixture
async def app(nursery):
    app = create_app(Settings())
    nursery.start_soon(node_of(app).run)
    await wait_all_tasks_blocked()
    return app


@pytest.fixture
async def client(app):
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
