"""The PeerJS client from npm, unchanged, in Chromium: two pages that find each other here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from e2e.browser import Browser, Browsers, Page, site
from e2e.conftest import Servers
from e2e.rest import stats, until
from e2e.rtc_pages import LOOPBACK
from e2e.servers import Server
from e2e.tokens import KEY, token

pytestmark = pytest.mark.once

PAGE = """<!doctype html><meta charset="utf-8"><title>a peer</title><link rel="icon" href="data:,">
<script>%s</script>
<script>
const {Peer} = window.peerjs;
const seen = [], errors = [], states = [];
let peer, line;
function hear(connection) {
    line = connection;
    connection.on("open", () => states.push("line"));
    connection.on("data", (data) => {
        const isBinary = data instanceof ArrayBuffer || ArrayBuffer.isView(data);
        seen.push(isBinary ? {bytes: [...new Uint8Array(data.buffer ?? data)]} : data);
    });
}
function begin(port, id, options) {
    options = {host: "127.0.0.1", port, path: "/", config: {iceServers: []}, ...options};
    peer = id === null ? new Peer(options) : new Peer(id, options);
    peer.on("open", (id) => states.push("open " + id));
    peer.on("disconnected", () => states.push("disconnected"));
    peer.on("error", (error) => errors.push([error.type, error.message]));
    peer.on("connection", hear);
}
</script>"""


@pytest.fixture(scope="module")
def origin(npm_folder: Path) -> Iterator[str]:
    """A site that is not the server's, with the client as npm delivers it."""
    package = npm_folder / "node_modules" / "peerjs"
    assert json.loads((package / "package.json").read_text())["version"] == "1.5.5"
    script = (package / "dist" / "peerjs.min.js").read_text()
    assert "</script" not in script
    with site((PAGE % script).encode()) as running:
        yield running


@pytest.fixture
def browser(browsers: Browsers) -> Browser:
    return browsers.get(*LOOPBACK)


@pytest.fixture
def pages(browser: Browser, origin: str) -> Iterator[tuple[Page, Page]]:
    with ExitStack() as stack:
        # With the microphone's permission addresses are candidates as they are, loopback too.
        opened = [
            stack.enter_context(browser.page(origin, permissions=["microphone"])) for _ in range(2)
        ]
        yield opened[0], opened[1]
        for page in opened:
            print(page.evaluate("[states, seen, errors]"))


@pytest.fixture
def server(servers: Servers, origin: str) -> Server:
    return servers.get("taken over", allowed_origins=origin, peerjs_discovery="true")


def begin(page: Page, server: Server, id: str | None = None, **options: Any) -> str:
    """Make the page a peer; return its id when it is open."""
    page.evaluate(f"begin({server.port}, {json.dumps(id)}, {json.dumps(options)})")
    page.wait_for_function("states.some((state) => state.startsWith('open '))")
    return str(page.evaluate("peer.id"))


def connect(page: Page, other: Page, to: str, **options: Any) -> None:
    page.evaluate(f"hear(peer.connect({json.dumps(to)}, {json.dumps(options)}))")
    for end in (page, other):
        end.wait_for_function("states.includes('line')")


@pytest.mark.parametrize("serialization", ["binary", "json", "raw"])
def test_data_both_ways(pages: tuple[Page, Page], server: Server, serialization: str) -> None:
    ann, bob = pages
    bob_id = begin(bob, server)
    ann_id = begin(ann, server)
    assert ann_id != bob_id
    connect(ann, bob, bob_id, serialization=serialization, metadata={"name": "Ann"})
    assert bob.evaluate("[line.peer, line.metadata]") == [ann_id, {"name": "Ann"}]
    assert bob.evaluate("line.serialization") == serialization
    for page, other in ((ann, bob), (bob, ann)):
        page.evaluate("line.send('hello')")
        if serialization == "raw":
            page.evaluate("line.send(new Uint8Array([1, 2, 255]))")
        else:
            page.evaluate("line.send({a: [1, null, 'ü']})")
        other.wait_for_function("seen.length === 2")
        expected = {"bytes": [1, 2, 255]} if serialization == "raw" else {"a": [1, None, "ü"]}
        assert other.evaluate("seen") == ["hello", expected]


def test_an_id_is_taken(pages: tuple[Page, Page], server: Server) -> None:
    ann, other = pages
    assert begin(ann, server, "taken-by-ann") == "taken-by-ann"
    other.evaluate(f"begin({server.port}, 'taken-by-ann', {{}})")
    other.wait_for_function("errors.length === 1")
    assert other.evaluate("errors") == [["unavailable-id", 'ID "taken-by-ann" is taken']]
    assert ann.evaluate("peer.disconnected") is False


def test_a_peer_that_is_not_there(pages: tuple[Page, Page], server: Server) -> None:
    ann, _ = pages
    begin(ann, server)
    ann.evaluate("peer.connect('nobody-here'); null")
    ann.wait_for_function("errors.length === 1")
    assert ann.evaluate("errors") == [["peer-unavailable", "Could not connect to peer nobody-here"]]


def test_a_call_to_an_impossible_id_leaves_the_others_alone(
    pages: tuple[Page, Page], server: Server
) -> None:
    ann, bob = pages
    bob_id = begin(bob, server)
    begin(ann, server)
    ann.evaluate("window.failed = peer.connect('bob@example.com')")
    ann.wait_for_function("errors.length === 1")
    connect(ann, bob, bob_id)
    assert ann.evaluate("errors") == [
        ["peer-unavailable", "Could not connect to peer bob@example.com"]
    ]
    assert ann.evaluate("[peer.disconnected, states.includes('disconnected')]") == [False, False]


def test_disconnect_and_reconnect(pages: tuple[Page, Page], server: Server) -> None:
    ann, bob = pages
    ann_id, bob_id = begin(ann, server), begin(bob, server)
    connect(ann, bob, bob_id)
    bob.evaluate("peer.disconnect()")
    bob.wait_for_function("states.includes('disconnected')")
    listed = "peer.listAllPeers((found) => window.found = found)"

    def ids() -> list[str]:
        ann.evaluate(f"window.found = null, {listed}, 0")
        ann.wait_for_function("window.found")
        return list(ann.evaluate("found"))

    until(lambda: bob_id not in ids(), "end of the peer")
    assert ann_id in ids()
    # What two peers have with each other does not need the server.
    ann.evaluate("line.send('still there')")
    bob.wait_for_function("seen.length === 1")
    bob.evaluate("states.length = 0, peer.reconnect()")
    bob.wait_for_function(f"states.includes('open {bob_id}')")
    assert bob_id in ids()
    ann.evaluate("states.length = 0")
    bob.evaluate("states.length = 0")
    connect(ann, bob, bob_id)
    assert bob.evaluate("errors") == []


def test_a_client_that_returns_before_its_line_was_missed(
    pages: tuple[Page, Page], server: Server
) -> None:
    ann, _ = pages
    ann_id = begin(ann, server, token="a-secret-of-its-own")
    before = stats(server)["ended"].get("replaced", 0)
    # A second Peer with the same id and token is what a lost network looks like from here.
    ann.evaluate(
        f"states.length = 0, begin({server.port}, {json.dumps(ann_id)},"
        " {token: 'a-secret-of-its-own'})"
    )
    ann.wait_for_function(f"states.includes('open {ann_id}')")
    until(lambda: stats(server)["ended"].get("replaced", 0) == before + 1, "end of the old line")


def test_a_token_is_the_key(pages: tuple[Page, Page], servers: Servers, origin: str) -> None:
    server = servers.get("taken over", allowed_origins=origin, token_key=KEY)
    ann, bob = pages
    bob_id = begin(bob, server, key=token("bob", rooms=["peerjs"]))
    begin(ann, server, "ann", key=token("ann", rooms=[{"room": "peerjs", "claim": True}]))
    connect(ann, bob, bob_id)
    bob.evaluate("peer.destroy(), states.length = errors.length = 0")
    bob.evaluate(f"begin({server.port}, 'bob', {{key: 'peerjs'}})")
    bob.wait_for_function("errors.length === 1")
    assert bob.evaluate("errors") == [["server-error", "Invalid key provided"]]
