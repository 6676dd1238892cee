"""Sound and picture between two pages by the browser SDK; the devices are Chromium's own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from e2e.browser import Page
from e2e.rtc_pages import browser, join, opened, origin, start, tab
from e2e.servers import Server

__all__ = ["browser", "origin", "start", "tab"]

pytestmark = pytest.mark.once


def arrives(page: Page, kind: str, count: str, enough: int) -> None:
    """Wait until so many packets or frames of this kind came from the page's peer."""
    page.wait_for_function(f"came('{kind}', '{count}').then((count) => count >= {enough})")


def settled(page: Page) -> None:
    page.wait_for_function("client.peers[0].pc.signalingState === 'stable'")
    assert page.evaluate("[client.seen.connections, client.seen.errors]") == [1, []]


def test_an_audio_call(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    """Both add a track as soon as there is a connection: it is in the first offer and answer."""
    server = start()
    ann, bob = tab(), tab()
    for page, name in ((ann, "ann"), (bob, "bob")):
        page.evaluate("capture({audio: true})")
        join(page, server, name)
    for page, other in ((ann, "bob"), (bob, "ann")):
        page.wait_for_function("client.seen.tracks.length === 1")
        assert page.evaluate("client.seen.tracks") == [[other, "audio"]]
        arrives(page, "audio", "packetsReceived", 50)
        opened(page, 1)
        settled(page)


@pytest.mark.parametrize("adder", ["initiator", "responder"])
def test_a_track_that_is_added_later(
    start: Callable[..., Server], tab: Callable[..., Page], adder: str
) -> None:
    server = start()
    elder, newcomer = tab(), tab()
    join(elder, server, "elder")
    elder.wait_for_function("client.status === 'joined'")
    join(newcomer, server, "newcomer")
    for page in (elder, newcomer):
        opened(page, 1)
    # The later of the two is the initiator.
    page, other = (newcomer, elder) if adder == "initiator" else (elder, newcomer)
    for number, kind in enumerate(("video", "audio"), 1):
        page.evaluate(f"capture({json.dumps({kind: True})}).then(() => give(client.peers[0].pc))")
        other.wait_for_function(f"client.seen.tracks.length === {number}")
        assert other.evaluate("client.seen.tracks.at(-1)[1]") == kind
        arrives(other, kind, "framesDecoded" if kind == "video" else "packetsReceived", 5)
    for each in (page, other):
        settled(each)
    assert page.evaluate("client.seen.tracks") == []
