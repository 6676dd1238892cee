"""Popular clients for Server-Sent Events, unchanged, in Chromium; behind nginx, too."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from e2e.browser import Browsers, Page
from e2e.clients import Stream
from e2e.nginx import nginx_before
from e2e.rest import publish, stats, until
from e2e.servers import Server

pytestmark = pytest.mark.once

PAGE = """<!doctype html><meta charset="utf-8"><title>clients</title><link rel="icon" href="data:,">
<script type="importmap">{"imports": {
    "@microsoft/fetch-event-source": "/node_modules/@microsoft/fetch-event-source/lib/esm/index.js",
    "eventsource-4": "/node_modules/eventsource-4/dist/index.js",
    "eventsource-parser":
        "/node_modules/eventsource-4/node_modules/eventsource-parser/dist/index.js",
    "reconnecting-eventsource":
        "/node_modules/reconnecting-eventsource/build/esm/reconnecting-eventsource.js"
}}</script>
<script src="/node_modules/event-source-polyfill/src/eventsource.js"></script>
<script type="module">
    window.Native = EventSource;
    const { Listeners } = await import("/clients.mjs");
    window.listen = (url) => { window.listeners = new Listeners(url); };
    window.isReady = true;
</script>"""

CLIENTS = 5
"""In `clients.mjs`; a browser has six connections to one server."""

DATA = "Object.values(listeners.data)"


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves the scripts as bundlers find them: also without their extension."""

    def translate_path(self, path: str) -> str:
        found = super().translate_path(path)
        return found if Path(found).exists() else f"{found}.js"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest has enough to say."""


@pytest.fixture(scope="module")
def origin(npm_folder: Path) -> Iterator[str]:
    """A site of the page and the packages."""
    (npm_folder / "index.html").write_text(PAGE)
    handler = partial(Files, directory=str(npm_folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="site")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def page(browsers: Browsers, origin: str) -> Iterator[Page]:
    with browsers.get().page(origin) as page:
        page.wait_for_function("window.isReady")
        yield page
        print(page.evaluate("window.listeners"))


@pytest.fixture
def start(serve: Callable[..., Server], origin: str) -> Callable[..., Server]:
    """Start a server that the page may talk to, with a short drain."""

    def start(*options: str) -> Server:
        return serve("--allowed-origins", origin, "--drain-seconds", "1", *options)

    return start


def listen(page: Page, server: Server) -> None:
    page.evaluate(f"listen('http://{server.authority}/realtime/events?channel=a')")


def check(page: Page, expected: list[object]) -> None:
    """Return when all clients have got these events, and nothing else."""
    page.wait_for_function(f"listeners.got({len(expected)})")
    assert page.evaluate(DATA) == [expected] * CLIENTS
    assert page.evaluate("listeners.faults") == []


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_they_come_back_after_a_restart_and_have_missed_nothing(
    page: Page, start: Callable[..., Server], how: str, tmp_path: Path
) -> None:
    in_file = ("--engine", f"sqlite:///{tmp_path}/events.db")
    server = start(*in_file)
    listen(page, server)
    page.wait_for_function("listeners.began(1)")
    sent: list[object] = []
    for _ in ("cold", "warm"):
        getattr(server.process, how)()
        server.process.wait(10)
        server = start("--port", str(server.port), *in_file)
        for data in range(len(sent), len(sent) + 5):
            publish(server, channel="a", data=data)
            sent.append(data)
        check(page, sent)


def test_they_come_back_behind_nginx_after_they_were_refused_for_now(
    page: Page, start: Callable[..., Server], tmp_path: Path
) -> None:
    server = start("--max-connections", str(CLIENTS))
    with nginx_before(server, tmp_path / "nginx", "proxy_set_header Host $http_host;") as front:
        with ExitStack() as stack:
            for _ in range(CLIENTS):
                stack.enter_context(Stream(server)).opened()
            listen(page, front)
            until(
                lambda: stats(server)["refused"].get("too_many_connections", 0) >= CLIENTS,
                "refusals",
            )
        page.wait_for_function("listeners.began(1)")
        publish(server, channel="a", data="welcome")
        check(page, ["welcome"])
