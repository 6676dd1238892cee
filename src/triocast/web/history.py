"""``/realtime/history``: what a channel's events were, page by page, both ways, and its removal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import attrs
from quart import Blueprint, Response

from triocast.engines import Engine, History
from triocast.errors import BadRequest, InvalidCursor
from triocast.events import BROADCAST, Position, Publication, parse_channel, user_channel
from triocast.transports.websocket import TEXT_MESSAGES
from triocast.web.answers import Answer, json_answer
from triocast.web.call import Fields
from triocast.web.current import admin_grant, current_call, current_node, grant_of
from triocast.web.parameters import check_query
from triocast.web.subscribing import read_channels, read_filter, read_limit
from triocast.wire import cursor, json
from triocast.wire.start import parse_cursor

PATH: Final = "/realtime/history"
MOST_EVENTS: Final = 1_000
PAGE_BYTES: Final = 4_194_304
"""A page ends when its events have so much data."""

READ_EVENTS: Final = 50
"""How many are read in one go."""

USUAL_EVENTS: Final = 100

log = logging.getLogger("triocast.web")

blueprint = Blueprint("history", __name__)


@blueprint.get(PATH)
async def history() -> Response:
    """Answer events in their order, with the cursors of the pages before and after.

    Query: ``channel`` (repeatable; a channel or pattern; none is what was for everybody), ``type``
    and ``tag`` as filters, ``limit``, and one of ``after`` and ``before``: a cursor. With
    ``after`` the page begins behind it; else it is the newest there is, below ``before``.
    ``lost`` names what retention has removed events of that belong before this page.
    """
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/history")
    grant = grant_of(node, call)
    query = call.query
    names = read_channels(node, query, grant) or (BROADCAST,)
    filter = read_filter(query)
    head = node.engine.head
    after, before = (_read_position(query, name, head) for name in ("after", "before"))
    if after is not None and before is not None:
        raise BadRequest("give 'after' or 'before', not both")
    found = await _read(
        node.engine,
        names,
        after=0 if after is None else after,
        before=before,
        limit=read_limit(query, usual=USUAL_EVENTS, most=MOST_EVENTS),
        newest=after is None,
    )
    seqs = [publication.seq for publication in found.publications]
    begin = after if after is not None else seqs[0] - 1 if seqs and not found.complete else 0
    end = found.head.seq if found.complete else seqs[-1] if seqs else begin
    if before is not None:
        end = max(before - 1, 0)
    elif after is None:
        end = found.head.seq
    events = [
        node.hub.encode(TEXT_MESSAGES, publication)
        for publication in found.publications
        if filter.passes(publication)
    ]
    page = {
        "before": cursor.encode(Position(head.epoch, begin + 1)),
        "after": cursor.encode(Position(head.epoch, end)),
        "more": not found.complete,
        "lost": [name for name, floor in found.floors.items() if floor > begin],
    }
    body = b'{"events":[%s],%s' % (b",".join(events), json.encode(page)[1:])
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    return Answer(200, headers, body).as_response()


@blueprint.delete(PATH)
async def forget() -> Response:
    """Remove what channels (``channel``) and users' own channels (``user``) have now.

    For administrators. Who comes back with a cursor from before is told of the gap. Answers how
    many events are ``removed``.
    """
    node, call = current_node(), current_call()
    check_query(call, "DELETE /realtime/history")
    admin_grant(node, call)
    channels = [parse_channel(name) for name in call.query.all("channel")]
    channels += [user_channel(user) for user in call.query.all("user")]
    if not channels:
        raise BadRequest("name a 'channel' or a 'user'")
    removed = await node.engine.forget(channels)
    log.info("%d events of %s were removed on request", removed, channels)
    return json_answer({"removed": removed}).as_response()


async def _read(
    engine: Engine,
    names: Sequence[str],
    *,
    after: int,
    before: int | None,
    limit: int,
    newest: bool,
) -> History:
    """Read a page, a part at a time, so that large events do not fill the memory."""
    publications: list[Publication] = []
    size = 0
    newest_head: Position | None = None
    floors = dict.fromkeys(names, 0)
    while True:
        found = await engine.history(
            names,
            after=after,
            before=before,
            limit=min(READ_EVENTS, limit - len(publications)),
            newest=newest,
        )
        if newest_head is None:
            newest_head = found.head
        # Up to where a part begins, an engine may give any floor.
        floors |= {name: floor for name, floor in found.floors.items() if floor > after}
        part = list(found.publications)
        size += sum(len(publication.event.data) for publication in part)
        publications = part + publications if newest else publications + part
        # Of a part that was incomplete retention may have taken everything meanwhile.
        if found.complete or not part or len(publications) == limit or size >= PAGE_BYTES:
            # What was accepted since the newest part was read is in none of the parts.
            head = newest_head if newest else found.head
            return attrs.evolve(found, publications=tuple(publications), floors=floors, head=head)
        if newest:
            before = part[0].seq
        else:
            after = part[-1].seq


def _read_position(query: Fields, name: str, head: Position) -> int | None:
    """Return the ``seq`` of a cursor in the query. Raises InvalidCursor."""
    text = query.get(name)
    if not text:
        return None
    position = parse_cursor(text).position
    if position is None or position.epoch != head.epoch:
        raise InvalidCursor(f"{name} is of another store: begin anew without it")
    return position.seq
