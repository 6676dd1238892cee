"""Which of Hypercorn's protocols a client speaks, and the changes between them."""

from __future__ import annotations

import binascii
from collections.abc import Awaitable, Callable
from typing import Any

import h2.exceptions
from hypercorn.events import RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hyperframe.exceptions import HyperframeError

from triocast.server.http1 import SafeH11Protocol
from triocast.server.http2 import SafeH2Protocol


class SafeProtocol(ProtocolWrapper):
    """Chooses between our HTTP/1.1 and HTTP/2, as Hypercorn does between its own."""

    def __init__(self, *args: Any, alpn_protocol: str | None) -> None:
        # Not calling up: it would make Hypercorn's own protocol objects.
        (
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.state,
            self.ssl,
            self.client,
            self.server,
            self.send,
        ) = self._parts = args
        kind = SafeH2Protocol if alpn_protocol == "h2" else SafeH11Protocol
        self.protocol: Any = self._make(kind)

    @property
    def http1(self) -> SafeH11Protocol | None:
        """The protocol, while it is HTTP/1."""
        return self.protocol if isinstance(self.protocol, SafeH11Protocol) else None

    def _make(self, kind: Callable[..., Any]) -> Any:
        app, config, context, task_group, state, ssl, client, server, send = self._parts
        return kind(app, config, context, task_group, state, ssl, client, server, send)

    async def handle(self, event: Any) -> None:
        await self._with_switches(self.protocol.handle(event))

    async def resume(self) -> None:
        """Go on with what an HTTP/1.1 connection held back."""
        await self._with_switches(self.protocol.resume())

    async def _with_switches(self, handling: Awaitable[None]) -> None:
        try:
            await handling
        except H2ProtocolAssumedError as error:
            self.protocol = self._make(SafeH2Protocol)
            await self.protocol.initiate()
            # What looked like a request was none: the connection is idle again.
            await self.send(Updated(idle=True))
            data = error.data
        except H2CProtocolRequiredError as error:
            self.protocol = self._make(SafeH2Protocol)
            try:
                await self.protocol.initiate(error.headers, error.settings)
            except (binascii.Error, HyperframeError) as wrong:
                # `h2` lets these through for what is wrong in the field HTTP2-Settings.
                raise h2.exceptions.ProtocolError(f"HTTP2-Settings: {wrong}") from wrong
            data = error.data
        else:
            return
        if data:
            await self.protocol.handle(RawData(data))
