"""`create_app`: the ASGI application of one node."""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from quart import Response, has_request_context, request
from quart import websocket as websocket_request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from triocast.engines import siblings
from triocast.errors import TriocastError
from triocast.node import Node, build_node
from triocast.settings import Settings, load_settings
from triocast.web import (
    asgi,
    documents,
    events,
    health,
    history,
    peerjs,
    poll,
    presence,
    sdk,
    signaling,
    stats,
    websocket,
)
from triocast.web.answers import failure, refusal
from triocast.web.body import Request
from triocast.web.current import NODE_KEY, ORIGINS_KEY
from triocast.web.origins import Origins, guard

log = logging.getLogger("triocast.web")

ENDPOINTS: Final = (
    events,
    websocket,
    poll,
    history,
    documents,
    presence,
    signaling,
    peerjs,
    sdk,
    stats,
    health,
)

STOCK_SERVER_NOTE = (
    "this is not Triocast's own server: connections go the portable way, which is slower;"
    " a stock Hypercorn can be stalled or ended by hostile clients, does not notice dead peers and"
    " sends no farewell when it stops. Use 'triocast serve' in production."
)


def create_app(settings: Settings | None = None, *, own_server: bool = False) -> QuartTrio:
    """Return the ASGI application; without settings it reads them from file and environment.

    ``own_server`` says that Triocast's own server runs it. Raises SettingsError.
    """
    if settings is None:
        settings = load_settings().settings
    node = build_node(settings)
    app = QuartTrio("triocast", static_folder=None)
    app.url_map.merge_slashes = False  # Werkzeug's redirects to other paths are none of Quart's.
    app.request_class = Request
    app.asgi_http_class = asgi.HTTPConnection
    app.asgi_websocket_class = asgi.WebSocketConnection
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["BODY_TIMEOUT"] = settings.handshake_seconds
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None
    app.config[NODE_KEY] = node
    origins = app.config[ORIGINS_KEY] = Origins(settings.allowed_origins)
    for endpoints in ENDPOINTS:
        prefix = settings.peerjs_path.rstrip("/") if endpoints is peerjs else None
        app.register_blueprint(endpoints.blueprint, url_prefix=prefix or None)
    guard(app, origins)
    app.register_error_handler(TriocastError, _refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _fail)

    claims = contextlib.ExitStack()

    @app.before_serving
    async def start() -> None:
        if settings.engine == "memory://":
            claims.enter_context(siblings.claim_parent() or contextlib.nullcontext())
        if not own_server:
            log.warning("%s", STOCK_SERVER_NOTE)
        app.nursery.start_soon(node.run)

    @app.after_serving
    async def stop() -> None:
        claims.close()

    return app


def node_of(app: QuartTrio) -> Node:
    """Return the node that an application of `create_app` serves."""
    node = app.config[NODE_KEY]
    assert isinstance(node, Node)
    return node


async def _refuse(error: TriocastError) -> Response:
    return refusal(error).as_response()


async def _refuse_http(error: HTTPException) -> Response:
    """Answer what Quart itself refuses (no such path, method, body too large) in our form."""
    code = (error.name or "error").lower().replace(" ", "_")
    answer = refusal(
        TriocastError(error.description or error.name), status=error.code or 500, code=code
    )
    response = answer.as_response()
    if error.code == 405:
        allowed = dict(error.get_headers()).get("Allow")
        if allowed:
            response.headers["Allow"] = allowed
    return response


async def _fail(error: Exception) -> Response:
    failed = request if has_request_context() else websocket_request
    where = failed.url_rule or failed.path  # Not what was in the path: it may be a token.
    log.error("%s failed", where, exc_info=error)
    return failure().as_response()
