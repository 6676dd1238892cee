"""A client that stops reading, and then reads on, under each policy, over real sockets."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import h11
import pytest
from websockets.exceptions import ConnectionClosed

from e2e.clients import Socket, Stream
from e2e.conftest import Servers
from e2e.rest import call, publish, stats, until
from e2e.servers import Server

POLICIES = {"l": {"overflow": "latest"}, "d": {"overflow": "drop"}}
SETTINGS = {"namespaces": json.dumps(POLICIES), "outbox_bytes": "200000"}
EVENTS = 400
SIZE = 50_000
"""With 400 of these, more waits than the sockets of both sides take."""


@pytest.fixture(params=["taken over", "portable"])
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers.get(request.param, **SETTINGS)


@pytest.fixture(params=["sse", "websocket"])
def reader(request: pytest.FixtureRequest, server: Server, channel: str) -> Any:
    """Opens a client that reads nothing until it is asked to."""
    with ExitStack() as stack:

        def reader(channel: str) -> Stream | Socket:
            if request.param == "sse":
                stream = stack.enter_context(Stream(server, channel=channel))
                stream.opened()
                return stream
            return stack.enter_context(Socket(server, f"?channel={channel}"))

        yield reader


def flood(server: Server, channel: str, **fields: Any) -> str:
    """Publish until the policy has acted; return the last event's id."""
    line = json.dumps({"channel": channel, "data": "x" * SIZE, **fields}).encode() + b"\n"
    before = stats(server)["overflow"]
    for _ in range(20):
        answer = call(
            server, "POST", "/realtime/broadcast", line * (EVENTS // 20), "application/x-ndjson"
        )
        assert answer.status == 200, answer
    until(lambda: stats(server)["overflow"] != before, "act of the policy")
    return str(answer.json["last"])


def read_to_end(client: Stream | Socket) -> None:
    while True:
        client.event()


def acts(server: Server, before: dict[str, int]) -> dict[str, int]:
    now = stats(server)["overflow"]
    return {name: now[name] - before[name] for name in now}


def test_latest_gives_the_last_state(server: Server, channel: str, reader: Any) -> None:
    channel = f"l:{channel.partition(':')[2]}"
    client, before = reader(channel), stats(server)["overflow"]
    flood(server, channel, key="k")
    last = publish(server, channel=channel, key="k", data="last")
    got = 0
    while (event := client.event())["data"] != "last":
        assert event["type"] == "message"
        got += 1
    assert got < EVENTS
    assert event["id"] == last["id"]
    done = acts(server, before)
    assert done["merged"] == EVENTS - got
    assert done["dropped"] == done["disconnected"] == 0


def test_drop_gives_a_gap_and_goes_on(server: Server, channel: str, reader: Any) -> None:
    channel = f"d:{channel.partition(':')[2]}"
    client, before = reader(channel), stats(server)["overflow"]
    last = flood(server, channel)
    got, at = 0, {"id": ""}
    gaps = 0
    while at["id"] != last:
        event = client.event()
        if event["type"] == "gap":
            told = event["data"]
            assert (told["reason"], told["channels"]) == ("overflow", [channel])
            assert (told["from"], told["to"]) == (at["id"], event["id"])
            gaps += 1
        else:
            got += 1
        at = event
    assert 0 < gaps < got
    done = acts(server, before)
    assert done["dropped"] == EVENTS - got > 0
    assert done["merged"] == done["disconnected"] == 0
    live = publish(server, channel=channel, data="live")
    assert client.event()["id"] == live["id"]


def test_disconnect_cuts_it_off(server: Server, channel: str, reader: Any) -> None:
    before = stats(server)
    client = reader(channel)
    flood(server, channel)
    cut_off = (AssertionError, ConnectionClosed, ConnectionResetError, h11.RemoteProtocolError)
    with pytest.raises(cut_off, match=r"the stream ended|4001|no close|reset|peer closed"):
        read_to_end(client)
    assert acts(server, before["overflow"])["disconnected"] == 1
    until(
        lambda: (
            stats(server)["ended"].get("slow_consumer", 0) > before["ended"].get("slow_consumer", 0)
        ),
        "end of the slow client",
    )
