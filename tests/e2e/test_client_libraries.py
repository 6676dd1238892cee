"""Clients that others wrote, each in the way its manual shows, over each way of ours."""

from __future__ import annotations

import json

import httpx
import httpx_sse
import pytest
import trio
import trio_websocket
import websockets.sync.client

from e2e.rest import PATIENCE, publish
from e2e.servers import Server

COUNT = 50


def test_httpx_sse(server: Server, channel: str) -> None:
    url = f"http://{server.authority}/realtime/events"
    with (
        httpx.Client(timeout=PATIENCE) as client,
        httpx_sse.connect_sse(
            client, "GET", url, params={"channel": channel, "named": "1"}
        ) as source,
    ):
        source.response.raise_for_status()
        sent = []
        blocks = source.iter_sse()
        opened = next(blocks)
        assert opened.retry is not None
        assert opened.event == "connected"
        assert opened.json()["id"] == opened.id
        for number in range(COUNT):
            text = {"n": number, "text": "two\nlines ∎"}
            sent.append(publish(server, channel=channel, type="news", data=text))
            block = next(blocks)
            assert (block.event, block.id) == ("news", sent[-1]["id"])
            assert block.json()["data"] == text


def test_websockets(server: Server, channel: str) -> None:
    with websockets.sync.client.connect(
        f"ws://{server.authority}/realtime/ws", subprotocols=["triocast.v1"]
    ) as socket:
        assert socket.subprotocol == "triocast.v1"
        assert json.loads(socket.recv(PATIENCE))["type"] == "connected"
        socket.send(json.dumps({"type": "subscribe", "channel": channel, "id": 1}))
        assert json.loads(socket.recv(PATIENCE))["type"] == "reply"
        for number in range(COUNT):
            publish(server, channel=channel, data=number)
        for number in range(COUNT):
            assert json.loads(socket.recv(PATIENCE))["data"] == number
        assert socket.ping().wait(PATIENCE)
    assert socket.close_code == 1000


async def test_trio_websocket(server: Server, channel: str) -> None:
    with trio.fail_after(PATIENCE):
        async with trio_websocket.open_websocket_url(
            f"ws://{server.authority}/realtime/ws"
        ) as socket:
            assert json.loads(await socket.get_message())["type"] == "connected"
            subscribe = {"type": "subscribe", "channel": channel, "id": 1}
            await socket.send_message(json.dumps(subscribe))
            assert json.loads(await socket.get_message())["type"] == "reply"
            for number in range(COUNT):
                event = {"type": "publish", "event": {"channel": channel, "data": number}}
                await socket.send_message(json.dumps(event))
            for number in range(COUNT):
                assert json.loads(await socket.get_message())["data"] == number
            await socket.ping()
        assert socket.closed is not None
        assert socket.closed.code == 1000


@pytest.mark.parametrize("http2", [False, True])
async def test_httpx_over_both_versions(server: Server, channel: str, http2: bool) -> None:
    url = f"http://{server.authority}/realtime/broadcast"
    async with httpx.AsyncClient(http1=not http2, http2=http2, timeout=PATIENCE) as client:
        answer = await client.post(url, json={"channel": channel, "data": 1})
        assert answer.status_code == 200
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert answer.json()["channel"] == channel
