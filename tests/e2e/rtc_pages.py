"""Web pages that meet in rooms by the browser SDK, in Chromium, with real RTCPeerConnections on
loopback. The fixtures here are imported by the modules that want them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.browser import Browser, Browsers, Page, site
from e2e.servers import Server

# Chromium gathers candidates of loopback only with the flag and for pages that may use the
# microphone. Theirs, and the camera, are Chromium's own: a beep and a moving picture.
LOOPBACK = (
    "--allow-loopback-in-peer-connection",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)

PAGE = b"""<!doctype html><meta charset="utf-8"><title>a page</title><link rel="icon" href="data:,">
<script>
window.clients = [];
async function join(server, room, name, options = {}) {
    const {SignalingClient} = await import(`http://${server}/realtime/sdk/signaling.js`);
    const url = `ws://${server}/realtime/webrtc/signaling`;
    const client = new SignalingClient(url, {room, metadata: {name}, ...options});
    const seen = {joined: 0, connections: 0, heard: [], failed: [], left: [], errors: []};
    seen.tracks = [];
    const on = (type, listener) => client.addEventListener(type, ({detail}) => listener(detail));
    on("joined", () => (seen.joined += 1));
    on("connection", ({pc}) => {
        seen.connections += 1;
        if (window.stream) give(pc);
    });
    on("track", ({peer, track}) => seen.tracks.push([peer.metadata.name, track.kind]));
    on("failed", ({peer, reason}) => seen.failed.push([peer.metadata.name, reason]));
    on("left", ({peer, reason}) => seen.left.push([peer.metadata.name, reason]));
    on("error", ({code, message, error}) => seen.errors.push(code ?? String(error)));
    on("channel", ({peer, channel}) => {
        channel.onmessage = ({data}) => seen.heard.push([peer.metadata.name, data]);
    });
    Object.assign(client, seen);
    client.seen = seen;
    clients.push(client);
    window.client = client;
}
function open(client, count) {
    const peers = client.peers.filter((peer) => peer.channels.get("data")?.readyState === "open");
    return peers.length === count && client.peers.length === count;
}
function shout(text) {
    for (const peer of client.peers) peer.channels.get("data").send(text);
}
// Break the line, and claim on the next to have what was never said: that is a gap.
function miss() {
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (text) {
        if (!text.includes('"resume"')) return this.close(4002);
        WebSocket.prototype.send = send;
        const join = JSON.parse(text);
        join.resume.lastSeq = 10000;
        this.send(JSON.stringify(join));
    };
    client.relay('lost with the line');
}
async function capture(wanted) {
    window.stream = await navigator.mediaDevices.getUserMedia(wanted);
}
function give(pc) {
    for (const track of stream.getTracks()) pc.addTrack(track, stream);
}
async function came(kind, count) {
    const stats = [...(await client.peers[0].pc.getStats()).values()];
    const inbound = stats.filter((each) => each.type === "inbound-rtp" && each.kind === kind);
    return inbound.reduce((sum, each) => sum + each[count], 0);
}
function report() {
    return clients.map(({status, id, peers, seen}) => [status, id, seen, peers.map((peer) => [
        peer.metadata.name, peer.state, peer.pc?.signalingState, peer.pc?.iceGatheringState,
    ])]);
}
</script>"""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """A site that is not the server's."""
    with site(PAGE) as running:
        yield running


@pytest.fixture
def browser(browsers: Browsers) -> Browser:
    return browsers.get(*LOOPBACK)


@pytest.fixture
def start(serve: Callable[..., Server], origin: str) -> Callable[..., Server]:
    return lambda *options: serve("--allowed-origins", origin, *options)


@pytest.fixture
def tab(browser: Browser, origin: str) -> Iterator[Callable[..., Page]]:
    """Open tabs; what they saw is shown if the test fails."""
    with ExitStack() as stack:

        def open_tab(address: str = origin) -> Page:
            page = stack.enter_context(browser.page(address))
            if address == origin:
                stack.callback(lambda: print(page.evaluate("report()")))
            return page

        yield open_tab


def join(page: Page, server: Server, name: str, room: str = "room", **options: Any) -> None:
    page.evaluate(f"join({json.dumps([server.authority, room, name, options])[1:-1]})")


def opened(page: Page, count: int) -> None:
    """Wait until this page's last client has an open channel to this many peers, and no others."""
    page.wait_for_function(f"window.client && open(client, {count})")


def heard(page: Page, *expected: tuple[str, str]) -> None:
    texts = json.dumps(sorted(map(list, expected)))
    page.wait_for_function(f"JSON.stringify([...client.seen.heard].sort()) === '{_tight(texts)}'")


def _tight(text: str) -> str:
    return json.dumps(json.loads(text), separators=(",", ":"))
