"""``GET /realtime/events``: the stream of Server-Sent Events."""

from __future__ import annotations

from quart import Blueprint, Response, request

from triocast.errors import BadRequest, Disabled, Forbidden, TooManyChannels, Unavailable
from triocast.events import parse_pattern, parse_tags, parse_type
from triocast.subscriptions import make_filter
from triocast.transports import sse
from triocast.web.asgi import StreamResponse
from triocast.web.current import caller_address, caller_grant, current_node, new_connection_id

blueprint = Blueprint("events", __name__)

HEADERS = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "X-Accel-Buffering": "no",
}
CONTENT_TYPE = "text/event-stream"


@blueprint.get("/realtime/events")
async def stream_events() -> Response:
    """Open a stream.

    Query: ``channel`` (repeatable; a channel or pattern), ``type`` and ``tag`` (repeatable
    filters), ``named=1`` for ``event:`` lines, ``heartbeat=event`` for ``HEARTBEAT`` events.
    """
    node = current_node()
    if not node.settings.sse_enabled:
        raise Disabled("Server-Sent Events are switched off here; poll instead")
    grant = caller_grant(request)
    options = _options()
    if len(options.channels) > node.settings.max_channels_per_connection:
        raise TooManyChannels(
            f"a connection subscribes to {node.settings.max_channels_per_connection} channels at"
            " the most"
        )
    for name in options.channels:
        if not grant.may_subscribe(name):
            raise Forbidden(f"you may not subscribe to {name}")
    if request.method == "HEAD":
        return Response(b"", headers=HEADERS, content_type=CONTENT_TYPE)
    connection = sse.SSEConnection(
        node.connections,
        options,
        id=new_connection_id(),
        grant=grant,
        address=caller_address(request),
    )
    try:
        node.connections.admit(connection)
    except Unavailable as error:
        if not _is_event_source():
            raise
        return Response(sse.polite_end(error), headers=HEADERS, content_type=CONTENT_TYPE)
    headers = dict(HEADERS)
    if request.http_version == "1.1":
        headers["Connection"] = "keep-alive"
    return StreamResponse(connection, headers=headers, content_type=CONTENT_TYPE)


def _options() -> sse.StreamOptions:
    query = request.args
    channels = dict.fromkeys(parse_pattern(name) for name in query.getlist("channel"))
    types = [parse_type(value) for value in query.getlist("type")]
    tags = parse_tags(query.getlist("tag"))
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


def _is_event_source() -> bool:
    return CONTENT_TYPE in request.headers.get("Accept", "")
