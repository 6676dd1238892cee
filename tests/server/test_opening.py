"""The opening handshake: what it must have, and which version we speak."""

import pytest

from triocast.errors import BadRequest, UpgradeRequired
from triocast.server.opening import check_key, check_version, is_upgrade
from triocast.web.call import Call


def call(method="GET", version="1.1", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Call(
        method=method,
        scheme="http",
        http_version=version,
        query_string=b"",
        headers=pairs,
        address=None,
    )


UPGRADE = {"connection": "keep-alive, Upgrade", "upgrade": "WebSocket"}


def test_an_upgrade_is_a_get_that_asks_for_one():
    assert is_upgrade(call(**UPGRADE))


@pytest.mark.parametrize(
    "other",
    [
        call("POST", **UPGRADE),
        call("HEAD", **UPGRADE),
        call(version="1.0", **UPGRADE),
        call(connection="Upgrade"),
        call(upgrade="websocket"),
        call(connection="Upgrade", upgrade="h2c"),
    ],
)
def test_everything_else_is_none(other):
    assert not is_upgrade(other)


def test_version_13_is_spoken():
    check_version(call(sec_websocket_version="13"))


@pytest.mark.parametrize("version", ["8", "14", "13, 8", "", "x"])
def test_another_version_needs_an_upgrade(version):
    with pytest.raises(UpgradeRequired, match="13"):
        check_version(call(sec_websocket_version=version))


def test_a_handshake_says_its_version():
    with pytest.raises(BadRequest):
        check_version(call())


def test_a_key_is_sixteen_bytes():
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    assert check_key(call(sec_websocket_key=key)) == key
    for wrong in ("", "abc", key[:-1], key + "AA", "dGhlIHNhbXBsZSBub25j", "é"):
        with pytest.raises(BadRequest):
            check_key(call(sec_websocket_key=wrong))
    with pytest.raises(BadRequest):
        check_key(call())
