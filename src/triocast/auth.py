"""Who may do what: every entry asks `Authenticator.grant` and nothing is done without a grant.

A token is a JWT signed with HS256 by the key in the settings. It must have ``exp``; ``aud`` is
checked against the setting. Whoever made it has another clock: ``iat``, ``nbf`` and ``exp`` may be
off by `LEEWAY_SECONDS`. ``sub`` is the user. The claim ``triocast`` says what it allows::

    {"sub": "alice", "exp": 1767225600,
     "triocast": {"subscribe": ["news:*"], "publish": ["chat:*"], "admin": false}}

``rooms`` are those of WebRTC signaling, each a pattern or an object that says more::

    "rooms": ["team:*", {"room": "stage", "role": "host", "create": true, "claim": true}]

Everybody with a grant hears ``$all`` and, with a ``sub``, their own ``$user:<sub>``. Publishing
to ``$all``, ``$user:…`` and ``$conn:…`` has to be granted by these names. ``$user:*`` and
``$conn:*`` are patterns for this purpose alone; ``{"user": "*"}`` in the list of ``publish`` is the
one user of that name.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Protocol

import attrs
import jwt

from triocast.errors import Forbidden, InvalidChannel, Unauthorized
from triocast.events import (
    BROADCAST,
    parse_pattern,
    pattern_covers,
    pattern_matches,
    presence_target,
    user_channel,
)
from triocast.settings.checks import is_loopback
from triocast.settings.origins import parse_authority

ALGORITHM: Final = "HS256"

CLAIM: Final = "triocast"

LEEWAY_SECONDS: Final = 60
"""How far the clock of whoever made a token may be from ours."""

LONGEST_ROLE: Final = 64

MOST_REMEMBERED: Final = 10_000
"""Tokens whose grants are remembered; beyond it the one that was not used for longest is verified
anew."""

_OWN_PATTERNS: Final = frozenset({BROADCAST, "$user:*", "$conn:*"})


@attrs.frozen
class RoomRight:
    """What the holder may do in rooms of WebRTC signaling: those whose names ``room`` matches.

    ``create`` rooms that are not there, ``claim`` a peer id of its own choice, send ``data``
    through the server. ``role`` is told to the others.
    """

    room: str
    role: str = "peer"
    create: bool = True
    claim: bool = False
    data: bool = False

    def covers(self, room: str) -> bool:
        if self.room.endswith("*"):
            return room.startswith(self.room[:-1])
        return room == self.room


@attrs.frozen
class Grant:
    """What the holder may do. ``expires_at`` is when that ends, in seconds since the epoch: the
    token's ``exp`` and `LEEWAY_SECONDS`; None for never.

    ``publish`` may be to the users named in ``publish_to_users``, too, each taken literally.
    """

    user: str | None = None
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    admin: bool = False
    expires_at: float | None = None
    rooms: tuple[RoomRight, ...] = ()
    publish_to_users: frozenset[str] = frozenset()

    def room_right(self, room: str) -> RoomRight | None:
        """Return what the holder may do in a room: the first that covers it; None for nothing."""
        return next((right for right in self.rooms if right.covers(room)), None)

    def may_subscribe(self, name: str) -> bool:
        """Whether the grant covers a canonical channel, or every channel of a pattern.

        Who may listen to a channel may know who else does.
        """
        target = presence_target(name)
        name = name if target is None else target
        return any(pattern_covers(pattern, name) for pattern in self.subscribe)

    def may_publish(self, channel: str) -> bool:
        """Whether the grant covers publishing to a canonical channel."""
        if channel.startswith("$"):
            kind, _, name = channel.partition(":")
            if f"{kind}:*" in self.publish or (kind == "$user" and name in self.publish_to_users):
                return True
            return channel in self.publish
        if "*" in self.publish:
            return True
        return any(pattern_matches(pattern, channel) for pattern in self.publish)


EVERYTHING: Final = Grant(
    subscribe=("*",),
    publish=("*", BROADCAST, "$user:*", "$conn:*"),
    admin=True,
    rooms=(RoomRight("*", claim=True, data=True),),
)
"""What an anonymous client may do where anonymous clients are let in, and the process itself."""


class Fields(Protocol):
    """Header or query fields by name."""

    def get(self, name: str, /) -> str | None:
        """Return the first value of a name."""

    def all(self, name: str, /) -> Sequence[str]:
        """Return every value of a name."""

    def __contains__(self, name: str, /) -> bool: ...


class Authenticator:
    """Turns what a request brings into a grant."""

    def __init__(
        self,
        *,
        token_key: str | None,
        token_audience: str | None,
        token_in_query: bool,
        insecure_anonymous: bool,
    ) -> None:
        self._key = token_key
        self._audience = token_audience
        self._in_query = token_in_query
        self._anonymous_everywhere = insecure_anonymous
        # By the tokens' hashes: what could be read from this process's memory opens nothing.
        self._verified: OrderedDict[bytes, tuple[float, Grant]] = OrderedDict()

    def grant(self, headers: Fields, query: Fields, address: str | None) -> Grant:
        """Return the caller's grant.

        ``headers`` have case-insensitive names; ``address`` is the peer's IP address. Without a
        key there is nothing to check credentials with, so they are not looked at.
        Raises Unauthorized, or Forbidden for an anonymous caller from elsewhere.
        """
        if self.has_key:
            token = self._token(headers, query)
            if token is not None:
                return self._verify(token)
        if self._anonymous_everywhere:
            return EVERYTHING
        if self.has_key:
            raise Unauthorized("a token is needed: 'Authorization: Bearer <token>'")
        self._check_local(headers, address)
        return EVERYTHING

    @property
    def has_key(self) -> bool:
        """Whether tokens can be checked."""
        return self._key is not None

    @property
    def needs_token(self) -> bool:
        """Whether nobody is let in without a token."""
        return self.has_key and not self._anonymous_everywhere

    def has_token(self, headers: Fields, query: Fields) -> bool:
        """Whether the caller has brought something that should be a token."""
        return _bearer(headers) is not None or "token" in query

    def grant_of_token(self, token: str) -> Grant:
        """Return the grant of a token that came in a message. Raises Unauthorized."""
        return self._verify(token)

    def _token(self, headers: Fields, query: Fields) -> str | None:
        bearer = _bearer(headers)
        if bearer is not None:
            if not bearer:
                raise Unauthorized("the Authorization header is 'Bearer <token>'")
            return bearer
        token_in_query = query.get("token")
        if token_in_query is None:
            return None
        if not self._in_query:
            raise Unauthorized(
                "a token in the query ends up in logs and histories; it is taken only where the"
                " setting token_in_query is on"
            )
        return token_in_query

    def _verify(self, token: str) -> Grant:
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        remembered = self._verified.pop(digest, None)
        if remembered is None or remembered[0] <= time.time():
            remembered = self._read(token)
        self._verified[digest] = remembered
        if len(self._verified) > MOST_REMEMBERED:
            self._verified.popitem(last=False)
        return remembered[1]

    def _read(self, token: str) -> tuple[float, Grant]:
        """Return until when a token holds, and its grant."""
        if self._key is None:
            raise Unauthorized("this server has no token_key, so it cannot check tokens")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                # The times are checked below, which tells by how much a clock is off.
                options={
                    "require": ["exp"],
                    "verify_aud": True,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            expires_at = _check_times(claims, time.time())
            return expires_at, _grant_of(claims, expires_at)
        except (
            jwt.InvalidTokenError,
            InvalidChannel,
            TypeError,
            ValueError,
            OverflowError,
        ) as error:
            raise Unauthorized(f"the token is not valid: {error}") from None

    @staticmethod
    def _check_local(headers: Fields, address: str | None) -> None:
        """Let an anonymous caller in from this machine only.

        A page of another site can reach this machine's servers from its visitor's browser under
        a name of its own (DNS rebinding); the Host header gives it away. A proxy in front makes
        every caller look local; it must bring tokens.
        """
        if address is None or not is_loopback(address):
            raise Unauthorized("anonymous clients are let in from this machine only")
        authority = parse_authority(headers.get("Host") or "")
        if authority is None or not is_loopback(authority.address):
            raise Forbidden(
                "anonymous clients are let in under the names localhost, 127.0.0.1 and [::1] only;"
                " use a token, or start the server with --insecure-anonymous"
            )
        if "X-Forwarded-For" in headers or "Forwarded" in headers:
            raise Unauthorized("anonymous clients are not let in through a proxy")


def _bearer(headers: Fields) -> str | None:
    """Return what follows ``Bearer`` in an Authorization header; None if there is none.

    Credentials of other schemes are meant for somebody else, such as a proxy that asks for a
    password (Basic) or a browser's domain (Negotiate): they count as none.
    """
    for line in headers.all("Authorization"):
        for credentials in line.split(","):  # where a proxy or a browser has joined several lines
            scheme, _, token = credentials.strip().partition(" ")
            if scheme.lower() == "bearer":
                return token.strip()
    return None


def _check_times(claims: dict[str, Any], now: float) -> float:
    """Return when a token's grant ends. Raises Unauthorized if it is too early or too late for it,
    TypeError where a time is none.
    """
    for name in ("exp", "nbf", "iat"):
        moment = claims.get(name, now)
        is_number = isinstance(moment, int | float) and not isinstance(moment, bool)
        if not is_number or not math.isfinite(moment):
            raise TypeError(f"{name!r} is not a number")
        ahead = moment - now
        if name == "exp" and ahead <= -LEEWAY_SECONDS:
            wrong = f"the token has expired, {-ahead:.0f} s ago"
        elif name != "exp" and ahead > LEEWAY_SECONDS:
            wrong = f"the token is not valid yet: its {name!r} is {ahead:.0f} s ahead"
        else:
            continue
        raise Unauthorized(f"{wrong} by this server's clock; {LEEWAY_SECONDS} s are allowed for")
    return float(claims["exp"]) + LEEWAY_SECONDS


def _grant_of(claims: dict[str, Any], expires_at: float) -> Grant:
    user = claims.get("sub")
    if user is not None:
        user_channel(user)
    allowed = claims.get(CLAIM, {})
    if not isinstance(allowed, dict):
        raise TypeError(f"the claim {CLAIM!r} is not an object")
    unknown = allowed.keys() - {"subscribe", "publish", "admin", "rooms"}
    if unknown:
        raise ValueError(f"the claim {CLAIM!r} has unknown parts: {', '.join(sorted(unknown))}")
    admin = allowed.get("admin", False)
    if not isinstance(admin, bool):
        raise TypeError("'admin' is not true or false")
    publish = _entries(allowed, "publish")
    return Grant(
        user=user,
        subscribe=tuple(parse_pattern(name) for name in _names(allowed, "subscribe")),
        publish=tuple(check_publish_pattern(each) for each in publish if isinstance(each, str)),
        publish_to_users=frozenset(_user_of(each) for each in publish if not isinstance(each, str)),
        admin=admin,
        expires_at=expires_at,
        rooms=tuple(parse_room_right(entry) for entry in _entries(allowed, "rooms")),
    )


def _entries(allowed: dict[str, Any], part: str) -> list[Any]:
    entries = allowed.get(part, [])
    if not isinstance(entries, list):
        raise TypeError(f"{part!r} is not a list")
    return entries


def parse_room_right(entry: object) -> RoomRight:
    """Return what an entry of ``rooms`` allows. Raises TypeError or ValueError."""
    fields = {"room": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not isinstance(fields.get("room"), str):
        raise TypeError("an entry of 'rooms' is a pattern, or an object with 'room'")
    unknown = fields.keys() - {"room", "role", "create", "claim", "data"}
    if unknown:
        raise ValueError(f"an entry of 'rooms' has unknown parts: {', '.join(sorted(unknown))}")
    for name, value in fields.items():
        if not isinstance(value, str if name in ("room", "role") else bool):
            raise TypeError(f"{name!r} in an entry of 'rooms' is of the wrong kind")
    if not 0 < len(fields.get("role", "peer")) <= LONGEST_ROLE:
        raise ValueError(f"a role has 1 to {LONGEST_ROLE} characters")
    if "*" in fields["room"][:-1]:
        raise ValueError("a pattern of rooms has one '*', at its end")
    return RoomRight(**fields)


def _user_of(entry: object) -> str:
    """Return the user that an entry ``{"user": …}`` of ``publish`` names."""
    if not isinstance(entry, dict) or entry.keys() != {"user"} or type(entry["user"]) is not str:
        raise TypeError('an entry of \'publish\' is a channel, a pattern, or {"user": "<sub>"}')
    user_channel(entry["user"])
    return str(entry["user"])


def _names(allowed: dict[str, Any], part: str) -> list[str]:
    names = allowed.get(part, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{part!r} is not a list of channel patterns")
    return names


def check_publish_pattern(pattern: str) -> str:
    """Return the canonical form of a pattern that may be granted for publishing.

    Raises InvalidChannel.
    """
    if pattern in _OWN_PATTERNS:
        return pattern
    if pattern.startswith("$user:"):
        return user_channel(pattern.removeprefix("$user:"))
    return parse_pattern(pattern)
