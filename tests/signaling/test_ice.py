"""Credentials as coturn checks them."""

import base64
import hashlib
import hmac

import msgspec
import pytest

from triocast.signaling.ice import (
    IceServer,
    IceSettings,
    ice_servers,
    turn_credentials,
)

TURN = IceSettings(
    stun=["stun:a.example:3478"],
    turn=["turn:a.example:3478?transport=udp", "turns:a.example"],
    secret="north",
    lifetime=600,
)


def coturn_accepts(username, credential, *, secrets, now):
    """What coturn does with ``use-auth-secret``."""
    expires_at, _, _ = username.partition(":")
    if int(expires_at) < now:
        return False
    return any(
        base64.b64encode(hmac.digest(secret.encode(), username.encode(), hashlib.sha1)).decode()
        == credential
        for secret in secrets
    )


def test_a_known_credential():
    # Worked out with: printf 1700000000:peer | openssl dgst -sha1 -hmac north -binary | base64
    assert turn_credentials("north", "peer", expires_at=1_700_000_000) == (
        "1700000000:peer",
        "89/L5HunFtWT5RS8MeW1TQ9ayqg=",
    )


def test_a_credential_holds_for_its_lifetime():
    told = ice_servers(TURN, "peer", now=1_000.9)
    turn = told.servers[1]
    assert turn.username == "1600:peer"
    assert told.ttl == 600
    check = {"secrets": ["old", "north"]}
    assert coturn_accepts(turn.username, turn.credential, now=1_600, **check)
    assert not coturn_accepts(turn.username, turn.credential, now=1_601, **check)
    assert not coturn_accepts(turn.username, turn.credential, now=1_000, secrets=["south"])
    assert not coturn_accepts("9999:peer", turn.credential, now=1_000, **check)


@pytest.mark.parametrize(
    ("seconds", "lifetime"),
    [(None, 600), (3_600.0, 600), (599.5, 600), (120.2, 121), (5.0, 60), (-1.0, 60)],
)
def test_a_credential_ends_with_the_grant(seconds: float | None, lifetime: int) -> None:
    told = ice_servers(TURN, "peer", now=1_000, seconds=seconds)
    assert told.ttl == lifetime
    assert told.servers[1].username == f"{1_000 + lifetime}:peer"


def test_browsers_take_it_as_it_is():
    assert msgspec.to_builtins(ice_servers(TURN, "p", now=0).servers)[0] == {
        "urls": ("stun:a.example:3478",)
    }
    turn = msgspec.json.decode(msgspec.json.encode(ice_servers(TURN, "p", now=0).servers))[1]
    assert turn.keys() == {"urls", "username", "credential"}


def test_without_turn_nothing_expires():
    assert ice_servers(IceSettings(), "p", now=0).servers == ()
    told = ice_servers(IceSettings(stun=["stun:a"]), "p", now=0)
    assert told.servers == (IceServer(("stun:a",)),)
    assert told.ttl is None


def test_secrets_are_not_shown():
    assert "north" not in repr(TURN)
    told = ice_servers(TURN, "peer", now=0)
    assert told.servers[1].credential not in repr(told)
