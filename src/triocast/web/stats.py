"""``GET /realtime/stats``: numbers of this process, for administrators."""

from __future__ import annotations

import attrs
from quart import Blueprint, Response

from triocast.web.answers import json_answer
from triocast.web.current import admin_grant, current_call, current_node
from triocast.web.parameters import check_query

blueprint = Blueprint("stats", __name__)

MOST_CHANNELS = 1_000


@blueprint.get("/realtime/stats")
async def stats() -> Response:
    """Answer connection counts, fan-out counters, and subscribers per channel.

    Of more than `MOST_CHANNELS` channels, those with most subscribers are listed.
    """
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/stats")
    admin_grant(node, call)
    hub, connections = node.hub, node.connections
    channels = hub.channels()
    largest = sorted(channels.items(), key=lambda item: (-item[1], item[0]))[:MOST_CHANNELS]
    return json_answer(
        {
            **connections.counts(),
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
            "encode_failures": hub.stats.encode_failures,
            "delivery_failures": hub.stats.delivery_failures,
            "ended": dict(connections.ended),
            "refused": dict(connections.refused),
            "overflow": dict(connections.overflow.acts),
            "channel_count": len(channels),
            "channels": dict(largest),
        }
    ).as_response()
