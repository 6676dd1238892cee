"""``WS /realtime/ws``: the native WebSocket protocol."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from triocast.errors import BadRequest, Disabled
from triocast.node import Node
from triocast.transports.native import SUBPROTOCOL, NativeConnection
from triocast.web.asgi import StreamResponse
from triocast.web.call import Call
from triocast.web.current import current_call, current_node, grant_of, new_connection_id
from triocast.web.parameters import check_query
from triocast.web.subscribing import read_filter, read_start, read_subscriptions

PATH: Final = "/realtime/ws"

blueprint = Blueprint("websocket", __name__)


@blueprint.websocket(PATH)
async def accept_websocket() -> Response:
    """Let a client in; see `open_websocket`."""
    node, call = current_node(), current_call()
    connection = open_websocket(node, call)
    node.connections.admit(connection)
    return StreamResponse(connection, subprotocol=choose_subprotocol(call))


def open_websocket(node: Node, call: Call) -> NativeConnection:
    """Return the connection that a call for a WebSocket opens, ready to be admitted and run.

    Query: what `subscribing` reads, so that a client comes back to all it had in one step, and
    ``heartbeat=event`` for ``HEARTBEAT`` messages besides pings. Raises TriocastError for what is
    refused.
    """
    settings = node.settings
    if not settings.websocket_enabled:
        raise Disabled("WebSockets are switched off here; use Server-Sent Events")
    check_query(call, "GET /realtime/ws")
    grant = grant_of(node, call)
    heartbeat = call.query.get("heartbeat", "ping")
    if heartbeat not in ("ping", "event"):
        raise BadRequest("heartbeat is 'ping' or 'event'")
    return NativeConnection(
        node.connections,
        node.publisher,
        id=new_connection_id(),
        grant=grant,
        address=call.address,
        most_channels=settings.max_channels_per_connection,
        max_message_bytes=settings.max_message_bytes,
        max_json_depth=settings.max_json_depth,
        heartbeat_events=heartbeat == "event",
        channels=read_subscriptions(node, call.query, grant),
        filter=read_filter(call.query),
        start=read_start(call),
    )


def choose_subprotocol(call: Call) -> str | None:
    """Return our subprotocol if the client offers it."""
    return SUBPROTOCOL if SUBPROTOCOL in call.headers.tokens("Sec-WebSocket-Protocol") else None
