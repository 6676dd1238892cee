"""What browsers load from us: the SDK for signaling, and a page that shows it at work."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import attrs
from quart import Blueprint, Response, request

from triocast.errors import Disabled
from triocast.web.answers import Answer
from triocast.web.current import current_call, current_node
from triocast.web.preconditions import is_current

blueprint = Blueprint("sdk", __name__)

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The demo's Content-Security-Policy: nothing but its own files, and lines to this server."""


@attrs.frozen
class Asset:
    """A file that comes with the package, as it is served."""

    body: bytes
    content_type: str
    tag: str


def _load(name: str, kind: str) -> Asset:
    body = files("triocast.web").joinpath("sdk", name).read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Asset(body, f"{kind}; charset=utf-8", tag)


MODULES: Final = (
    "signaling.js",
    "attention.js",
    "connection.js",
    "line.js",
    "peer.js",
    "sdp.js",
)
"""The SDK: the first is what pages import, the others are what it imports from next to it."""

ASSETS: Final = {
    **{f"/realtime/sdk/{name}": _load(name, "text/javascript") for name in MODULES},
    "/realtime/webrtc/demo": _load("demo.html", "text/html"),
    "/realtime/webrtc/demo.js": _load("demo.js", "text/javascript"),
    "/realtime/webrtc/demo.css": _load("demo.css", "text/css"),
}


async def _asset() -> Response:
    """Answer a file, or 304 to who has it: caches ask each time, and are told in a few bytes.

    Raises Disabled where there is no signaling that the file could speak with.
    """
    if current_node().signaling is None:
        raise Disabled("signaling is switched off here")
    call = current_call()
    asset = ASSETS[request.path]
    headers = [("cache-control", "public, no-cache"), ("etag", asset.tag)]
    if is_current(call.headers, asset.tag):
        return Answer(304, headers).as_response()
    headers += [
        ("content-type", asset.content_type),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", POLICY),
        ("referrer-policy", "no-referrer"),
    ]
    return Answer(200, headers, asset.body).as_response()


for _path in ASSETS:
    blueprint.add_url_rule(_path, view_func=_asset, methods=["GET"])
