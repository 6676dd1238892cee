"""Chromium's own EventSource and WebSocket, on a page of another origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.browser import Browser, Browsers, Page, site
from e2e.clients import Stream
from e2e.rest import publish, stats, until
from e2e.servers import Server

pytestmark = pytest.mark.once

PAGE = b"""<!doctype html><meta charset="utf-8"><title>a page</title><link rel="icon" href="data:,">
<script>
window.seen = []; window.ids = []; window.told = []; window.states = [];
function listen(url, credentials) {
    const source = new EventSource(url, {withCredentials: credentials});
    source.onopen = () => states.push("open");
    source.onerror = () => states.push(source.readyState === 2 ? "closed" : "again");
    source.onmessage = (event) => {
        const message = JSON.parse(event.data);
        if ("channel" in message) {
            seen.push(message);
            ids.push(event.lastEventId);
        } else {
            told.push(message);
        }
    };
    window.source = source;
}
function connect(url) {
    const socket = new WebSocket(url, "triocast.v1");
    socket.onmessage = (event) => seen.push(JSON.parse(event.data));
    socket.onclose = (event) => states.push(event.code);
    window.socket = socket;
}
</script>"""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """A site that is not the server's."""
    with site(PAGE) as running:
        yield running


@pytest.fixture
def browser(browsers: Browsers) -> Browser:
    return browsers.get()


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    with browser.page(origin) as page:
        yield page
        print(page.evaluate("[states, told, seen]"))


@pytest.fixture
def start(serve: Callable[..., Server], origin: str) -> Callable[..., Server]:
    """Start a server that the page may talk to, with a short drain: it also sets how late
    clients come back."""

    def start(*options: str) -> Server:
        return serve("--allowed-origins", origin, "--drain-seconds", "0.5", *options)

    return start


def listen(page: Page, server: Server, query: str) -> None:
    page.evaluate(f"listen('http://{server.authority}/realtime/events?{query}', false)")
    page.wait_for_function("states.includes('open')")


def data_seen(page: Page, count: int) -> list[Any]:
    page.wait_for_function(f"seen.length >= {count}")
    return [event["data"] for event in page.evaluate("seen")]


def test_event_source(page: Page, start: Callable[..., Server]) -> None:
    server = start()
    listen(page, server, "channel=news")
    until(lambda: stats(server)["sse_count"] == 1, "stream")
    sent = [publish(server, channel="news", data={"n": n, "text": "∎\n"}) for n in range(20)]
    assert data_seen(page, 20) == [{"n": n, "text": "∎\n"} for n in range(20)]
    assert page.evaluate("ids") == [answer["id"] for answer in sent]
    assert page.evaluate("states") == ["open"]
    page.evaluate("source.close()")
    until(lambda: stats(server)["sse_count"] == 0, "end")


def test_web_socket(page: Page, start: Callable[..., Server]) -> None:
    server = start()
    page.evaluate(f"connect('ws://{server.authority}/realtime/ws')")
    page.wait_for_function("seen.length === 1")
    assert page.evaluate("socket.protocol") == "triocast.v1"
    page.evaluate("socket.send(JSON.stringify({type: 'subscribe', channel: 'news', id: 1}))")
    page.wait_for_function("seen.length === 2")
    publish(server, channel="news", data="from here")
    page.evaluate(
        "socket.send(JSON.stringify({type: 'publish', event: {channel: 'news', data: 'there'}}))"
    )
    page.wait_for_function("seen.length === 4")
    greeting, reply, *events = page.evaluate("seen")
    assert (greeting["type"], reply["type"]) == ("connected", "reply")
    assert [event["data"] for event in events] == ["from here", "there"]
    server.process.terminate()
    page.wait_for_function("states.length === 1")
    assert page.evaluate("states") == [1012]


def test_a_page_that_is_not_allowed(page: Page, serve: Callable[..., Server]) -> None:
    server = serve()
    page.evaluate(f"listen('http://{server.authority}/realtime/events', false)")
    page.wait_for_function("states.includes('closed')")
    page.evaluate(f"connect('ws://{server.authority}/realtime/ws')")
    page.wait_for_function("states.includes(1006)")
    publish(server, data=1)
    assert page.evaluate("seen") == []


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_an_event_source_comes_back_after_a_restart(
    page: Page, start: Callable[..., Server], how: str, tmp_path: Path
) -> None:
    """With nothing but the standard it gets what was published while it was away."""
    in_file = ("--engine", f"sqlite:///{tmp_path}/events.db")
    server = start(*in_file)
    listen(page, server, "channel=news")
    if how == "kill":  # and also if it never had an event
        publish(server, channel="news", data="before")
        assert data_seen(page, 1) == ["before"]
    getattr(server.process, how)()
    server.process.wait(10)
    page.wait_for_function("states.includes('again')")
    successor = start("--port", str(server.port), *in_file)
    assert successor.port == server.port
    publish(successor, channel="news", data="missed")
    page.wait_for_function("states.at(-1) === 'open' && states.length > 2")
    publish(successor, channel="news", data="after")
    expected = ["before", "missed", "after"] if how == "kill" else ["missed", "after"]
    assert data_seen(page, len(expected)) == expected
    assert "closed" not in page.evaluate("states")


def test_an_event_source_comes_back_after_it_was_turned_away(
    page: Page, start: Callable[..., Server]
) -> None:
    server = start("--max-connections", "1")
    with Stream(server) as other:
        other.opened()
        listen(page, server, "")
        page.wait_for_function("states.includes('again') && told.length === 1")
        error = page.evaluate("told")[0]
        assert (error["type"], error["data"]["code"]) == ("ERROR", "too_many_connections")
    until(lambda: stats(server)["sse_count"] == 0, "free place")
    page.wait_for_function("states.at(-1) === 'open' && states.length > 2")
    publish(server, data="welcome")
    assert data_seen(page, 1) == ["welcome"]
