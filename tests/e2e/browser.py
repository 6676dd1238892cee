"""Debian's Chromium and a site of its own for it to visit.

Playwright's sync API runs an asyncio loop on the thread that starts it, and its objects may be used
from that thread only. So all of it lives on a thread of its own, on which the tests ask for work:
the thread that runs Trio's tests never has a second loop on it.
"""

from __future__ import annotations

import http.server
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from e2e.programs import missing

PAGE_PATIENCE = 60.0
PATIENCE = PAGE_PATIENCE + 30
"""Longer, so that Playwright gets to say what it waited for."""

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class BrowserThread:
    """The thread that Playwright lives on; `do` has something done there and waits for it."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="browser")
        self._thread.start()

    def do(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, or raise what it raises. Raises TimeoutError."""
        future: Future[Any] = Future()
        self._work.put((work, future))
        return future.result(PATIENCE)

    def end(self) -> None:
        self._work.put(None)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, future = item
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  # it is raised where it was asked for
                future.set_exception(error)


class Page:
    """A tab: as much of Playwright's page as the tests use, callable from any thread."""

    def __init__(self, thread: BrowserThread, tab: Any) -> None:
        self._thread = thread
        self._tab = tab

    def evaluate(self, script: str) -> Any:
        return self._thread.do(lambda: self._tab.evaluate(script))

    def screenshot(self, path: Path) -> None:
        self._thread.do(lambda: self._tab.screenshot(path=path))

    def wait_for_function(self, script: str) -> None:
        """Return when the script is true in the page. Raises Playwright's TimeoutError."""
        self._thread.do(lambda: self._tab.wait_for_function(script))


class Browser:
    """A running Chromium."""

    def __init__(self, thread: BrowserThread, chromium: Any) -> None:
        self._thread = thread
        self._chromium = chromium

    @contextmanager
    def page(self, address: str, *, permissions: Sequence[str] = ()) -> Iterator[Page]:
        """A tab that shows `address`; it is closed at the end. Its site has the permissions."""

        def open_tab() -> Any:
            tab = self._chromium.new_page()
            if permissions:
                tab.context.grant_permissions(permissions, origin=address)
            tab.set_default_timeout(PAGE_PATIENCE * 1_000)
            tab.goto(address)
            return tab

        tab = self._thread.do(open_tab)
        try:
            yield Page(self._thread, tab)
        finally:
            self._thread.do(tab.close)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Start Chromium with these arguments too; skip, or fail in CI, where it is missing."""
    path = shutil.which("chromium")
    if path is None:
        missing("Chromium is missing: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("Playwright is missing: pip install playwright (it is in the extra 'test')")
    thread = BrowserThread()
    try:
        play = thread.do(lambda: sync_playwright().start())
        try:
            running = thread.do(
                lambda: play.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments])
            )
            try:
                yield Browser(thread, running)
            finally:
                thread.do(running.close)
        finally:
            thread.do(play.stop)
    finally:
        thread.end()


class Browsers:
    """Starts one Chromium for each set of arguments, which all tests of the session share.

    Each page has a profile of its own, so that tests do not see each other's.
    """

    def __init__(self) -> None:
        self._running: dict[frozenset[str], Browser] = {}
        self._stack = ExitStack()

    def get(self, *arguments: str) -> Browser:
        key = frozenset(arguments)
        if key not in self._running:
            self._running[key] = self._stack.enter_context(chromium(*arguments))
        return self._running[key]

    def stop(self) -> None:
        self._stack.close()


@contextmanager
def site(page: bytes) -> Iterator[str]:
    """Serve one page, on every path, on a free port; yields the origin."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: pytest has enough to say."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="site")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
