"""``WS /realtime/ws``: the native WebSocket protocol."""

from __future__ import annotations

from quart import Blueprint, Response, websocket

from triocast.errors import BadRequest, Disabled
from triocast.transports.websocket import SUBPROTOCOL, WebSocketConnection
from triocast.web.asgi import StreamResponse
from triocast.web.current import caller_address, caller_grant, current_node, new_connection_id

blueprint = Blueprint("websocket", __name__)


@blueprint.websocket("/realtime/ws")
async def open_websocket() -> Response:
    """Let a client in. Query: ``heartbeat=event`` for ``HEARTBEAT`` messages besides pings."""
    node = current_node()
    settings = node.settings
    if not settings.websocket_enabled:
        raise Disabled("WebSockets are switched off here; use Server-Sent Events")
    grant = caller_grant(websocket)
    heartbeat = websocket.args.get("heartbeat", "ping")
    if heartbeat not in ("ping", "event"):
        raise BadRequest("heartbeat is 'ping' or 'event'")
    connection = WebSocketConnection(
        node.connections,
        node.publisher,
        id=new_connection_id(),
        grant=grant,
        address=caller_address(websocket),
        most_channels=settings.max_channels_per_connection,
        max_message_bytes=settings.max_message_bytes,
        max_json_depth=settings.max_json_depth,
        heartbeat_events=heartbeat == "event",
    )
    node.connections.admit(connection)
    offered = websocket.requested_subprotocols
    return StreamResponse(connection, subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
