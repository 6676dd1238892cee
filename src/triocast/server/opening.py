"""What is the same in each opening handshake of a WebSocket (RFC 6455, 4.2.1)."""

from __future__ import annotations

import base64
import binascii

from triocast.errors import BadRequest, UpgradeRequired
from triocast.web.call import Call

VERSION = "13"


def is_upgrade(call: Call) -> bool:
    """Whether a request asks for a WebSocket over HTTP/1.1."""
    return (
        call.method == "GET"
        and call.http_version == "1.1"
        and [upgrade.lower() for upgrade in call.headers.all("Upgrade")] == ["websocket"]
        and "upgrade" in (token.lower() for token in call.headers.tokens("Connection"))
    )


def check_version(call: Call) -> None:
    """Raise UpgradeRequired for another version than ours, BadRequest for none."""
    versions = call.headers.all("Sec-WebSocket-Version")
    if not versions:
        raise BadRequest(f"the header Sec-WebSocket-Version is missing: send {VERSION}")
    if versions != [VERSION]:
        raise UpgradeRequired(f"this server speaks version {VERSION} of WebSocket")


def check_key(call: Call) -> str:
    """Return the key to be answered. Raises BadRequest."""
    keys = call.headers.all("Sec-WebSocket-Key")
    if len(keys) == 1 and _is_nonce(keys[0]):
        return keys[0]
    raise BadRequest("the header Sec-WebSocket-Key has 16 bytes in base64, once")


def _is_nonce(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
