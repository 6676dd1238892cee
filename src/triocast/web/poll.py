"""``GET /realtime/poll``: long poll, the fallback behind proxies that break streams."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from triocast.documents import AnyVersion
from triocast.errors import BadRequest
from triocast.transports.poll import LONGEST_WAIT_SECONDS, Poll
from triocast.web.answers import Answer
from triocast.web.call import Call, Fields
from triocast.web.current import current_call, current_node, grant_of, new_connection_id
from triocast.web.parameters import check_query
from triocast.web.preconditions import Tags, names_tag, parse_tags
from triocast.web.subscribing import read_filter, read_start, read_subscriptions
from triocast.wire.start import Start, parse_foreign_cursor

PATH: Final = "/realtime/poll"

USUAL_WAIT_SECONDS: Final = 25.0
"""Shorter than what proxies and browsers wait for an answer."""

blueprint = Blueprint("poll", __name__)


@blueprint.get(PATH)
async def poll() -> Response:
    """Answer ``{"events": […], "cursor": …}`` as soon as there is an event.

    Query: what `subscribing` reads, and ``wait`` in seconds. The cursor is the ``ETag``, too: a
    client that sends it as ``If-None-Match`` gets 304 when nothing is new, and need not give it
    anywhere else. ``*`` says that it has something, but not what: it is told where it stands.
    """
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/poll")
    grant = grant_of(node, call)
    known = parse_tags("If-None-Match", call.headers.all("If-None-Match"))
    question = Poll(
        node.connections,
        id=new_connection_id(),
        grant=grant,
        channels=read_subscriptions(node, call.query, grant),
        filter=read_filter(call.query),
        start=_read_start(call, known, node.engine.head.epoch),
    )
    found = await question.ask(_read_wait(call.query))
    tag = f'"{found.cursor}"'
    headers = [
        ("content-type", "application/json"),
        ("cache-control", "private, no-cache"),
        ("etag", tag),
    ]
    if known is not None and names_tag(known, tag) and not found.envelopes:
        return Answer(304, headers[1:]).as_response()
    return Answer(200, headers, found.as_json()).as_response()


def _read_start(call: Call, known: Tags | None, epoch: str) -> Start | None:
    """Return where a client begins, by its cursor or else by the answers that it has.

    Of several it is the furthest of this store. A tag that is none of ours is a cursor of the past
    that this store does not have: its client is told so by a gap.
    """
    start = read_start(call)
    if start is not None or known is None or known is AnyVersion.ANY:
        return start
    starts = [parse_foreign_cursor(tag) for tag in known]
    here = [each for each in starts if each.position and each.position.epoch == epoch]
    return max(here, key=lambda each: each.position.seq if each.position else 0, default=starts[0])


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
