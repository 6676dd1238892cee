"""The files that browsers load from us: the SDK's modules and the demo."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urljoin

import pytest

from e2e.rest import call
from e2e.servers import Server

SDK = "/realtime/sdk/signaling.js"
DEMO = "/realtime/webrtc/demo"
KINDS = {"js": "text/javascript", "css": "text/css", "demo": "text/html"}

_named = re.compile(r"""(?:from|src=|href=) ?"([^"]+\.(?:js|css))";?""")


def linked(server: Server) -> list[str]:
    """Return the paths of a page's files, and of what these name in turn."""
    found = [SDK, DEMO]
    for path in found:
        text = call(server, "GET", path).body.decode()
        named = [urljoin(path, name) for name in _named.findall(text)]
        found += [name for name in dict.fromkeys(named) if name not in found]
    return found


def test_files_are_kept_by_caches(server: Server) -> None:
    paths = linked(server)
    modules = {path for path in paths if path.startswith("/realtime/sdk/")}
    names = ("signaling", "attention", "connection", "line", "peer", "sdp")
    assert modules == {f"/realtime/sdk/{name}.js" for name in names}
    for path in paths:
        answer = call(server, "GET", path)
        assert (answer.status, answer.headers["x-content-type-options"]) == (200, "nosniff")
        kind = KINDS[re.split(r"[./]", path)[-1]]
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["cache-control"] == "public, no-cache"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "img-src data:" in policy  # the page's icon
        tag = answer.headers["etag"]
        again = call(server, "GET", path, headers={"If-None-Match": f'"other", W/{tag}'})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert call(server, "GET", path, headers={"If-None-Match": '"x"'}).status == 200
        assert call(server, "HEAD", path).headers["etag"] == tag


def test_nothing_else_is_served(server: Server) -> None:
    for name in ("", "demo.html", "package.json", "../sdk.py", "..%2Fsdk.py", "signaling.js/", "."):
        assert call(server, "GET", f"/realtime/sdk/{name}").status == 404, name


def test_pages_of_listed_origins_may_load_every_module(serve: Callable[..., Server]) -> None:
    server = serve("--allowed-origins", "https://here.example")
    for path in linked(server):
        answer = call(server, "GET", path, headers={"Origin": "https://here.example"})
        assert answer.headers["access-control-allow-origin"] == "https://here.example"
        answer = call(server, "GET", path, headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("peerjs", ["true", "false"])
def test_without_signaling_there_are_none(serve: Callable[..., Server], peerjs: str) -> None:
    paths = linked(serve())
    off = {"TRIOCAST_SIGNALING_ENABLED": "false", "TRIOCAST_PEERJS_ENABLED": peerjs}
    server = serve(environment=off)
    for path in paths:
        answer = call(server, "GET", path)
        assert answer.status == 404
        assert (answer.json["code"], answer.json["temporary"]) == ("disabled", False)
