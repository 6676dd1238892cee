"""A Quart-Trio application that does nothing, on Triocast's server: what any POST costs there.

``python -m benchmarks.empty_app PORT``; a stock Hypercorn runs ``benchmarks.empty_app:app``.
"""

from __future__ import annotations

import sys

import attrs
import trio
from quart_trio import QuartTrio

from triocast.server.config import open_listeners
from triocast.server.run import Server
from triocast.settings import Settings

PATH = "/empty"

app = QuartTrio(__name__)


@app.post(PATH)
async def answer() -> str:
    return ""


class EmptyServer(Server):
    """Triocast's server with this application in the place of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._app = app
        self._service = attrs.evolve(self._service, app=app, shortcuts=None)


async def _serve(port: int) -> None:
    settings = Settings(port=port, log_level="error")
    await EmptyServer(settings).serve(open_listeners(settings), trio.Event())


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]))
