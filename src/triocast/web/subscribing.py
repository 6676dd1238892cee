"""What a client subscribes to by its query, alike on every transport.

``channel`` (repeatable; a channel or pattern), ``type`` and ``tag`` (repeatable filters), and where
it begins: a cursor, or for a newcomer ``since=latest`` or ``last=n``.
"""

from __future__ import annotations

from triocast.auth import Grant
from triocast.errors import BadRequest, Forbidden, TooManyChannels
from triocast.events import parse_pattern, parse_tags, parse_type
from triocast.node import Node
from triocast.subscriptions import Filter, make_filter
from triocast.web.call import Call, Fields
from triocast.wire.numbers import parse_whole
from triocast.wire.start import MOST_LAST, Start, parse_cursor, parse_foreign_cursor, parse_state


def read_channels(node: Node, query: Fields, grant: Grant) -> tuple[str, ...]:
    """Return the channels and patterns, each once.

    Raises InvalidChannel, TooManyChannels, Forbidden or Disabled.
    """
    most = node.settings.max_channels_per_connection
    channels = tuple(dict.fromkeys(parse_pattern(name) for name in query.all("channel")))
    if len(channels) > most:
        raise TooManyChannels(f"a connection subscribes to {most} channels at the most")
    for name in channels:
        if not grant.may_subscribe(name):
            raise Forbidden(f"you may not subscribe to {name}")
    node.presence.check_names(channels)
    return channels


def read_subscriptions(node: Node, query: Fields, grant: Grant) -> tuple[str, ...]:
    """Return the channels and patterns that a client is about to subscribe to, each once.

    Raises as `read_channels` does, and Overloaded if all clients together have too many.
    """
    channels = read_channels(node, query, grant)
    node.hub.check_room(len(channels))
    return channels


def read_filter(query: Fields) -> Filter:
    """Return the filter by types and tags. Raises InvalidEvent."""
    types = [parse_type(value) for value in query.all("type")]
    return make_filter(types, parse_tags(query.all("tag")))


def read_limit(query: Fields, *, usual: int, most: int) -> int:
    """Return how many entries a page has at the most. Raises BadRequest."""
    text = query.get("limit")
    if text is None:
        return usual
    limit = parse_whole(text, least=1, most=most)
    if limit is None:
        raise BadRequest(f"limit is a number from 1 to {most}")
    return limit


def read_start(call: Call) -> Start | None:
    """Return where the client begins; None is now. Raises InvalidCursor or BadRequest.

    A cursor has many names, all of them known to every transport. The first of these counts: the
    header ``Last-Event-ID``, then ``lastEventId``, ``last_event_id`` and ``cursor`` in the query.
    Browsers and polyfills send the first two by themselves when they come back, to an address that
    still has the others as the page once wrote them. A polyfill's is the last of its name: the page
    may have written one, too.
    """
    appended = call.query.all("lastEventId")[-1:]
    for text in (call.headers.get("Last-Event-ID"), *appended):
        if text:
            return parse_foreign_cursor(text)
    state = _read_state(call.query)
    for name in ("last_event_id", "cursor"):
        if text := call.query.get(name):
            return parse_cursor(text)
    return state


def _read_state(query: Fields) -> Start | None:
    text = query.get("last")
    last = None if text is None else parse_whole(text, least=1, most=MOST_LAST)
    if last is None and text is not None:
        raise BadRequest(f"last is a number from 1 to {MOST_LAST}")
    return parse_state(query.get("since"), last)
