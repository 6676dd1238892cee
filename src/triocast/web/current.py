"""The node, the caller and the connection id of the request under way."""

from __future__ import annotations

import secrets
from typing import Final

from quart import current_app
from quart.wrappers import Request, Websocket

from triocast.auth import Grant
from triocast.errors import Forbidden
from triocast.node import Node

NODE_KEY: Final = "TRIOCAST_NODE"


def current_node() -> Node:
    """Return the node that the current application serves."""
    node = current_app.config[NODE_KEY]
    assert isinstance(node, Node)
    return node


def caller_address(request: Request | Websocket) -> str | None:
    """Return the peer's IP address; None where the transport has none."""
    client = request.scope.get("client")
    return client[0] if client else None


def caller_grant(request: Request | Websocket) -> Grant:
    """Return the caller's grant. Raises Unauthorized or Forbidden."""
    authenticator = current_node().authenticator
    return authenticator.grant(request.headers, request.args, caller_address(request))


def admin_grant(request: Request) -> Grant:
    """Return the caller's grant if it is an administrator's. Raises Unauthorized or Forbidden."""
    grant = caller_grant(request)
    if not grant.admin:
        raise Forbidden("this is for administrators")
    return grant


def new_connection_id() -> str:
    """Return an id that nobody can guess: knowing it is enough to be written to."""
    return secrets.token_urlsafe(12)
