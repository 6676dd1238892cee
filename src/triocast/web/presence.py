"""``GET /realtime/presence``: who is on a channel."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from triocast.errors import BadRequest, Forbidden
from triocast.events import parse_channel
from triocast.presence import PAGE_MEMBERS
from triocast.web.answers import json_answer
from triocast.web.current import current_call, current_node, grant_of
from triocast.web.parameters import check_query
from triocast.web.subscribing import read_limit

PATH: Final = "/realtime/presence"
USUAL_MEMBERS: Final = 100

blueprint = Blueprint("presence", __name__)


@blueprint.get(PATH)
async def members() -> Response:
    """Answer a channel's members, page by page, and the cursor behind which changes come.

    Query: ``channel``, ``limit``, and ``after``, the key behind which the page begins.
    """
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/presence")
    grant = grant_of(node, call)
    name = call.query.get("channel")
    if not name:
        raise BadRequest("name the 'channel'")
    channel = parse_channel(name)
    if not grant.may_subscribe(channel):
        raise Forbidden(f"you may not know who is on {channel}")
    found = await node.presence.members(
        channel,
        after=call.query.get("after") or "",
        limit=read_limit(call.query, usual=USUAL_MEMBERS, most=PAGE_MEMBERS),
    )
    return json_answer(found).as_response()
