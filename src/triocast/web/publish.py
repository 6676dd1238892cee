"""``POST /realtime/broadcast`` and ``POST /realtime/send``: events in, through REST.

A body of ``application/json`` is one event, or an array of which all or none are published. A
body of ``application/x-ndjson`` is a stream of any length: each line stands alone and is published
as it arrives, up to the first bad one.

The header ``Idempotency-Key`` makes a JSON request that is sent again do nothing; in NDJSON each
line has its own ``idempotency_key``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs
import msgspec
import trio
from werkzeug.exceptions import RequestEntityTooLarge

from triocast.auth import Grant
from triocast.errors import BadRequest, InvalidEvent, Timeout, TooLarge, WrongContentType
from triocast.events import (
    BROADCAST,
    Accepted,
    Event,
    Pending,
    parse_idempotency_key,
)
from triocast.node import Node
from triocast.publisher import Idempotency
from triocast.turns import Turns, finish
from triocast.web.answers import Answer, json_answer
from triocast.web.body import RequestBody
from triocast.web.call import Call
from triocast.web.current import grant_of
from triocast.web.lines import publish_lines
from triocast.web.parameters import check_query
from triocast.web.plain import Endpoint
from triocast.wire import cursor, json, new_event
from triocast.wire.new_event import AddressedBody, Body

MOST_EVENTS: Final = 1_000
"""Events in one JSON array; more go as NDJSON."""


_Decoders = tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[list[Any]]]

_BROADCAST: Final[_Decoders] = (msgspec.json.Decoder(Body), msgspec.json.Decoder(list[Body]))
_SEND: Final[_Decoders] = (
    msgspec.json.Decoder(AddressedBody),
    msgspec.json.Decoder(list[AddressedBody]),
)


async def _publish(
    decoders: _Decoders, route: str, node: Node, call: Call, body: RequestBody
) -> Answer:
    check_query(call, route)
    grant = grant_of(node, call)
    one, many = decoders
    if call.content_type in ("application/x-ndjson", "application/ndjson", "application/jsonl"):

        def event_of_line(line: bytes) -> Event:
            json.check(line, max_depth=node.settings.max_json_depth)
            return _event(node, grant, json.decode(one, line))

        call.check_encoding()
        progress = await publish_lines(
            node.publisher,
            aiter(body),
            event_of_line,
            max_line_bytes=node.settings.max_body_bytes,
            silence_seconds=node.settings.handshake_seconds,
        )
        status = 200 if progress.error is None else progress.error.status
        return json_answer(progress.as_dict(), status)
    if not call.has_json:
        raise WrongContentType("send application/json or application/x-ndjson")
    text = await read_text(call, body, node.settings.handshake_seconds)
    items = await finish(json.checking(text, max_depth=node.settings.max_json_depth))
    if text.lstrip()[:1] != b"[":
        event = _event(node, grant, json.decode(one, text), idempotency_of(call))
        (answer,) = await _publish_counted(node, [event])
        await node.hub.take_turn()  # The reply can wait; those who listen should not.
        return json_answer(answer)
    # Of a large array, before its events are made objects.
    if items > MOST_EVENTS or len(messages := json.decode(many, text)) > MOST_EVENTS:
        raise TooLarge(f"an array has at most {MOST_EVENTS} events; send NDJSON for more")
    events = []
    key = idempotency_of(call)
    # Hashed once: each event's digest takes it in.
    request = b"" if key is None else hashlib.sha256(text).digest()
    turns = Turns()
    for index, message in enumerate(messages):
        await turns.give_if_over()
        once = None if key is None else Idempotency(key.key, index, request)
        try:
            events.append(_event(node, grant, message, once))
        except BadRequest as error:
            raise type(error)(f"event {index}: {error.message}") from None
    positions = await _publish_counted(node, events) if events else []
    return json_answer({"published": len(positions), "positions": positions})


async def _publish_counted(node: Node, events: list[Event]) -> list[dict[str, object]]:
    """Publish events; return where each stands, and how many subscribers its channel had."""
    turns = Turns()
    counts: dict[str, int] = {}
    counted = []
    for event in events:
        if event.channel not in counts:
            counts[event.channel] = await node.hub.count(event.channel)
        once = event.once and attrs.evolve(event.once, subscribers=counts[event.channel])
        counted.append(event if once is None else attrs.evolve(event, once=once))
        await turns.give_if_over()
    answers = []
    for event, accepted in zip(events, await node.publisher.publish(counted), strict=True):
        once = accepted.event.once  # With what it was recorded with, if it came before.
        subscribers = counts[event.channel] if once is None else once.subscribers
        answers.append({**place(accepted), "subscribers": subscribers})
        await turns.give_if_over()
    return answers


ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    path: partial(_publish, decoders, f"POST {path}")
    for path, decoders in (("/realtime/broadcast", _BROADCAST), ("/realtime/send", _SEND))
}
"""By path: to everybody or a channel, and to a user, a connection or a channel."""


async def read_text(call: Call, body: RequestBody, seconds: float) -> bytes:
    """Return a body whole.

    Raises WrongContentEncoding, TooLarge, Timeout, BadRequest where there is nothing in it.
    """
    call.check_encoding()
    try:
        with trio.fail_after(seconds):
            text = await body
    except RequestEntityTooLarge:
        raise TooLarge("the body is larger than max_body_bytes; send NDJSON") from None
    except trio.TooSlowError:
        raise Timeout("the body did not come in time") from None
    if not text.strip():
        raise BadRequest("the body is empty; send JSON")
    return text


def idempotency_of(call: Call) -> Idempotency | None:
    """Return what the header ``Idempotency-Key`` says of the whole request."""
    key = call.headers.get("Idempotency-Key")
    return None if key is None else Idempotency(parse_idempotency_key(key))


def _event(node: Node, grant: Grant, body: Body, once: Idempotency | None = None) -> Event:
    said = new_event.read(body)
    if said.channel is None and isinstance(body, AddressedBody):
        raise InvalidEvent("name exactly one of user_id, connection_id and channel")
    return node.publisher.new_event(grant, said, otherwise=BROADCAST, once=once)


def place(accepted: Accepted) -> dict[str, object]:
    """Return where an event stands, as it is answered; ``pending`` if it has no position yet."""
    channel = accepted.event.channel
    if isinstance(accepted, Pending):
        return {"pending": True, "channel": channel}
    return {
        "id": cursor.encode(accepted.position),
        "epoch": accepted.position.epoch,
        "seq": accepted.seq,
        "channel": channel,
    }
