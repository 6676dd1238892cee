"""Triocast: a realtime server on Trio. Events in by REST, out by SSE, WebSocket and long poll."""

from typing import Final

__version__: Final = "0.1.0"
