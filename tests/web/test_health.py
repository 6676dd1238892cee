"""Probes: the process lives, and whether new clients should be sent to it."""

import httpx
import pytest

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
async def test_a_probe_needs_no_token_and_may_come_from_anywhere(path):
    app = create_app(Settings(token_key="k" * 40))
    transport = httpx.ASGITransport(app=app, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1:8000") as probe:
        assert (await probe.get(path)).status_code == 200
