"""What the PeerJS client from npm asks for: ``WS /peerjs``, ``GET /<key>/id`` and ``/<key>/peers``.

Its ``key`` is the grant: a token where tokens are needed, any word elsewhere. It is in the
address because that client has no other place for it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from quart import Blueprint, Response

from triocast.auth import Grant, RoomRight
from triocast.errors import Disabled, Forbidden, NotFound, TriocastError, Unauthorized
from triocast.node import Node
from triocast.signaling.peerjs import Owner, is_issued, issue_id
from triocast.signaling.peerjs_messages import INVALID_KEY, MAX_SECRET, NOT_ALL_GIVEN, is_id
from triocast.transports.peerjs import PeerJS, PeerJSConnection
from triocast.web.answers import Answer, json_answer
from triocast.web.asgi import StreamResponse
from triocast.web.call import Call, Fields
from triocast.web.current import current_call, current_node, new_connection_id
from triocast.web.parameters import check_query

PATH: Final = "/peerjs"
"""Behind the setting ``peerjs_path``, as is every other path here."""

ROOM: Final = "peerjs"
"""The room whose right lets a token's holder in."""

_NOT_FOR_KEYS: Final = frozenset({"realtime"})
_key = re.compile(r"[A-Za-z0-9_-]{1,64}|[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_NO_QUERY: Final = Fields(())

blueprint = Blueprint("peerjs", __name__)


@blueprint.websocket(PATH)
async def accept_peer() -> Response:
    """Let a client in; see `open_peerjs`."""
    node, call = current_node(), current_call()
    connection = open_peerjs(node, call)
    node.connections.admit(connection)
    return StreamResponse(connection)


@blueprint.get("/<key>/id")
async def new_id(key: str) -> Response:
    """Answer an id that nobody has, as plain text."""
    node, call = current_node(), current_call()
    _enabled(node)
    check_query(call, "GET /<key>/id")
    grant, _ = _grant(node, call, _check(key))
    headers = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")]
    id = issue_id(node.settings.token_key or "", grant.user, secrets.token_hex(12))
    return Answer(200, headers, id.encode()).as_response()


@blueprint.get("/<key>/peers")
async def list_peers(key: str) -> Response:
    """Answer everybody's id, where that is allowed."""
    node, call = current_node(), current_call()
    peerjs = _enabled(node)
    check_query(call, "GET /<key>/peers")
    _grant(node, call, _check(key))
    if not node.settings.peerjs_discovery:
        raise Unauthorized("listing all peers is switched off here")
    return json_answer(peerjs.peers.ids).as_response()


def open_peerjs(node: Node, call: Call) -> PeerJSConnection:
    """Return the connection of a client that claims an id.

    One whose key, id or secret is wrong is told so on it. Raises Disabled.
    """
    peerjs = _enabled(node)
    grant, owner, refusal = Grant(), None, ""
    try:
        grant, owner = _claim(node, call)
    except TriocastError as error:
        refusal = error.message
    return PeerJSConnection(
        node.connections,
        peerjs,
        id=new_connection_id(),
        grant=grant,
        address=call.address,
        owner=owner,
        refusal=refusal,
    )


def _claim(node: Node, call: Call) -> tuple[Grant, Owner]:
    check_query(call, "GET /peerjs")
    query = call.query
    key, id, secret = query.get("key"), query.get("id"), query.get("token")
    if not key or not id or not secret:
        raise NotFound(NOT_ALL_GIVEN)
    try:
        grant, right = _grant(node, call, _check(key))
    except TriocastError as error:
        if error.code == NotFound.code or _is_token(node, key):
            raise Unauthorized(INVALID_KEY) from None
        raise  # It is not about the key, but about where the caller is.
    if not is_id(id) or len(secret) > MAX_SECRET:
        raise NotFound("Invalid id or token provided")
    if not right.claim and not is_issued(id, node.settings.token_key or "", grant.user):
        raise Forbidden("This key does not allow ids of one's own choice")
    # Its digest does for recognising it, and is short: a secret may be a token of some kB.
    digest = hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
    return grant, Owner(id, digest, grant.user)


def _enabled(node: Node) -> PeerJS:
    if node.peerjs is None:
        raise Disabled("PeerJS is switched off here")
    return node.peerjs


def _check(key: str) -> str:
    if key in _NOT_FOR_KEYS or _key.fullmatch(key) is None:
        raise NotFound("there is nothing here")
    return key


def _is_token(node: Node, key: str) -> bool:
    authenticator = node.authenticator
    return authenticator.needs_token or (authenticator.has_key and "." in key)


def _grant(node: Node, call: Call, key: str) -> tuple[Grant, RoomRight]:
    """Return what a key stands for. Raises Unauthorized or Forbidden."""
    authenticator = node.authenticator
    if _is_token(node, key):
        grant = authenticator.grant_of_token(key)
    else:
        # Without the query, whose 'token' is not ours.
        grant = authenticator.grant(call.headers, _NO_QUERY, call.address)
    right = grant.room_right(ROOM)
    if right is None:
        raise Forbidden(f"this token does not cover the room {ROOM!r}")
    return grant, right
