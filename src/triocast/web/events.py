"""``GET /realtime/events``: the stream of Server-Sent Events."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from triocast.errors import BadRequest, Disabled, TriocastError, Unavailable
from triocast.node import Node
from triocast.transports import sse
from triocast.web.answers import Answer, refusal
from triocast.web.asgi import StreamResponse
from triocast.web.call import Call, Fields
from triocast.web.current import current_call, current_node, grant_of, new_connection_id
from triocast.web.parameters import check_query
from triocast.web.subscribing import read_filter, read_start, read_subscriptions

PATH: Final = "/realtime/events"

HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    # `no-transform`: middleware that compresses would hold events back until it has a block full.
    "cache-control": "no-cache, no-store, must-revalidate, no-transform",
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
        node.connections.note_refusal(error, call.address)
        return refusal_for_now(error, call).as_response()
    headers = dict(HEADERS)
    if call.http_version == "1.1":
        headers["connection"] = "keep-alive"
    return StreamResponse(connection, headers=headers)


def refusal_for_now(error: TriocastError, call: Call) -> Answer:
    """Return the answer to a call that is refused only for now, whatever it asks for.

    An `EventSource` never comes back after an error. So it gets the end of a stream that says when
    to return, and breaks off: some clients never come back after a whole one. The connection is not
    kept: it would take a place that others need.
    """
    if call.method == "GET" and "text/event-stream" in (call.headers.get("Accept") or ""):
        answer = Answer(200, list(HEADERS.items()), sse.polite_end(error), is_unfinished=True)
    else:
        answer = refusal(error)
    if call.http_version == "1.1":
        answer.headers.append(("connection", "close"))
    return answer


def open_stream(node: Node, call: Call) -> sse.SSEConnection:
    """Return the connection that a call for a stream opens, ready to be admitted and run.

    Query: what `subscribing` reads, ``named=1`` for ``event:`` lines, ``heartbeat=event`` for
    ``HEARTBEAT`` events. Raises TriocastError for what is refused.
    """
    settings = node.settings
    if not settings.sse_enabled:
        raise Disabled("Server-Sent Events are switched off here; poll instead")
    check_query(call, "GET /realtime/events")
    grant = grant_of(node, call)
    options = sse.StreamOptions(
        channels=read_subscriptions(node, call.query, grant),
        filter=read_filter(call.query),
        start=read_start(call),
        named=_choose(call.query, "named", "0", "1"),
        heartbeat_events=_choose(call.query, "heartbeat", "comment", "event"),
    )
    return sse.SSEConnection(
        node.connections, options, id=new_connection_id(), grant=grant, address=call.address
    )


def _choose(query: Fields, name: str, usual: str, other: str) -> bool:
    """Say whether a field has its other value. Raises BadRequest if it has neither."""
    value = query.get(name, usual)
    if value not in (usual, other):
        raise BadRequest(f"{name} is {usual!r} or {other!r}")
    return value == other
