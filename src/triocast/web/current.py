"""The node and the call of the request under way."""

from __future__ import annotations

import secrets
from typing import Final

from quart import current_app, g, has_websocket_context, request, websocket

from triocast.auth import Grant
from triocast.errors import Forbidden
from triocast.node import Node
from triocast.web.call import Call

NODE_KEY: Final = "TRIOCAST_NODE"
ORIGINS_KEY: Final = "TRIOCAST_ORIGINS"


def current_node() -> Node:
    """Return the node that the current application serves."""
    node = current_app.config[NODE_KEY]
    assert isinstance(node, Node)
    return node


def current_call() -> Call:
    """Return the call that Quart is answering."""
    call = g.get("triocast_call")
    if call is None:
        caller = websocket if has_websocket_context() else request
        call = g.triocast_call = Call.of_scope(caller.scope)
    assert isinstance(call, Call)
    return call


def grant_of(node: Node, call: Call) -> Grant:
    """Return the caller's grant. Raises Unauthorized or Forbidden."""
    return node.authenticator.grant(call.headers, call.query, call.address)


def admin_grant(node: Node, call: Call) -> Grant:
    """Return the caller's grant if it is an administrator's. Raises Unauthorized or Forbidden."""
    grant = grant_of(node, call)
    if not grant.admin:
        raise Forbidden("this is for administrators")
    return grant


def new_connection_id() -> str:
    """Return an id that nobody can guess: knowing it is enough to be written to."""
    return secrets.token_urlsafe(12)
