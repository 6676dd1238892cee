"""``/realtime/documents``: small versioned records, each written in one step with its event.

A document stands in a channel under a key. Who may listen to the channel may read it, who may
publish there may write it. Its version is in the ``ETag``; a write that names another one by
``If-Match`` is refused, so that no update is lost.
"""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response, request

from triocast.auth import Grant
from triocast.documents import Document, Write
from triocast.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    VersionConflict,
    WrongContentType,
)
from triocast.events import parse_channel, parse_key, parse_tags, parse_type
from triocast.node import Node
from triocast.web.answers import Answer, json_answer
from triocast.web.body import RequestBody
from triocast.web.call import Call, Fields
from triocast.web.current import current_call, current_node, grant_of
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
    tag = _tag(node, document.version)
    headers = [("cache-control", "private, no-cache"), ("etag", tag)]
    if tag in (_strong(each) for each in call.headers.tokens("If-None-Match")):
        return Answer(304, headers).as_response()
    headers.append(("content-type", "application/json"))
    return Answer(200, headers, document.data).as_response()


@blueprint.put(PATH)
async def write() -> Response:
    """Make the body the document's data; the event in its channel has the same data.

    Query: ``type`` and ``tag`` (repeatable) of the event, and ``urgent=1`` for one that is not held
    back. ``If-Match`` names the version that is replaced, ``If-None-Match: *`` says that there is
    none. Raises VersionConflict if that is not so.
    """
    node, call = current_node(), current_call()
    grant = grant_of(node, call)
    if not call.has_json:
        raise WrongContentType("send the document as application/json")
    channel, key = _read_channel(call.query), _read_key(call.query)
    body = request.body
    assert isinstance(body, RequestBody)
    text = await read_text(body, node.settings.handshake_seconds)
    json.check(text, max_depth=node.settings.max_json_depth)
    data = json.compact(json.decode(json.RAW, text))
    expected = await _read_expected(node, call, channel, key)
    return await _publish(node, call, grant, channel, key, CHANGED, data, Write(data, expected))


@blueprint.delete(PATH)
async def remove() -> Response:
    """Remove a document; the event in its channel has ``null`` as its data.

    Query and ``If-Match`` as for writing. Raises NotFound if there is none.
    """
    node, call = current_node(), current_call()
    grant = grant_of(node, call)
    channel, key = _read_channel(call.query), _read_key(call.query)
    expected = await _read_expected(node, call, channel, key)
    if grant.may_publish(channel) and await node.engine.document(channel, key) is None:
        raise NotFound(f"{channel} has no document {key!r}")
    return await _publish(node, call, grant, channel, key, REMOVED, b"null", Write(None, expected))


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
        once=idempotency_of(call),
        write=write,
        urgent=call.query.get("urgent") == "1",
    )
    (accepted,) = await node.publisher.publish([event])
    version = accepted.event.version
    assert version is not None
    answer = json_answer({**place(accepted), "key": key, "version": version})
    if write.data is not None:
        answer.headers.append(("etag", _tag(node, version)))
    return answer.as_response()


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


async def _read_expected(node: Node, call: Call, channel: str, key: str) -> int | None:
    """Return what version the document has to be at. Raises BadRequest, VersionConflict."""
    match = call.headers.tokens("If-Match")
    none = call.headers.tokens("If-None-Match")
    if not match and not none:
        return None
    if none:
        if match or none != ["*"]:
            raise BadRequest("say If-Match with one version, or If-None-Match: *")
        return 0
    if match == ["*"]:
        document = await node.engine.document(channel, key)
        if document is None:
            raise VersionConflict(f"the document {key!r} is not there")
        return document.version
    if len(match) > 1:
        raise BadRequest("If-Match names one version")
    epoch, _, version = match[0].strip('"').rpartition(".")
    if not (version.isascii() and version.isdecimal() and len(version) < 19):
        raise BadRequest("If-Match is the ETag that came with the document")
    if epoch != node.engine.head.epoch:
        raise VersionConflict(f"the version of {key!r} is of another store; read it again")
    return int(version)


def _tag(node: Node, version: int) -> str:
    # With the epoch, as a store that was put back gives versions again.
    return f'"{node.engine.head.epoch}.{version}"'


def _strong(tag: str) -> str:
    return tag.removeprefix("W/")


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
