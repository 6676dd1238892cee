"""``GET /realtime/poll``: long poll, the fallback behind proxies that break streams."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from triocast.errors import BadRequest, InvalidCursor
from triocast.transports.poll import LONGEST_WAIT_SECONDS, Poll
from triocast.web.answers import Answer
from triocast.web.call import Call, Fields
from triocast.web.current import current_call, current_node, grant_of, new_connection_id
from triocast.web.parameters import check_query
from triocast.web.subscribing import read_channels, read_filter, read_start
from triocast.wire.start import Start, parse_cursor

PATH: Final = "/realtime/poll"

USUAL_WAIT_SECONDS: Final = 25.0
"""Shorter than what proxies and browsers wait for an answer."""

blueprint = Blueprint("poll", __name__)


@blueprint.get(PATH)
async def poll() -> Response:
    """Answer ``{"events": […], "cursor": …}`` as soon as there is an event.

    Query: what `subscribing` reads, and ``wait`` in seconds. The cursor is the ``ETag``, too: a
    client that sends it as ``If-None-Match`` gets 304 when nothing is new, and need not give it
    anywhere else.
    """
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/poll")
    grant = grant_of(node, call)
    known = _known(call)
    question = Poll(
        node.connections,
        id=new_connection_id(),
        grant=grant,
        channels=read_channels(node, call.query, grant),
        filter=read_filter(call.query),
        start=_read_start(call, known),
    )
    found = await question.ask(_read_wait(call.query))
    headers = [
        ("content-type", "application/json"),
        ("cache-control", "private, no-cache"),
        ("etag", f'"{found.cursor}"'),
    ]
    if found.cursor == known and not found.envelopes:
        return Answer(304, headers[1:]).as_response()
    return Answer(200, headers, found.as_json()).as_response()


def _known(call: Call) -> str | None:
    """Return the cursor that the client has an answer for."""
    tag = call.headers.get("If-None-Match")
    return None if tag is None else tag.removeprefix("W/").strip('"')


def _read_start(call: Call, known: str | None) -> Start | None:
    start = read_start(call)
    if start is None and known is not None:
        try:
            return parse_cursor(known)
        except InvalidCursor:
            return None  # Somebody else's tag: the client has nothing of ours.
    return start


def _read_wait(query: Fields) -> float:
    text = query.get("wait")
    if text is None:
        return USUAL_WAIT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
        raise BadRequest(f"wait is a number of seconds, at most {LONGEST_WAIT_SECONDS:g}")
    return seconds
