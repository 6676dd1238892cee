"""A change to HTTP/2 that cannot be is the client's fault, whatever the libraries raise for it."""

import binascii

import h2.exceptions
import h11
import pytest
from hypercorn.protocol.h11 import H2CProtocolRequiredError
from hyperframe.exceptions import InvalidFrameError

from triocast.server.protocols import SafeProtocol

REQUEST = h11.Request(method="GET", target="/", headers=[("Host", "x"), ("HTTP2-Settings", "A")])


@pytest.mark.parametrize("error", [binascii.Error("padding"), InvalidFrameError("SETTINGS")])
async def test_settings_that_cannot_be_read(error):
    class Protocol(SafeProtocol):
        def __init__(self):
            """Without the parts of a server."""

        def _make(self, kind):
            return self

        async def initiate(self, headers, settings):
            assert settings == b"A"
            raise error

    async def upgrade():
        raise H2CProtocolRequiredError(b"", REQUEST)

    with pytest.raises(h2.exceptions.ProtocolError, match="HTTP2-Settings"):
        await Protocol()._with_switches(upgrade())
