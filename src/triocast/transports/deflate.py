"""Compressed WebSocket frames: which events are worth it, for clients that can inflate them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from triocast.events import Position, Publication
from triocast.settings import Namespaces
from triocast.transports.gaps import loss_text
from triocast.wire import deflate, envelope
from triocast.wire import websocket as frames

SHORTEST_TEXT: Final = 256
"""Bytes below which an event is sent as it is: a tenth is all that would be saved."""


@attrs.frozen(eq=False)
class DeflatedTextFrameEncoder:
    """Events as WebSocket text frames, compressed where their namespace asks for it.

    A node has one of these, for all of its clients that agreed: the hub groups by it.
    """

    namespaces: Namespaces
    behind: Position | None = None

    def negotiate(self, offers: Iterable[str]) -> str | None:
        """Return the ``Sec-WebSocket-Extensions`` to answer with; None if nothing is agreed.

        ``offers`` are the request's fields of that name.
        """
        return deflate.negotiate(offers)

    def encode(self, publication: Publication) -> bytes:
        text = envelope.encode_publication(publication, behind=self.behind)
        if len(text) >= SHORTEST_TEXT and self._compresses(publication.event.channel):
            compressed = deflate.deflate(text)
            if len(compressed) < len(text):
                return frames.deflated_text_frame(compressed)
        return frames.text_frame(text)

    def encode_gap(self, publication: Publication) -> bytes:
        return frames.text_frame(loss_text(publication, behind=self.behind))

    def join(self, parts: list[bytes]) -> bytes:
        return b"".join(parts)

    def _compresses(self, channel: str) -> bool:
        return self.namespaces.of_channel(channel).compress


def make_deflate(namespaces: Namespaces) -> DeflatedTextFrameEncoder | None:
    """Return the encoder for clients that can inflate; None if no namespace compresses."""
    if any(options.compress for options in namespaces.values()):
        return DeflatedTextFrameEncoder(namespaces)
    return None
