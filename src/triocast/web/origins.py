"""Which web pages may talk to us: CORS for HTTP, the Origin header for WebSockets.

A page of the same origin always may; others have to be on the allow-list. Requests without an
Origin header do not come from a page's script and are a matter of their grant.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from quart import Response, request, websocket
from quart.wrappers import Request, Websocket
from quart_trio import QuartTrio

from triocast.errors import OriginRefused
from triocast.settings import Settings

ALLOWED_METHODS = "GET, POST"
ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
PREFLIGHT_SECONDS = 600


def install(app: QuartTrio, settings: Settings) -> None:
    """Guard every endpoint of the app."""
    allowed = frozenset(settings.allowed_origins)

    @app.before_request
    async def answer_preflight() -> Response | None:
        origin = _origin(request)
        if origin is None or request.method != "OPTIONS":
            return None
        if "Access-Control-Request-Method" not in request.headers:
            return None
        _check(request, origin, allowed)
        return Response(
            b"",
            status=204,
            headers={
                "Access-Control-Allow-Methods": ALLOWED_METHODS,
                "Access-Control-Allow-Headers": ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
            },
        )

    @app.before_request
    async def check_origin() -> None:
        origin = _origin(request)
        if origin is not None and request.method not in ("GET", "HEAD"):
            _check(request, origin, allowed)

    @app.before_websocket
    async def check_websocket_origin() -> None:
        origin = _origin(websocket)
        if origin is not None:
            _check(websocket, origin, allowed)

    @app.after_request
    async def allow_reading(response: Response) -> Response:
        origins = request.headers.getlist("Origin")
        if len(origins) != 1:
            return response
        (origin,) = origins
        response.headers.add("Vary", "Origin")
        if _is_listed(origin, allowed):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"
            if "*" not in allowed:
                response.headers["Access-Control-Allow-Credentials"] = "true"
        return response


def _origin(caller: Request | Websocket) -> str | None:
    """Return the page's origin; None for what is no page. Raises OriginRefused for two of them."""
    origins = caller.headers.getlist("Origin")
    if len(origins) > 1:
        raise OriginRefused("a request has one Origin header")
    return origins[0] if origins else None


def _check(caller: Request | Websocket, origin: str, allowed: frozenset[str]) -> None:
    if _is_listed(origin, allowed):
        return
    try:
        parts = urlsplit(origin)
    except ValueError:
        raise OriginRefused("the Origin header is none") from None
    scheme = {"ws": "http", "wss": "https"}.get(caller.scheme, caller.scheme)
    if (parts.scheme, parts.netloc.lower()) == (scheme, caller.headers.get("Host", "").lower()):
        return
    raise OriginRefused("this web page's origin is not on the list allowed_origins")


def _is_listed(origin: str, allowed: frozenset[str]) -> bool:
    return "*" in allowed or origin in allowed
