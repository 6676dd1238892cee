"""``GET /realtime/stats``: numbers of this process, for administrators."""

from __future__ import annotations

import heapq
from itertools import islice

import attrs
from quart import Blueprint, Response

from triocast.turns import Turns
from triocast.web.answers import json_answer
from triocast.web.current import admin_grant, current_call, current_node
from triocast.web.parameters import check_query

blueprint = Blueprint("stats", __name__)

MOST_CHANNELS = 1_000
CHANNELS_AT_ONCE = 500
"""Of so many, and the largest of those before, the largest are found in one step."""


@blueprint.get("/realtime/stats")
async def stats() -> Response:
    """Answer connection counts, fan-out counters, and subscribers per channel.

    Of more than `MOST_CHANNELS` channels, those with most subscribers are listed.
    """
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/stats")
    admin_grant(node, call)
    hub, connections = node.hub, node.connections
    channels = await hub.channels()
    largest = await _largest(channels)
    steps = node.steps.statistics()
    return json_answer(
        {
            **await connections.counts(),
            "max_connections": connections.most,
            "published": hub.stats.published,
            "delivered": hub.stats.delivered,
            "batches": hub.stats.batches,
            "inbox_bytes": hub.stats.inbox_bytes,
            "merged": node.engine.merged,
            "rooms": 0 if node.signaling is None else len(node.signaling.rooms.rooms),
            "peers": 0 if node.signaling is None else node.signaling.rooms.peer_count,
            "peerjs": None if node.peerjs is None else node.peerjs.counts(),
            "store": {**attrs.asdict(node.engine.usage), "damaged": node.engine.damaged},
            "epoch": node.engine.head.epoch,
            "seq": node.engine.head.seq,
            "longest_step_ms": _ms(steps.longest),
            "longest_step_ms_last_minute": _ms(steps.longest_lately),
            "encode_failures": hub.stats.encode_failures,
            "delivery_failures": hub.stats.delivery_failures,
            "ended": dict(connections.ended),
            "refused": dict(connections.refused),
            "overflow": dict(connections.overflow.acts),
            "channel_count": len(channels),
            "channels": largest,
        }
    ).as_response()


async def _largest(channels: dict[str, int]) -> dict[str, int]:
    """Return the channels with most subscribers, a part of all at a time."""
    found: list[tuple[str, int]] = []
    rest = iter(channels.items())
    turns = Turns()
    while part := list(islice(rest, CHANNELS_AT_ONCE)):
        found = heapq.nsmallest(MOST_CHANNELS, found + part, key=lambda item: (-item[1], item[0]))
        await turns.give_if_over()
    return dict(found)


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 2)
