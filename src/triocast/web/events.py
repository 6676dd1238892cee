"""``GET /realtime/events``: the stream of Server-Sent Events."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from triocast.errors import BadRequest, Disabled, Forbidden, TooManyChannels, Unavailable
from triocast.events import parse_pattern, parse_tags, parse_type
from triocast.node import Node
from triocast.subscriptions import make_filter
from triocast.transports import sse
from triocast.web.asgi import StreamResponse
from triocast.web.call import Call, Fields
from triocast.web.current import current_call, current_node, grant_of, new_connection_id

PATH: Final = "/realtime/events"

HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-store, must-revalidate",
    "x-accel-buffering": "no",
}

blueprint = Blueprint("events", __name__)


@blueprint.get(PATH)
async def stream_events() -> Response:
    """Open a stream; see `open_stream`."""
    node, call = current_node(), current_call()
    try:
        connection = open_stream(node, call)
        if call.method == "HEAD":
            return Response(b"", headers=HEADERS)
        node.connections.admit(connection)
    except Unavailable as error:
        if "text/event-stream" not in (call.headers.get("Accept") or ""):
            raise
        return Response(sse.polite_end(error), headers=HEADERS)
    headers = dict(HEADERS)
    if call.http_version == "1.1":
        headers["connection"] = "keep-alive"
    return StreamResponse(connection, headers=headers)


def open_stream(node: Node, call: Call) -> sse.SSEConnection:
    """Return the connection that a call for a stream opens, ready to be admitted and run.

    Query: ``channel`` (repeatable; a channel or pattern), ``type`` and ``tag`` (repeatable
    filters), ``named=1`` for ``event:`` lines, ``heartbeat=event`` for ``HEARTBEAT`` events.
    Raises TriocastError for what is refused.
    """
    settings = node.settings
    if not settings.sse_enabled:
        raise Disabled("Server-Sent Events are switched off here; poll instead")
    grant = grant_of(node, call)
    options = _options(call.query)
    if len(options.channels) > settings.max_channels_per_connection:
        raise TooManyChannels(
            f"a connection subscribes to {settings.max_channels_per_connection} channels at the"
            " most"
        )
    for name in options.channels:
        if not grant.may_subscribe(name):
            raise Forbidden(f"you may not subscribe to {name}")
    return sse.SSEConnection(
        node.connections, options, id=new_connection_id(), grant=grant, address=call.address
    )


def _options(query: Fields) -> sse.StreamOptions:
    channels = dict.fromkeys(parse_pattern(name) for name in query.all("channel"))
    types = [parse_type(value) for value in query.all("type")]
    tags = parse_tags(query.all("tag"))
    named = query.get("named", "0")
    if named not in ("0", "1"):
        raise BadRequest("named is 0 or 1")
    heartbeat = query.get("heartbeat", "comment")
    if heartbeat not in ("comment", "event"):
        raise BadRequest("heartbeat is 'comment' or 'event'")
    return sse.StreamOptions(
        channels=tuple(channels),
        filter=make_filter(types, tags),
        named=named == "1",
        heartbeat_events=heartbeat == "event",
    )
