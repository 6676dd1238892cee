"""Peers of aiortc, which find each other through Triocast and Python's own client."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from e2e.aiortc_peer import aiortc_peer
from e2e.servers import Server

pytestmark = pytest.mark.once


@pytest.mark.parametrize("count", [2, 4])
def test_peers_connect(serve: Callable[..., Server], count: int) -> None:
    """All join at once, and each hears each other one over a channel of its own."""
    server = serve()
    names = [f"p{number}" for number in range(count)]
    with ExitStack() as stack:
        peers = {name: stack.enter_context(aiortc_peer(server.port, name)) for name in names}
        for name, peer in peers.items():
            peer.sees(*[f"* connected with {other}" for other in names if other != name])
        for peer in peers.values():
            peer.type("hello")
        for name, peer in peers.items():
            peer.sees(*[f"{other}: hello" for other in names if other != name])
        peers["p0"].leave()
        for name in names[1:]:
            peers[name].sees("* p0 has left (left)")
