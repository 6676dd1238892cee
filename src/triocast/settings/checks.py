"""What the value of a setting may be, and what to do if it is something else.

A check returns None, or what is wrong and how to mend it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from triocast.settings.origins import HOST_NAME, normal_origin
from triocast.settings.values import LIST

Finding = tuple[str, str]
"""What is wrong with a value, and how to mend it."""

Check = Callable[[Any], Finding | None]

MASK: Final = "********"
ENGINES: Final = ("memory", "sqlite")
SHORTEST_TOKEN_KEY: Final = 32
SHORTEST_TURN_SECRET: Final = 16
LONGEST_DURATION: Final = 86_400.0
HOW_TO_MAKE_A_KEY: Final = 'python3 -c "import secrets; print(secrets.token_urlsafe(48))"'

_PATH: Final = re.compile(r"/(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/){0,8}")


def between(low: int, high: int | None = None) -> Check:
    wanted = f"at least {low}" if high is None else f"from {low} to {high}"

    def check(value: int) -> Finding | None:
        if value < low or (high is not None and value > high):
            return f"{value} is out of range", f"give a whole number {wanted}"
        return None

    return check


def _duration(value: float, *, zero: bool) -> Finding | None:
    if (0 if zero else 0.001) <= value <= LONGEST_DURATION:
        return None
    low = "0" if zero else "1ms"
    return f"{value} seconds is out of range", f"give a duration from {low} to 24h"


def duration_or_zero(value: float) -> Finding | None:
    return _duration(value, zero=True)


def credential_lifetime(value: float) -> Finding | None:
    if 60 <= value <= 604_800:
        return None
    return f"{value} seconds is out of range", "give a duration from 1 minute to 7 days"


LONGEST_AGE: Final = 3_660 * 86_400.0


def positive_duration(value: float) -> Finding | None:
    return _duration(value, zero=False)


def age_or_zero(value: float) -> Finding | None:
    """Accept durations of events' lives: also far longer ones than any client waits."""
    if 0 <= value <= LONGEST_AGE:
        return None
    return f"{value} seconds is out of range", "give a duration from 0 to 3660 days"


def unless_none(check: Check) -> Check:
    """Return a check of a value that may be missing."""
    return lambda value: None if value is None else check(value)


def one_of(*words: str) -> Check:
    def check(value: str) -> Finding | None:
        if value in words:
            return None
        return f"{value!r} is not known", f"give one of {', '.join(words)}"

    return check


def check_hosts(value: str) -> Finding | None:
    """Accept hosts with commas between them."""
    return next(filter(None, map(check_host, value.split(","))), None)


def check_host(value: str) -> Finding | None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if HOST_NAME.fullmatch(value) is None:
            return (
                f"{value!r} is neither an IP address nor a host name",
                "give one without scheme, port or brackets, such as 127.0.0.1, ::1 or 0.0.0.0",
            )
    return None


def check_engine(value: str) -> Finding | None:
    scheme, separator, rest = value.partition("://")
    supported = ", ".join(f"{name}://" for name in ENGINES)
    if not separator or scheme not in ENGINES:
        return (
            f"no engine is known for {_without_password(value)!r}",
            f"this version supports {supported}",
        )
    if scheme == "memory" and rest:
        return "memory:// takes nothing behind it", "write memory://"
    if scheme == "sqlite" and not rest.removeprefix("/"):
        return (
            "sqlite:// names no file",
            "write sqlite:///events.db, or sqlite:////var/lib/triocast/events.db for a whole path",
        )
    if scheme == "sqlite" and not rest.startswith("/"):
        return f"{value} lacks a slash", f"write sqlite:///{rest}"
    return None


def _without_password(url: str) -> str:
    # up to the last @: a password may have an @ or a slash in it, and the scheme may be forgotten
    return re.sub(r"^([\w+.-]*://)?.*@", rf"\g<1>{MASK}@", url, flags=re.DOTALL)


def check_readable(value: Path | None) -> Finding | None:
    if value is None:
        return None
    if "-----BEGIN" in str(value):  # which may be a private key: do not show it
        return "is the text of a PEM file", "write it to a file and give the path of that"
    try:
        is_file = value.is_file()
    except OSError as error:  # such as a folder that this user may not enter
        return _unreadable(value, error.strerror or "an error")
    if not is_file:
        return f"there is no file {str(value)!r}", "give the path of a PEM file"
    if not os.access(value, os.R_OK):
        return _unreadable(value, "Permission denied")
    return None


def _unreadable(path: Path, reason: str) -> Finding:
    return (
        f"the file {str(path)!r} cannot be read: {reason}",
        "let the user that runs the server read it",
    )


def check_token_key(value: str | None) -> Finding | None:
    if value is None or len(value.encode()) >= SHORTEST_TOKEN_KEY:
        return None
    return (
        f"the key has {len(value.encode())} bytes, too few to be safe",
        f"give at least {SHORTEST_TOKEN_KEY} bytes of random text; "
        f"this makes one: {HOW_TO_MAKE_A_KEY}",
    )


def check_turn_secret(value: str | None) -> Finding | None:
    if value is None or len(value.encode()) >= SHORTEST_TURN_SECRET:
        return None
    return (
        f"the secret has {len(value.encode())} bytes, and each peer can try on its own credentials"
        " which one it is",
        f"give the TURN server and Triocast at least {SHORTEST_TURN_SECRET} bytes of random text;"
        f" this makes one: {HOW_TO_MAKE_A_KEY}",
    )


def normal_origins(origins: object) -> object:
    """Return origins as browsers write them; what is none is left as it is, for `check_origins`."""
    if not LIST.accepts(origins):
        return origins
    assert isinstance(origins, tuple)
    return tuple(normal_origin(origin) or origin for origin in origins)


def check_origins(value: tuple[str, ...]) -> Finding | None:
    for origin in value:
        if origin != "*" and normal_origin(origin) is None:
            return (
                f"{origin!r} is not an origin",
                "give scheme://host or scheme://host:port without a path or wildcard, "
                "such as https://app.example.com; or null, file://, *",
            )
    return None


def normal_path(path: object) -> object:
    """Begin and end a path with a slash, as PeerJS clients do."""
    return f"/{path.strip('/')}/".replace("//", "/") if isinstance(path, str) else path


def check_peerjs_path(value: str) -> Finding | None:
    if _PATH.fullmatch(value) is None:
        return f"{value!r} is no path", "give letters, digits, '_', '.', '-' and '/', as /chat"
    if value.startswith("/realtime/"):
        return f"{value!r} is Triocast's own", "give a path outside of /realtime"
    return None


def check_ice_servers(name: str) -> Check:
    """Return the check for addresses of servers of a kind, stun or turn (RFC 7064, RFC 7065).

    Browsers refuse to make any connection if only one of them is wrong.
    """
    transport = r"(?:\?transport=(?:udp|tcp))?" if name == "turn" else ""
    form = re.compile(rf"{name}s?:(\[[^\]]+\]|[^\[\]:?]+)(?::([0-9]{{1,5}}))?{transport}")
    fix = f"write {name}:host:port, or {name}s:host:port for TLS, without //"
    if name == "turn":
        fix += "; ?transport=tcp or ?transport=udp may follow"

    def check(value: tuple[str, ...]) -> Finding | None:
        for url in value:
            if "@" in url:  # what is before it may be a password
                return "an address with a user is not allowed", f"{fix}, and without a user"
            parts = form.fullmatch(url)
            if parts is None or not _is_ice_host(parts[1]) or not 1 <= int(parts[2] or 1) <= 65_535:
                return f"{url!r} is not the address of a {name.upper()} server", fix
        return None

    return check


def _is_ice_host(host: str) -> bool:
    if not host.startswith("["):
        return HOST_NAME.fullmatch(host) is not None
    try:
        return ipaddress.IPv6Address(host[1:-1]).scope_id is None
    except ValueError:
        return False


def check_key_pair(certificate: Path, key: Path) -> Finding | None:
    """Load a certificate chain with its key, if both can be read at all."""
    if check_readable(certificate) or check_readable(key):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # an empty password instead of a prompt: a server has nobody to ask
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "reason", None) or error
        return (
            f"certificate and key cannot be used: {reason}",
            "give a PEM certificate chain and its own key, not encrypted",
        )
    return None


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Say whether an address can be reached from this machine only."""
    host = host.removesuffix(".")
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
