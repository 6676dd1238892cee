"""`create_app`: the ASGI application of one node."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Final

import trio
from quart import Response, has_request_context, request
from quart import websocket as websocket_request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from triocast.engines import siblings
from triocast.errors import (
    BadRequest,
    CloseCode,
    TooManyConnections,
    TriocastError,
    Unavailable,
    UpgradeRequired,
)
from triocast.node import Node, NodeState, build_node
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
from triocast.web.answers import Answer, failure, refusal
from triocast.web.body import Request
from triocast.web.call import Call
from triocast.web.current import NODE_KEY, ORIGINS_KEY, current_call, current_node
from triocast.web.gate import Gate
from triocast.web.origins import Origins, guard
from triocast.web.plain import refuse
from triocast.web.targets import SERVER, local_scope

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


class App(QuartTrio):
    """The application: refuses everything while its node does not run."""

    gate: Gate

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve what an ASGI server asks for."""
        is_start = scope["type"] == "lifespan" and trio.lowlevel.in_trio_task()
        obstacle = None if is_start else await self.gate.obstacle()
        if obstacle is not None:
            await self.gate.refuse(obstacle, scope, receive, send)
        elif scope["type"] == "lifespan":
            await super().asgi_app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            local = local_scope(scope)
        except TriocastError as error:
            answer = refusal(error)
            if scope["http_version"].startswith("1"):
                answer.headers.append(("connection", "close"))
        else:
            if local["path"] != SERVER:
                await super().asgi_app(local, receive, send)
                return
            answer = _about_server(local)
        answer.headers += self.config[ORIGINS_KEY].response_headers(Call.of_scope(scope))
        await refuse(answer, (CloseCode.POLICY, "bad_request"), scope, receive, send)


def create_app(settings: Settings | None = None, *, own_server: bool = False) -> QuartTrio:
    """Return the ASGI application; without settings it reads them from file and environment.

    Its node runs from ``lifespan.startup`` to ``lifespan.shutdown``. ``own_server`` says that
    Triocast's own server runs the application, and its node. Raises SettingsError.
    """
    if settings is None:
        settings = load_settings().settings
    node = build_node(settings)
    app = App("triocast", static_folder=None)
    app.url_map.merge_slashes = False  # Werkzeug's redirects to other paths are none of Quart's.
    app.request_class = Request
    app.asgi_http_class = asgi.HTTPConnection
    app.asgi_websocket_class = asgi.WebSocketConnection
    app.asgi_lifespan_class = asgi.Lifespan
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["BODY_TIMEOUT"] = settings.handshake_seconds
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None
    app.config[NODE_KEY] = node
    origins = app.config[ORIGINS_KEY] = Origins(settings.allowed_origins)
    for endpoints in ENDPOINTS:
        prefix = settings.peerjs_path.rstrip("/") if endpoints is peerjs else None
        app.register_blueprint(endpoints.blueprint, url_prefix=prefix or None)
    guard(app, origins)
    app.gate = Gate(node, origins)
    app.register_error_handler(TriocastError, _refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _fail)

    if not own_server:
        _run_with_lifespan(app, node)
    return app


def node_of(app: QuartTrio) -> Node:
    """Return the node that an application of `create_app` serves."""
    node = app.config[NODE_KEY]
    assert isinstance(node, Node)
    return node


def _run_with_lifespan(app: QuartTrio, node: Node) -> None:
    """Run the node as long as a server has the application run."""
    claims = contextlib.ExitStack()

    @app.before_serving
    async def start() -> None:
        if node.state is not NodeState.NOT_STARTED:
            raise RuntimeError("an application runs once: make another one with create_app()")
        if node.settings.engine == "memory://":
            claims.enter_context(siblings.claim_parent() or contextlib.nullcontext())
        log.warning("%s", STOCK_SERVER_NOTE)
        app.nursery.start_soon(_run_node, node)

    @app.after_serving
    async def stop() -> None:
        claims.close()


async def _run_node(node: Node) -> None:
    """Run the node of an application. If it fails, the application goes on, to say so."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell_of_failure, node)
        try:
            await node.run()
        except* Exception as errors:
            log.debug("the node has ended", exc_info=errors)
        nursery.cancel_scope.cancel()


async def _tell_of_failure(node: Node) -> None:
    failure = await node.wait_for_failure()
    log.critical(
        "%s: every request is refused until this process is restarted", failure, exc_info=failure
    )


def _about_server(scope: Any) -> Answer:
    """Answer what asks for no address, but for the server as a whole (RFC 9110, 9.3.7)."""
    if scope.get("method") == "OPTIONS":
        return Answer(204, [("allow", "DELETE, GET, HEAD, OPTIONS, POST, PUT")])
    return refusal(BadRequest("only OPTIONS is about the server as a whole, *"))


async def _refuse(error: TriocastError) -> Response:
    response = refusal(error).as_response()
    if isinstance(error, Unavailable):
        call = current_call()
        current_node().connections.note_refusal(error, call.address)
        if isinstance(error, TooManyConnections) and call.http_version == "1.1":
            # What has no place as a connection should not keep one as a request.
            response.headers["Connection"] = "close"
    return response


async def _refuse_http(error: HTTPException) -> Response:
    """Answer what Quart itself refuses (no such path, method, body too large) in our form."""
    if isinstance(error, WebsocketMismatch):
        return _refuse_mismatch().as_response()
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


def _refuse_mismatch() -> Answer:
    """Answer a request for a WebSocket's address, or a handshake at any other."""
    call = current_call()
    if not has_request_context():
        return refusal(BadRequest("this address takes no WebSocket"))
    if call.method == "OPTIONS":
        return Answer(204, [("allow", "GET, HEAD, OPTIONS")])
    if call.http_version == "2":
        return refusal(BadRequest("this address takes a WebSocket: send CONNECT (RFC 8441)"))
    return refusal(
        UpgradeRequired(
            "this address takes a WebSocket: send Connection: Upgrade, Upgrade: websocket,"
            " Sec-WebSocket-Key, and Sec-WebSocket-Version: 13"
        )
    )


async def _fail(error: Exception) -> Response:
    failed = request if has_request_context() else websocket_request
    where = failed.url_rule or failed.path  # Not what was in the path: it may be a token.
    log.error("%s failed", where, exc_info=error)
    return failure().as_response()
