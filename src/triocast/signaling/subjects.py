"""Who somebody is, for bans and for coming back: a user, or an address where nobody is known."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Final

OF_ONE_SITE: Final = 64
"""Bits of an IPv6 address that a network has. Whoever is in it may take any address of the rest,
and most systems take another one each day."""


def user_subject(user: str) -> str:
    """Return the subject of a user."""
    return f"user:{user}"


def subject_at(address: str | None) -> str:
    """Return the subject of those without a user who come from there, whatever it is."""
    try:
        return address_subject(address or "")
    except ValueError:
        return f"address:{address}"  # of a Unix socket, or what a stock server makes up


def may_be_proxy(address: str | None) -> bool:
    """Whether a proxy in front of us may be at this address: on this machine or network."""
    try:
        return ip_address(address or "").is_private
    except ValueError:
        return True  # a Unix socket


@lru_cache(maxsize=4_096)
def address_subject(address: str) -> str:
    """Return the subject of those without a user at an address: of IPv6, those in its network.

    That of a network may be given as well, as ``2001:db8::/64``. Raises ValueError for what is no
    address.
    """
    try:
        return f"address:{IPv4Address(address)}"
    except AddressValueError:
        pass
    found = IPv6Address(address.removesuffix(f"/{OF_ONE_SITE}"))
    if found.ipv4_mapped is not None:
        return f"address:{found.ipv4_mapped}"
    if found.is_loopback or found.is_link_local:  # networks that are not one site's
        return f"address:{found}"
    network = IPv6Address(int(found) >> OF_ONE_SITE << OF_ONE_SITE)
    return f"address:{network}/{OF_ONE_SITE}"
