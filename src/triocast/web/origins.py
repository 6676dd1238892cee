"""Which web pages may talk to us: CORS for HTTP, the Origin header for WebSockets.

A page of the same origin always may; others have to be on the allow-list. Requests without an
Origin header do not come from a page's script and are a matter of their grant.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from quart import Response
from quart_trio import QuartTrio

from triocast.errors import OriginRefused
from triocast.web.answers import Answer
from triocast.web.call import Call
from triocast.web.current import current_call

ALLOWED_METHODS = "DELETE, GET, POST, PUT"
ALLOWED_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID"
)
PREFLIGHT_SECONDS = 600


class Origins:
    """The allow-list, and what follows from it for a call."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)

    def check(self, call: Call) -> None:
        """Raise OriginRefused if the page that calls may not."""
        origin = _origin(call)
        if origin is None or self._lists(origin):
            return
        try:
            parts = urlsplit(origin)
        except ValueError:
            raise OriginRefused("the Origin header is none") from None
        scheme = {"ws": "http", "wss": "https"}.get(call.scheme, call.scheme)
        if (parts.scheme, parts.netloc.lower()) != (
            scheme,
            (call.headers.get("Host") or "").lower(),
        ):
            raise OriginRefused("this web page's origin is not on the list allowed_origins")

    def check_http(self, call: Call) -> None:
        """The same for what is not read with a GET: reading is for the browser to refuse."""
        if call.method not in ("GET", "HEAD"):
            self.check(call)
        else:
            _origin(call)

    def preflight(self, call: Call) -> Answer | None:
        """Return the answer to a browser that asks before it calls; None for any other call.

        Raises OriginRefused.
        """
        if call.method != "OPTIONS" or "Access-Control-Request-Method" not in call.headers:
            return None
        if _origin(call) is None:
            return None
        self.check(call)
        return Answer(
            204,
            [
                ("access-control-allow-methods", ALLOWED_METHODS),
                ("access-control-allow-headers", ALLOWED_HEADERS),
                ("access-control-max-age", str(PREFLIGHT_SECONDS)),
            ],
        )

    def response_headers(self, call: Call) -> list[tuple[str, str]]:
        """Return the headers by which a browser lets a page read the response."""
        origins = call.headers.all("Origin")
        if len(origins) != 1:
            return []
        (origin,) = origins
        headers = [("vary", "Origin")]
        if self._lists(origin):
            headers.append(("access-control-allow-origin", origin))
            headers.append(("access-control-expose-headers", "ETag, Retry-After"))
            if "*" not in self._allowed:
                headers.append(("access-control-allow-credentials", "true"))
        return headers

    def _lists(self, origin: str) -> bool:
        return "*" in self._allowed or origin in self._allowed


def _origin(call: Call) -> str | None:
    """Return the page's origin; None for what is no page. Raises OriginRefused for two of them."""
    origins = call.headers.all("Origin")
    if len(origins) > 1:
        raise OriginRefused("a request has one Origin header")
    return origins[0] if origins else None


def guard(app: QuartTrio, origins: Origins) -> None:
    """Guard every endpoint of the app."""

    @app.before_request
    async def answer_preflight() -> Response | None:
        answer = origins.preflight(current_call())
        return None if answer is None else answer.as_response()

    @app.before_request
    async def check_origin() -> None:
        origins.check_http(current_call())

    @app.before_websocket
    async def check_websocket_origin() -> None:
        origins.check(current_call())

    @app.after_request
    async def allow_reading(response: Response) -> Response:
        for name, value in origins.response_headers(current_call()):
            response.headers.add(name, value)
        return response
