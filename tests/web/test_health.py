"""Probes: the process lives, and whether new clients should be sent to it."""

import httpx
import pytest
from trio.testing import wait_all_tasks_blocked

from triocast.broadcaster import EventBroadcaster
from triocast.errors import Overloaded
from triocast.settings import Settings
from triocast.web import create_app, node_of


async def test_a_node_that_runs_lives_and_is_ready(client):
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        reply = await client.get(path)
        assert (reply.status_code, reply.json()) == (200, {"status": status})
        assert reply.headers["cache-control"] == "no-store"


async def test_readiness_ends_with_the_drain(app, client):
    await node_of(app).drain(1)
    reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()["code"]) == (503, "shutting_down")
    assert reply.headers["retry-after"]
    assert (await client.get("/healthz")).status_code == 200


async def test_a_node_whose_engine_takes_no_events_lives_but_is_not_ready(app, client, monkeypatch):
    async def fail():
        raise Overloaded("the disk is full")

    monkeypatch.setattr(node_of(app).engine, "check_health", fail)
    reply = await client.get("/readyz")
    assert (reply.status_code, reply.json()["code"]) == (503, "overloaded")
    assert reply.json()["message"] == "the disk is full"
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_probe_needs_no_token_and_may_come_from_anywhere(run_node, path):
    app = await run_node(create_app(Settings(token_key="k" * 40)))
    transport = httpx.ASGITransport(app=app, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1:8000") as probe:
        assert (await probe.get(path)).status_code == 200


async def test_a_failure_of_the_node_turns_both_probes_red(nursery, autojump_clock):
    app = create_app(Settings())
    node = node_of(app)
    node.hub._take_batch = lambda: 1 / 0

    async def run():
        try:
            await node.run()
        except* ZeroDivisionError:
            pass

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    await EventBroadcaster(node).broadcast_event("T")
    await node.wait_for_failure()
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as probe:
        for path in ("/healthz", "/readyz"):
            reply = await probe.get(path)
            assert (reply.status_code, reply.json()["code"]) == (503, "node_failed")
