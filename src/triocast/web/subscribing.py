"""What a client subscribes to by its query, alike on every transport.

``channel`` (repeatable; a channel or pattern), ``type`` and ``tag`` (repeatable filters), and where
it begins: ``cursor``, or for a newcomer ``since=latest`` or ``last=n``.
"""

from __future__ import annotations

from triocast.auth import Grant
from triocast.errors import BadRequest, Forbidden, TooManyChannels
from triocast.events import parse_pattern, parse_tags, parse_type
from triocast.node import Node
from triocast.subscriptions import Filter, make_filter
from triocast.web.call import Call, Fields
from triocast.wire.start import Start, parse_cursor, parse_foreign_cursor, parse_state


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


def read_filter(query: Fields) -> Filter:
    """Return the filter by types and tags. Raises InvalidEvent."""
    types = [parse_type(value) for value in query.all("type")]
    return make_filter(types, parse_tags(query.all("tag")))


def read_limit(query: Fields, *, usual: int, most: int) -> int:
    """Return how many entries a page has at the most. Raises BadRequest."""
    text = query.get("limit")
    if text is None:
        return usual
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise BadRequest(f"limit is a number from 1 to {most}")
    return int(text)


def read_start(query: Fields) -> Start | None:
    """Return where the client begins; None is now. Raises InvalidCursor or BadRequest."""
    last = query.get("last")
    if last is not None and not (last.isascii() and last.isdecimal() and len(last) < 10):
        raise BadRequest("last is a whole number")
    state = parse_state(query.get("since"), None if last is None else int(last))
    text = query.get("cursor")
    return parse_cursor(text) if text else state


def read_stream_start(call: Call) -> Start | None:
    """The same for an ``EventSource``.

    It comes back with the header ``Last-Event-ID``, which outweighs ``last_event_id`` in the query.
    """
    header = call.headers.get("Last-Event-ID")
    if header:
        return parse_foreign_cursor(header)
    start = read_start(call.query)
    text = call.query.get("last_event_id")
    return parse_cursor(text) if text else start
