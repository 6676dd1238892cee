"""Fifty peers that come at one moment: as clients of signaling in one room, and as browser tabs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import pytest
import trio

from e2e.browser import Page
from e2e.rtc_pages import browser, origin, start, tab
from e2e.servers import Server
from triocast.client import open_signaling

__all__ = ["browser", "origin", "start", "tab"]

pytestmark = pytest.mark.once

CROWD = 50
TABS = 5
PATIENCE = 60
SDP = "v=0\r\n"


async def test_one_room(serve: Callable[..., Server], nursery: trio.Nursery) -> None:
    """Each of the 1 225 pairs has one initiator, whose offer comes through and is answered."""
    server = serve("--signaling-peers-per-room", str(CROWD))
    url = f"ws://127.0.0.1:{server.port}/realtime/webrtc/signaling"
    offers: Counter[frozenset[str]] = Counter()
    answers: Counter[frozenset[str]] = Counter()
    everybody = {frozenset(pair) for pair in combinations(map(str, range(CROWD)), 2)}
    done = trio.Event()

    async def take_part(name: str) -> None:
        async with open_signaling(url, "room", metadata=name) as client:
            async for message in client:
                kind = message["type"]
                assert kind != "error", message
                if kind == "joined":
                    for peer in list(client.peers.values()):
                        assert peer.initiator
                        await client.send_webrtc_signal("offer", peer.id, SDP)
                elif kind == "peer-joined":
                    assert not message["initiator"]
                elif kind == "offer":
                    other = client.peers[message["from"]].metadata
                    offers[frozenset({name, other})] += 1
                    await client.send_webrtc_signal("answer", message["from"], SDP)
                elif kind == "answer":
                    other = client.peers[message["from"]].metadata
                    answers[frozenset({name, other})] += 1
                    if answers.keys() == everybody:
                        done.set()

    with trio.fail_after(PATIENCE):
        for number in range(CROWD):
            nursery.start_soon(take_part, str(number))
        await done.wait()
    assert set(offers.values()) == set(answers.values()) == {1}
    nursery.cancel_scope.cancel()


def test_tabs(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    """Ten rooms, with one client of each tab: nobody knows before the others who is there."""
    server = start()
    rooms = CROWD // TABS

    def fill(page: Page, name: str) -> None:
        joins = [[server.authority, f"room{room}", name] for room in range(rooms)]
        page.evaluate(f"void {json.dumps(joins)}.forEach((each) => join(...each))")

    def wait(page: Page) -> None:
        # A room at a time: all together may take longer than one has patience for.
        page.wait_for_function(f"clients.length === {rooms}")
        for room in range(rooms):
            page.wait_for_function(f"open(clients[{room}], {TABS - 1})")

    pages = [tab() for _ in range(TABS)]
    for number, page in enumerate(pages):
        fill(page, f"p{number}")
    for page in pages:
        wait(page)
    failed = [page.evaluate("clients.flatMap(({seen}) => seen.failed)") for page in pages]
    made = [page.evaluate("clients.map(({seen}) => seen.connections)") for page in pages]
    assert failed == [[]] * TABS
    assert made == [[TABS - 1] * rooms] * TABS
