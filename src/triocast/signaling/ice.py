"""The STUN and TURN servers that peers are told to use, with credentials that expire.

Coturn's time-limited recipe (``use-auth-secret``): the user name is the second at which it ends,
a colon and an id; the credential is the Base64 of its HMAC-SHA1 under the shared secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
from collections.abc import Iterable, Sequence
from typing import Final

import attrs
import msgspec

SCHEMES: Final = ("stun:", "stuns:", "turn:", "turns:")
LONGEST_URL: Final = 512
LONGEST_LIFETIME: Final = 7 * 24 * 3600
SHORTEST_LIFETIME: Final = 60


class IceServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of ``RTCConfiguration.iceServers``, as browsers take it."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None

    def __repr__(self) -> str:
        return f"IceServer({', '.join(self.urls)})"


@attrs.frozen
class IceServers:
    """What one peer is told, and for how many seconds it holds (None: for ever)."""

    servers: tuple[IceServer, ...] = ()
    ttl: int | None = None


def check_url(url: str) -> str:
    """Return the address of a STUN or TURN server. Raises ValueError with the fix."""
    scheme = next((known for known in SCHEMES if url.startswith(known)), None)
    rest = "" if scheme is None else url[len(scheme) :]
    if not rest or rest.startswith("//") or len(url) > LONGEST_URL or not _is_plain(url):
        raise ValueError(
            "an ICE server is written 'stun:host:port' or 'turn:host:port?transport=udp'"
            " (stuns: and turns: for TLS), without //"
        )
    return url


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


def _all(urls: Iterable[str]) -> tuple[str, ...]:
    return tuple(urls)


@attrs.frozen
class IceSettings:
    """The servers of the settings.

    ``stun`` and ``turn`` are addresses (see `check_url`), ``secret`` is coturn's
    ``static-auth-secret``, ``lifetime`` is in seconds. Raises ValueError for what cannot work:
    the start should stop there.
    """

    stun: tuple[str, ...] = attrs.field(default=(), converter=_all)
    turn: tuple[str, ...] = attrs.field(default=(), converter=_all)
    secret: str | None = attrs.field(default=None, repr=False)
    lifetime: int = 3600

    def __attrs_post_init__(self) -> None:
        _check_schemes(self.stun, ("stun:", "stuns:"))
        _check_schemes(self.turn, ("turn:", "turns:"))
        if self.turn and not self.secret:
            raise ValueError("TURN servers need the secret that they share with this server")
        if not SHORTEST_LIFETIME <= self.lifetime <= LONGEST_LIFETIME:
            raise ValueError(
                f"TURN credentials live {SHORTEST_LIFETIME} to {LONGEST_LIFETIME} seconds"
            )


def _check_schemes(urls: Sequence[str], schemes: tuple[str, ...]) -> None:
    for url in urls:
        if not check_url(url).startswith(schemes):
            raise ValueError(f"{url!r} is listed among the servers of {' and '.join(schemes)}")


def ice_servers(settings: IceSettings, peer: str, *, now: float) -> IceServers:
    """Return what this peer is told at ``now``, in seconds since the epoch."""
    servers = [IceServer(settings.stun)] if settings.stun else []
    if not settings.turn:
        return IceServers(tuple(servers))
    assert settings.secret is not None
    username, credential = turn_credentials(
        settings.secret, peer, expires_at=math.floor(now) + settings.lifetime
    )
    servers.append(IceServer(settings.turn, username, credential))
    return IceServers(tuple(servers), settings.lifetime)


def turn_credentials(secret: str, user: str, *, expires_at: int) -> tuple[str, str]:
    """Return the user name and the credential that coturn accepts until ``expires_at``."""
    username = f"{expires_at}:{user}"
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return username, base64.b64encode(digest).decode()
