"""Pages whose tokens end while they are in a call."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from e2e.browser import Page
from e2e.rtc_pages import browser, join, opened, origin, start, tab
from e2e.servers import Server
from e2e.tokens import KEY, token

__all__ = ["browser", "origin", "start", "tab"]

pytestmark = pytest.mark.once


def made(user: str, *seconds: float) -> str:
    """Tokens, as a page takes them."""
    return json.dumps([token(user, seconds=each, rooms=["room"]) for each in seconds])


@pytest.fixture
def pages(
    start: Callable[..., Server], tab: Callable[..., Page], request: pytest.FixtureRequest
) -> tuple[Page, Page]:
    """Ann, whose tokens last so long, and Bob, who are connected."""
    server = start("--token-key", KEY)
    ann, bob = tab(), tab()
    join(bob, server, "bob", token=token("bob", rooms=["room"]))
    ann.evaluate(
        f"window.tokens = {made('ann', *request.param)};"
        f"join('{server.authority}', 'room', 'ann', {{token: async () => tokens.shift()}})"
    )
    opened(ann, 1)
    opened(bob, 1)
    return ann, bob


@pytest.mark.parametrize("pages", [(5, 5, 600)], indirect=True)
def test_a_line_is_renewed_before_its_token_ends(pages: tuple[Page, Page]) -> None:
    ann, bob = pages
    id = ann.evaluate("client.id")
    bob.evaluate("window.told = []; client.addEventListener('presence', () => told.push(1)); null")
    ann.wait_for_function("client.seen.joined === 3 && client.status === 'joined'")
    assert ann.evaluate("[client.id, tokens.length, client.seen.connections]") == [id, 0, 1]
    ann.evaluate("shout('still here')")
    bob.wait_for_function("client.seen.heard.length === 1")
    assert bob.evaluate("[told, client.seen.left, client.seen.connections]") == [[], [], 1]


@pytest.mark.parametrize("pages", [(4,)], indirect=True)
def test_without_another_token_it_is_over(pages: tuple[Page, Page]) -> None:
    ann, bob = pages
    ann.wait_for_function("client.status === 'closed'")
    bob.wait_for_function("client.seen.left.length === 1")
    assert bob.evaluate("client.seen.left") == [["ann", "left"]]
    assert ann.evaluate("client.seen.errors").count("unauthorized") == 1
