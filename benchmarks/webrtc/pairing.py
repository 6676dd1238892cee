"""Pairs in Chromium: from coming in until the data channel is open."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import math
import shutil
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks.figures import Figures
from benchmarks.servers import Running
from benchmarks.wire import Wrong

PAGE = Path(__file__).parent / "page.html"

SDK = "sdkPair"
PEERJS = "peerjsPair"
"""The functions of the page: each makes one pair."""

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Chromium has candidates of loopback with this flag only, and addresses as they are for pages
    # that may use the microphone.
    "--allow-loopback-in-peer-connection",
    "--use-fake-ui-for-media-stream",
)
_FRESH = 60
"""Pairs after which there is another tab: of 500 connections, closed ones among them, Chromium
refuses the next."""

_WARM = 3
"""Pairs of each kind before it counts."""


@attrs.frozen
class Way:
    """How pairs come about: one of the page's functions, at a server."""

    name: str
    function: str
    server: Running


def missing() -> str | None:
    """Say why there is no browser here, and what to do."""
    if shutil.which("chromium") is None:
        return "pairs in a browser: there is no `chromium`: apt-get install chromium"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "pairs in a browser: Playwright is missing: pip install playwright"
    return None


@contextlib.contextmanager
def site(script: str) -> Iterator[str]:
    """Serve the page and PeerJS' client; yields the origin."""
    files = {
        "/": (PAGE.read_bytes(), "text/html; charset=utf-8"),
        "/peerjs.js": (script.encode(), "text/javascript; charset=utf-8"),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = files.get(self.path, (b"", "text/plain"))
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


Pair = Callable[[Way], list[float]]


@contextlib.contextmanager
def browser(origin: str) -> Iterator[Pair]:
    """Start Chromium on the page; yields what makes a pair.

    That returns milliseconds until the second peer is in, and until its channel is open. It
    raises Wrong.
    """
    from playwright.sync_api import Error, sync_playwright

    names = itertools.count()
    with sync_playwright() as play:
        path = shutil.which("chromium")
        chromium = play.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            tab = None

            def pair(way: Way) -> list[float]:
                nonlocal tab
                number = next(names)
                if number % _FRESH == 0:
                    if tab is not None:
                        tab.close()  # and with its process all that it had
                    tab = chromium.new_page()
                    tab.context.grant_permissions(["microphone"], origin=origin)
                    tab.goto(origin)
                what = f"{way.function}({way.server.port}, 'pair{number}')"
                try:
                    took: list[float] = tab.evaluate(what)
                except Error as error:
                    raise Wrong(f"a pair of {way.name}: {error.message}") from error
                return took

            yield pair
        finally:
            chromium.close()


def measure_pairs(pair: Pair, ways: Sequence[Way], count: int) -> dict[str, Figures]:
    """Let ways take turns, pair by pair; return the figures of each by its name. Raises Wrong."""
    for _ in range(_WARM):
        for way in ways:
            pair(way)
    took: dict[str, list[list[float]]] = {way.name: [] for way in ways}
    for number in range(count):
        # Forth and back: nobody always comes after the same one.
        for way in ways if number % 2 else reversed(ways):
            took[way.name].append(pair(way))
    return {name: _figures(*zip(*each, strict=True)) for name, each in took.items()}


def _figures(joined: Sequence[float], opened: Sequence[float]) -> Figures:
    ordered = sorted(opened)
    return {
        "joined_ms": statistics.median(joined),
        "p50": statistics.median(ordered),
        "p99": ordered[math.ceil(len(ordered) * 0.99) - 1],
        "most": ordered[-1],
    }
