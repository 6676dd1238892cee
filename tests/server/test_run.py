"""The server as a coroutine: where it listens, and how it ends."""

import socket

import httpx
import pytest
import trio

from triocast.server import CannotListen, serve
from triocast.settings import Settings, SettingsError


async def test_it_serves_until_it_is_told_to_stop(nursery):
    stop = trio.Event()
    ended = trio.Event()

    async def run(*, task_status) -> None:  # noqa: ASYNC128  # it passes it on
        await serve(Settings(port=0, drain_seconds=2), stop=stop, task_status=task_status)
        ended.set()

    (address,) = await nursery.start(run)
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        stop.set()
        with trio.fail_after(5):
            await ended.wait()
        with pytest.raises(httpx.TransportError):
            await client.get("/readyz")


async def test_an_address_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1 port {port}: Address already in use"):
            await serve(Settings(port=port), stop=trio.Event())


async def test_strangers_are_not_let_in_by_accident():
    with pytest.raises(SettingsError, match="host"):
        await serve(Settings(host="0.0.0.0", port=0), stop=trio.Event())
