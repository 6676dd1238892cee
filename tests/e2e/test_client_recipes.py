"""Each program of docs/how-to/clients.md does what it says: it runs as it is, over a restart."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.browser import Browsers, site
from e2e.rest import publish, stats, until
from e2e.servers import Server

pytestmark = pytest.mark.once

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "clients.md"
ADDRESS = "http://localhost:8000"
MAX_LINES = 10

RECIPES = dict(re.findall(r"^## ([^\n]+)\n\n```\w+\n(.*?)^```", PAGE.read_text(), re.M | re.S))

NODE_GLOBALS = """
import { EventSource } from "eventsource";
globalThis.EventSource = EventSource; // Node 20 has none
"""

OF_BROWSERS = """
setInterval(() => {}, 1_000); // a page does not end while nothing is under way
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
"""

HTML = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<script>window.logged = []; console.log = (...words) => logged.push(words.join(" "));</script>
<script type="module">%s</script>"""

NODE = [name for name, recipe in RECIPES.items() if recipe.startswith("import ") and ";" in recipe]


FOR_BROWSERS = ["`reconnecting-eventsource`", "`@microsoft/fetch-event-source`"]


def test_every_program_is_short_and_of_a_kind_that_is_run_here() -> None:
    others = ["Browsers: `EventSource`", "Python: `httpx-sse`", "`curl`"]
    assert sorted(RECIPES) == sorted([*NODE, *others])
    assert len(NODE) == 4
    for recipe in RECIPES.values():
        assert len([line for line in recipe.splitlines() if line]) <= MAX_LINES


class Restarts:
    """A server that is restarted on its port and file while a client listens."""

    def __init__(self, start: Callable[..., Server], folder: Path) -> None:
        self._start = start
        self._options = ("--engine", f"sqlite:///{folder}/events.db", "--drain-seconds", "1")
        self.server = start(*self._options)

    def recipe(self, name: str) -> str:
        assert ADDRESS in RECIPES[name]
        return RECIPES[name].replace(ADDRESS, f"http://{self.server.authority}")

    def check(self, printed: Callable[[], list[str]]) -> None:
        """Check that an event before a restart and one behind it are printed, once each."""
        until(lambda: stats(self.server)["sse_count"] == 1, "the client")
        publish(self.server, channel="news", data="one")
        until(lambda: "news one" in printed(), "the first event")
        self.server.process.send_signal(signal.SIGTERM)
        self.server.process.wait(10)
        self.server = self._start("--port", str(self.server.port), *self._options)
        publish(self.server, channel="news", data="two")
        until(lambda: "news two" in printed(), "the second event")
        assert printed() == ["news one", "news two"]


@pytest.fixture
def restarts(serve: Callable[..., Server], tmp_path: Path) -> Restarts:
    return Restarts(serve, tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Callable[[], str]]]:
    """Start a program; return what tells its output so far."""
    processes = []

    def run(*command: str, folder: Path) -> Callable[[], str]:
        out = tmp_path / "out.txt"
        with out.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, start_new_session=True
            )
        processes.append(process)
        return out.read_text

    yield run
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("name", "package"),
    [*((name, None) for name in NODE), ("npm `eventsource`", "eventsource-4")],
)
def test_in_node(
    npm_folder: Path,
    restarts: Restarts,
    run: Callable[..., Callable[[], str]],
    name: str,
    package: str | None,
) -> None:
    more = OF_BROWSERS if name in FOR_BROWSERS else ""
    (npm_folder / "globals.mjs").write_text(NODE_GLOBALS + more)
    script = npm_folder / "recipe.mjs"
    recipe = restarts.recipe(name)
    script.write_text(
        recipe if package is None else recipe.replace('eventsource";', f'{package}";')
    )
    output = run("node", "--import", "./globals.mjs", script.name, folder=npm_folder)
    restarts.check(lambda: output().splitlines())


def test_in_python(
    restarts: Restarts, run: Callable[..., Callable[[], str]], tmp_path: Path
) -> None:
    recipe = restarts.recipe("Python: `httpx-sse`")
    output = run(sys.executable, "-c", recipe, folder=tmp_path)
    restarts.check(lambda: output().splitlines())


def test_in_a_shell(
    restarts: Restarts, run: Callable[..., Callable[[], str]], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing: apt-get install curl")
    output = run("sh", "-c", restarts.recipe("`curl`"), folder=tmp_path)

    def printed() -> list[str]:
        whole = output().splitlines(keepends=True)
        messages = [json.loads(line) for line in whole if line.endswith("\n")]
        return [f"{m['channel']} {m['data']}" for m in messages if "channel" in m]

    restarts.check(printed)


def test_in_a_browser(browsers: Browsers, serve: Callable[..., Server], tmp_path: Path) -> None:
    with site(b"") as origin:
        restarts = Restarts(lambda *options: serve("--allowed-origins", origin, *options), tmp_path)
        with browsers.get().page(origin) as page:
            recipe = restarts.recipe("Browsers: `EventSource`")
            html = json.dumps(HTML % recipe)
            page.evaluate(f"(document.open(), document.write({html}), document.close())")
            restarts.check(lambda: page.evaluate("window.logged ?? []"))
