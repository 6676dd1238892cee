"""Request targets in each of their forms (RFC 9112, 3.2), below a ``root_path`` or not.

Whatever form a client chose, endpoints see a path that begins with a slash, and in ``Host`` the
authority that counts. Everything that compares paths or hosts comes behind this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote

from triocast.errors import BadRequest, NotFound
from triocast.settings.origins import parse_authority

SERVER: Final = "*"
"""The target of a request that is about the server as a whole; only OPTIONS has it."""

_ABSOLUTE: Final = re.compile(
    rb"(?:http|ws)s?://([^/?#@\\]+)((?:[/?].*)?)", re.IGNORECASE | re.DOTALL
)

Header = tuple[bytes, bytes]


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """Return a target's authority, None if it has none, and the rest: path and query.

    Raises BadRequest for what is neither a path, nor ``*``, nor an address of a web page.
    """
    if target.startswith(b"/") or target == b"*":
        return None, target
    parts = _ABSOLUTE.fullmatch(target)
    if parts is None or parse_authority(parts[1].decode("latin-1")) is None:
        raise BadRequest("a request names a path such as /healthz, or an address: http://host/path")
    rest: bytes = parts[2]
    return parts[1], rest if rest.startswith(b"/") else b"/" + rest


def with_authority(headers: Iterable[Header], authority: bytes | None) -> list[Header]:
    """Return a request's headers with its target's authority in the place of any other ``Host``.

    RFC 9112, 3.2.2. None changes nothing.
    """
    if authority is None:
        return list(headers)
    return [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]


def check_framing(headers: Iterable[Header], http_version: str) -> None:
    """Raise BadRequest where two readers could see different ends of a request's body.

    Names are in lower case. RFC 9112, 6.1: such a request may be an attack, and its connection is
    not to be used further.
    """
    names = [name for name, _ in headers]
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise BadRequest("a request has Content-Length or Transfer-Encoding, not both")
    if http_version == "1.0":
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding: send Content-Length")


def local_scope(scope: Any) -> Any:
    """Return an ASGI scope with path and ``Host`` as endpoints expect them.

    Raises BadRequest, NotFound for what is outside of ``root_path``.
    """
    if scope["type"] == "http" and scope["http_version"].startswith("1"):
        check_framing(scope["headers"], scope["http_version"])
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if not root and path.startswith("/") and not path.startswith("//"):
        return scope
    headers = scope["headers"]
    if not path.startswith("/") and path != SERVER:
        authority, target = split_target(scope.get("raw_path") or path.encode())
        path = unquote(target.partition(b"?")[0].decode("latin-1"))
        headers = with_authority(headers, authority)
    if root and path != SERVER:
        if path != root and not path.startswith(f"{root}/"):
            raise NotFound(f"there is nothing here: this application is below {root}")
        path = path[len(root) :]
    if path != SERVER:
        path = "/" + path.lstrip("/")  # As Werkzeug has it for all that goes through Quart.
    return {**scope, "path": path, "headers": headers, "root_path": ""}
