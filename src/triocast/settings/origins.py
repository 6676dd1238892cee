"""Origins of web pages (RFC 6454) and authorities of requests (RFC 3986, 3.2), in one normal form.

The same host is written in many ways: in capitals, with the default port or without it, an IPv6
address with or without its zeros, `localhost` with the dot of the root. Texts that are compared to
decide who may call have to be in one form.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs

OPAQUE: Final = "null"
"""What browsers say for pages without an origin: from a file, in a sandbox, from ``data:``."""

HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\.?\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")


@attrs.frozen
class Authority:
    """A host, as it stands in an address, and its port; None is the scheme's own."""

    host: str
    port: int | None

    @property
    def address(self) -> str:
        """The host without the brackets of IPv6."""
        return self.host.strip("[]")

    def origin(self, scheme: str) -> str:
        """Return the origin of the pages that are served here."""
        if self.port is None or self.port == DEFAULT_PORTS.get(scheme):
            return f"{scheme}://{self.host}"
        return f"{scheme}://{self.host}:{self.port}"


def parse_authority(text: str) -> Authority | None:
    """Return ``host[:port]`` in its normal form; None if it is something else."""
    parts = _AUTHORITY.fullmatch(text)
    host = None if parts is None else _normal_host(parts[1])
    if parts is None or host is None:
        return None
    port = int(parts[2]) if parts[2] else None
    return None if port is not None and port > 65_535 else Authority(host, port)


def normal_origin(text: str) -> str | None:
    """Return an origin as browsers write it; None for what is none."""
    if text == OPAQUE:
        return text
    parts = _ORIGIN.fullmatch(text)
    if parts is None or text.endswith(":"):
        return None
    scheme, rest = parts[1].lower(), parts[2]
    if scheme not in DEFAULT_PORTS and rest in ("", "."):
        # Apps with pages of their own: ``file://`` (Cordova), ``app://.`` (Electron).
        return f"{scheme}://{rest}" if rest or scheme == "file" else None
    authority = parse_authority(rest)
    return None if authority is None else authority.origin(scheme)


def _normal_host(host: str) -> str | None:
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    if HOST_NAME.fullmatch(host) is None:
        return None
    lower = host.lower()
    return "localhost" if lower == "localhost." else lower
