"""The STUN and TURN servers that peers are told to use, with credentials that expire.

Coturn's time-limited recipe (``use-auth-secret``): the user name is the second at which it ends,
a colon and an id; the credential is the Base64 of its HMAC-SHA1 under the shared secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
from collections.abc import Iterable
from typing import Final

import attrs
import msgspec

SHORTEST_LIFETIME: Final = 60
"""Seconds: the clocks of both machines differ, and nobody should ask for new ones all the time."""


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


def _all(urls: Iterable[str]) -> tuple[str, ...]:
    return tuple(urls)


@attrs.frozen
class IceSettings:
    """The servers of the settings, which have been checked there.

    ``stun`` and ``turn`` are addresses; ``secret`` is coturn's ``static-auth-secret``, and needed
    for ``turn``; ``lifetime`` is in seconds.
    """

    stun: tuple[str, ...] = attrs.field(default=(), converter=_all)
    turn: tuple[str, ...] = attrs.field(default=(), converter=_all)
    secret: str | None = attrs.field(default=None, repr=False)
    lifetime: int = 3600


def ice_servers(
    settings: IceSettings, peer: str, *, now: float, seconds: float | None = None
) -> IceServers:
    """Return what this peer is told at ``now``, in seconds since the epoch.

    ``seconds`` is for how long the peer's grant holds yet, None for ever: credentials do not
    outlive it by more than `SHORTEST_LIFETIME`.
    """
    servers = [IceServer(settings.stun)] if settings.stun else []
    if not settings.turn:
        return IceServers(tuple(servers))
    assert settings.secret is not None
    lifetime = settings.lifetime
    if seconds is not None:
        lifetime = min(lifetime, max(SHORTEST_LIFETIME, math.ceil(seconds)))
    username, credential = turn_credentials(
        settings.secret, peer, expires_at=math.floor(now) + lifetime
    )
    servers.append(IceServer(settings.turn, username, credential))
    return IceServers(tuple(servers), lifetime)


def turn_credentials(secret: str, user: str, *, expires_at: int) -> tuple[str, str]:
    """Return the user name and the credential that coturn accepts until ``expires_at``."""
    username = f"{expires_at}:{user}"
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return username, base64.b64encode(digest).decode()
