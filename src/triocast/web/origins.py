"""Which web pages may talk to us: CORS for HTTP, the Origin header for WebSockets.

A page of the same origin always may; others have to be on the allow-list. Requests without an
Origin header do not come from a page's script and are a matter of their grant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from quart import Response
from quart_trio import QuartTrio

from triocast.errors import OriginRefused
from triocast.settings.origins import OPAQUE, normal_origin, parse_authority
from triocast.web.answers import Answer
from triocast.web.call import Call
from triocast.web.current import current_call

ALLOWED_METHODS = "DELETE, GET, POST, PUT"
ALLOWED_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
)
"""What our endpoints read. A page may send any other header besides, see `Origins.preflight`."""

PREFLIGHT_SECONDS = 600

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


class Origins:
    """The allow-list, and what follows from it for a call."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)

    def check(self, call: Call) -> None:
        """Raise OriginRefused if the page that calls may not."""
        origin = _origin(call)
        if origin is None or self._lists(origin):
            return
        scheme = {"ws": "http", "wss": "https"}.get(call.scheme, call.scheme)
        own = parse_authority(call.headers.get("Host") or "")
        if own is None or normal_origin(origin) != own.origin(scheme):
            raise OriginRefused("this web page's origin is not on the list allowed_origins")

    def check_http(self, call: Call) -> None:
        """The same for what is not read with a GET: reading is for the browser to refuse."""
        if call.method not in ("GET", "HEAD"):
            self.check(call)
        else:
            _origin(call)

    def preflight(self, call: Call) -> Answer | None:
        """Return the answer to a browser that asks before it calls; None for any other call.

        Whatever header it asks for is allowed: pages do not know what polyfills and tracing agents
        add to their requests, and nobody may do more here for a header that a page has added.
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
                ("access-control-allow-headers", ", ".join(_allowed_headers(call))),
                ("access-control-max-age", str(PREFLIGHT_SECONDS)),
            ],
        )

    def response_headers(self, call: Call) -> list[tuple[str, str]]:
        """Return the headers by which a browser lets a page read the response.

        ``Vary`` is among them whoever calls: a cache must not give a page the response to another
        one, or to what is no page.
        """
        headers = [("vary", "Origin")]
        origins = call.headers.all("Origin")
        if len(origins) == 1 and self._lists(origins[0]):
            (origin,) = origins
            headers.append(("access-control-allow-origin", origin))
            headers.append(("access-control-expose-headers", "ETag, Retry-After"))
            if "*" not in self._allowed and origin != OPAQUE:
                headers.append(("access-control-allow-credentials", "true"))
        return headers

    def _lists(self, origin: str) -> bool:
        return "*" in self._allowed or normal_origin(origin) in self._allowed


def _allowed_headers(call: Call) -> list[str]:
    """Return the names of the headers that a page may send: ours, and what it asks for."""
    known = {name.lower() for name in ALLOWED_HEADERS}
    asked = (name.lower() for name in call.headers.tokens("Access-Control-Request-Headers"))
    others = dict.fromkeys(name for name in asked if _TOKEN.fullmatch(name) and name not in known)
    return [*ALLOWED_HEADERS, *others]


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
