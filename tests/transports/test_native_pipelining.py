"""Requests that come together are answered as if they had come one by one."""

import json
import random
import re

import pytest
from trio.testing import wait_all_tasks_blocked

from triocast.errors import EndReason
from triocast.transports.native import BYTES_PER_TURN, MESSAGES_PER_TURN

REQUESTS = [
    {"type": "publish", "event": {"channel": "a", "data": 1}},
    {"type": "publish", "event": {"channel": "b", "data": 2}, "echo": False},
    {"type": "publish", "event": {"channel": "not a channel", "data": 3}},
    {"type": "publish", "event": {"channel": "a", "data": "x" * 9_000}},
    {"type": "publish", "event": {"channel": "a", "data": "x" * 11_000}},
    {"type": "publish", "event": {"data": 4}},
    {"type": "command", "command": "join_channel", "data": {"channel": "a"}},
    {"type": "command", "command": "leave_channel", "data": {"channel": "a"}},
    {"type": "subscribe", "channel": "b"},
    {"type": "unsubscribe", "channel": "b"},
    {"type": "ping"},
    {"type": "command", "command": "nonsense"},
]


def script(seed: int, length: int, leaving: bool) -> list[dict]:
    possible = [r for r in REQUESTS if leaving or not _leaves(r)]
    chosen = random.Random(seed).choices(possible, k=length)
    return [request | {"id": number} for number, request in enumerate(chosen)]


def _leaves(request: dict) -> bool:
    return request["type"] == "unsubscribe" or request.get("command") == "leave_channel"


async def send_together(client, requests: list[dict], pieces: int = 1) -> None:
    for request in requests:
        client.protocol.send_text(json.dumps(request).encode())
    data = b"".join(client.protocol.data_to_send())
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        await client.send_bytes(data[start : start + size])
    await wait_all_tasks_blocked()


def compared(texts: list[dict], start: int) -> tuple[list[str], list[str]]:
    """The answers and the events, without their times, and with positions from ``start`` on."""
    answers, events = [], []
    for text in texts:
        if text["type"] == "connected":
            continue
        raw = re.sub(r'"timestamp": "[^"]*"', "", json.dumps(text))
        raw = re.sub(r"0\.e\.(\d+)", lambda match: str(int(match[1]) - start), raw)
        (answers if text["type"] in ("reply", "error") else events).append(raw)
    return answers, events


@pytest.mark.parametrize("leaving", [True, False])
@pytest.mark.parametrize("seed", range(15))
async def test_together_is_as_one_by_one(parts, open_websocket, seed, leaving):
    requests = script(seed, 40, leaving)
    alone = await open_websocket(id="w1", max_message_bytes=20_000)
    for request in requests:
        await alone.send(request)
    expected = compared(alone.take(), 0)
    alone.connection.end(EndReason.POLICY)
    await wait_all_tasks_blocked()
    before = parts.engine.head.seq

    together = await open_websocket(id="w2", max_message_bytes=20_000)
    await send_together(together, requests, pieces=1 + seed % 3)
    answers, events = compared(together.take(), before)
    assert answers == expected[0]
    assert [json.loads(answer)["id"] for answer in answers] == list(range(40))
    # Who leaves a channel at once does not hear what was published to it just before.
    rest = iter(expected[1])
    assert all(event in rest for event in events)
    assert leaving or events == expected[1]


async def test_a_long_pipeline_is_acknowledged_in_order(parts, open_websocket):
    client = await open_websocket()
    count = 3 * MESSAGES_PER_TURN + 5
    publish = {"type": "publish", "event": {"channel": "a", "data": "x" * (BYTES_PER_TURN // 20)}}
    await send_together(client, [publish | {"id": number} for number in range(count)])
    replies = client.take()[1:]
    assert [(reply["id"], reply["data"]["id"]) for reply in replies] == [
        (number, f"0.e.{number + 1}") for number in range(count)
    ]


async def test_publishes_without_an_id_are_not_answered(parts, open_websocket):
    client = await open_websocket()
    await send_together(client, [{"type": "publish", "event": {"channel": "a", "data": 1}}] * 5)
    assert client.take()[1:] == []
    assert parts.engine.head.seq == 5


async def test_a_refusal_of_all_is_told_to_each_in_its_place(parts, open_websocket):
    client = await open_websocket()
    parts.publisher.closed = True
    publish = {"type": "publish", "event": {"channel": "a", "data": 1}}
    await send_together(
        client, [publish | {"id": 0}, publish, {"type": "ping", "id": 1}, publish | {"id": 2}]
    )
    assert [(text.get("id"), text.get("code")) for text in client.take()[1:]] == [
        (0, "shutting_down"),
        (None, "shutting_down"),
        (1, None),
        (2, "shutting_down"),
    ]
    assert parts.engine.head.seq == 0


async def test_others_hear_pipelined_events_in_order(parts, open_websocket):
    client, other = await open_websocket(), await open_websocket(id="w2")
    await other.ask({"type": "subscribe", "channels": ["a", "b"]})
    await send_together(
        client,
        [
            {"type": "publish", "event": {"channel": "ab"[number % 2], "data": number}}
            for number in range(2 * MESSAGES_PER_TURN)
        ],
    )
    assert [event["data"] for event in other.take()] == list(range(2 * MESSAGES_PER_TURN))
