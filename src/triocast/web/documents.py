"""``/realtime/documents``: small versioned records, each written in one step with its event.

A document stands in a channel under a key. Who may listen to the channel may read it, who may
publish there may write it. Its version is in the ``ETag``; a write that names another one by
``If-Match`` is refused, so that no update is lost.
"""

from __future__ import annotations

from typing import Final

import attrs
from quart import Blueprint, Response, request

from triocast.auth import Grant
from triocast.documents import PRESENT, Document, Precondition, Write
from triocast.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    VersionConflict,
    WrongContentType,
)
from triocast.events import parse_channel, parse_key, parse_tags, parse_type
from triocast.node import Node
from triocast.publisher import Idempotency
from triocast.turns import finish
from triocast.web.answers import Answer, json_answer
from triocast.web.body import RequestBody
from triocast.web.call import Call, Fields
from triocast.web.current import current_call, current_node, grant_of
from triocast.web.parameters import check_query
from triocast.web.preconditions import read_precondition, tag_of
from triocast.web.publish import idempotency_of, place, read_text
from triocast.web.subscribing import read_limit
from triocast.wire import cursor, json

PATH: Final = "/realtime/documents"
MOST_DOCUMENTS: Final = 1_000
USUAL_DOCUMENTS: Final = 100
PAGE_BYTES: Final = 4_194_304
"""How much data one page of a list has at the most."""

CHANGED: Final = "document_changed"
REMOVED: Final = "document_removed"

blueprint = Blueprint("documents", __name__)


@blueprint.get(PATH)
async def read() -> Response:
    """Answer a document's data, or without a ``key`` the channel's documents, page by page.

    Query of a list: ``limit``, and ``after``, the key behind which the page begins. ``id`` in the
    answer is the cursor from which to listen on.
    """
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/documents")
    grant = grant_of(node, call)
    channel = _read_channel(call.query)
    if not grant.may_subscribe(channel):
        raise Forbidden(f"you may not read what is in {channel}")
    if "key" not in call.query:
        return await _list(node, channel, call.query)
    key = _read_key(call.query)
    document = await node.engine.document(channel, key)
    if document is None:
        raise NotFound(f"{channel} has no document {key!r}")
    epoch = node.engine.head.epoch
    headers = [("cache-control", "private, no-cache"), ("etag", tag_of(epoch, document.version))]
    asked = read_precondition(call.headers, epoch) or Precondition()
    if (mismatch := Precondition(match=asked.match).mismatch(document.version)) is not None:
        raise VersionConflict(f"the document {key!r} is not as expected: {mismatch}")
    if asked.mismatch(document.version) is not None:
        return Answer(304, headers).as_response()
    headers.append(("content-type", "application/json"))
    return Answer(200, headers, document.data).as_response()


@blueprint.put(PATH)
async def write() -> Response:
    """Make the body the document's data; the event in its channel has the same data.

    Query: ``type`` and ``tag`` (repeatable) of the event, and ``urgent=1`` for one that is not held
    back. ``If-Match`` and ``If-None-Match`` say what has to be there. Raises VersionConflict if it
    is not.
    """
    node, call = current_node(), current_call()
    check_query(call, "PUT /realtime/documents")
    grant = grant_of(node, call)
    if not call.has_json:
        raise WrongContentType("send the document as application/json")
    channel, key = _read_channel(call.query), _read_key(call.query)
    body = request.body
    assert isinstance(body, RequestBody)
    text = await read_text(call, body, node.settings.handshake_seconds)
    await finish(json.checking(text, max_depth=node.settings.max_json_depth))
    data = json.compact(json.decode(json.RAW, text))
    expected = read_precondition(call.headers, node.engine.head.epoch)
    return await _publish(node, call, grant, channel, key, CHANGED, data, Write(data, expected))


@blueprint.delete(PATH)
async def remove() -> Response:
    """Remove a document; the event in its channel has ``null`` as its data.

    Query and conditions as for writing. Raises NotFound if there is none, VersionConflict if a
    condition is not true.
    """
    node, call = current_node(), current_call()
    check_query(call, "DELETE /realtime/documents")
    grant = grant_of(node, call)
    channel, key = _read_channel(call.query), _read_key(call.query)
    expected = read_precondition(call.headers, node.engine.head.epoch)
    write = Write(None, expected or PRESENT)
    try:
        return await _publish(node, call, grant, channel, key, REMOVED, b"null", write)
    except VersionConflict:
        if expected is not None:
            raise
        raise NotFound(f"{channel} has no document {key!r}") from None


async def _publish(
    node: Node,
    call: Call,
    grant: Grant,
    channel: str,
    key: str,
    type: str,
    data: bytes,
    write: Write,
) -> Response:
    event = node.publisher.event(
        grant,
        channel=channel,
        type=parse_type(call.query.get("type") or type),
        data=data,
        key=key,
        tags=parse_tags(call.query.all("tag")),
        once=_idempotency(call),
        write=write,
        urgent=call.query.get("urgent") == "1",
    )
    (accepted,) = await node.publisher.publish([event])
    version = accepted.event.version
    assert version is not None
    answer = json_answer({**place(accepted), "key": key, "version": version})
    if write.data is not None:
        answer.headers.append(("etag", tag_of(accepted.epoch, version)))
    return answer.as_response()


def _idempotency(call: Call) -> Idempotency | None:
    """Return what the request says of being sent again; its conditions are part of what it says."""
    once = idempotency_of(call)
    if once is None:
        return None
    conditions = [call.headers.all(name) for name in ("If-Match", "If-None-Match")]
    return attrs.evolve(once, request=b"%r" % conditions if any(conditions) else b"")


async def _list(node: Node, channel: str, query: Fields) -> Response:
    found = await node.engine.documents(
        channel,
        after=query.get("after") or "",
        limit=read_limit(query, usual=USUAL_DOCUMENTS, most=MOST_DOCUMENTS),
        limit_bytes=PAGE_BYTES,
    )
    page = {
        "more": not found.complete,
        "version": found.version,
        "id": cursor.encode(found.head),
    }
    listed = b",".join(map(_listed, found.documents))
    body = b'{"documents":[%s],%s' % (listed, json.encode(page)[1:])
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    return Answer(200, headers, body).as_response()


def _listed(document: Document) -> bytes:
    about = {"key": document.key, "version": document.version, "timestamp": document.timestamp}
    if document.user is not None:
        about["user"] = document.user
    return b'%s,"data":%s}' % (json.encode(about)[:-1], document.data)


def _read_channel(query: Fields) -> str:
    name = query.get("channel")
    if not name:
        raise BadRequest("name the document's 'channel'")
    return parse_channel(name)


def _read_key(query: Fields) -> str:
    key = query.get("key")
    if key is None:
        raise BadRequest("name the document's 'key'")
    return parse_key(key)
