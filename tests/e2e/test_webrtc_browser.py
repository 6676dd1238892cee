"""The browser SDK for signaling, and its demo, in Chromium: real RTCPeerConnections on loopback."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from e2e.browser import Page
from e2e.rest import call, until
from e2e.rtc_pages import LOOPBACK, PAGE, browser, heard, join, opened, origin, start, tab
from e2e.servers import Server
from e2e.tokens import KEY, token
from triocast.signaling.messages import SUBPROTOCOL

__all__ = ["LOOPBACK", "PAGE", "browser", "origin", "start", "tab"]

pytestmark = pytest.mark.once

SDK = "/realtime/sdk/signaling.js"
DEMO = "/realtime/webrtc/demo"
ROOMS = "/realtime/webrtc/rooms"
NAME = "document.getElementById('name')"

# The page's WebSockets are in `lines`; while it `isAway`, new ones lead nowhere.
COUNT_LINES = """{
    window.lines = [];
    window.WebSocket = class extends WebSocket {
        constructor(url, protocol) {
            super(window.isAway ? `${url}/nowhere` : url, protocol);
            lines.push(this);
        }
    };
} null"""


@pytest.mark.parametrize("first", [0, 1])
def test_two_pages(start: Callable[..., Server], tab: Callable[..., Page], first: int) -> None:
    server = start()
    pages = [tab(), tab()]
    join(pages[first], server, "elder")
    pages[first].wait_for_function("client.status === 'joined'")
    join(pages[1 - first], server, "newcomer")
    for page in pages:
        opened(page, 1)
        page.evaluate("shout('hello')")
    heard(pages[first], ("newcomer", "hello"))
    heard(pages[1 - first], ("elder", "hello"))
    pages[first].evaluate("(async () => (window.path = await client.peers[0].path()))()")
    assert pages[first].evaluate("path.local") in ("host", "prflx")
    pages[1 - first].evaluate("client.close()")
    pages[first].wait_for_function("client.seen.left.length === 1")
    assert pages[first].evaluate("client.seen.left") == [["newcomer", "left"]]
    assert pages[first].evaluate("client.seen.errors") == []


def test_six_pages(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    server = start()
    pages = [tab() for _ in range(6)]
    for number, page in enumerate(pages):
        join(page, server, f"p{number}")
    for page in pages:
        opened(page, 5)
    for page in pages:
        page.evaluate("shout('hi')")
    for number, page in enumerate(pages):
        heard(page, *[(f"p{other}", "hi") for other in range(6) if other != number])


def test_twenty_simultaneous_joins(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    """Two clients that come at the same moment; rolled-back first offers would hang some."""
    server = start()
    page = tab()
    for number in range(20):
        both = [json.dumps([server.authority, f"room{number}", name])[1:-1] for name in "ab"]
        page.evaluate(f"Promise.all([join({both[0]}), join({both[1]})])")
        page.wait_for_function("clients.slice(-2).every((client) => open(client, 1))")
    assert page.evaluate("clients.map((client) => client.seen.connections)") == [1] * 40
    assert page.evaluate("clients.flatMap((client) => client.seen.failed)") == []


def test_a_call_outlives_the_server(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    server = start()
    ann, bob = tab(), tab()
    join(ann, server, "ann")
    join(bob, server, "bob")
    for page in (ann, bob):
        opened(page, 1)
        page.evaluate("window.before = [client.id, client.peers[0].channels.get('data')]; null")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    for page in (ann, bob):
        page.wait_for_function("client.status === 'away' || client.status === 'connecting'")
    ann.evaluate("shout('are you there?')")
    heard(bob, ("ann", "are you there?"))
    successor = start("--port", str(server.port))
    for page in (ann, bob):
        page.wait_for_function("client.status === 'joined' && client.seen.joined === 2")
    cid = tab()
    join(cid, successor, "cid")
    for page in (ann, bob, cid):
        opened(page, 2)
    for page in (ann, bob):
        kept = "client.peers.some((peer) => peer.channels.get('data') === before[1])"
        assert page.evaluate(f"{kept} && before[1].readyState === 'open'")
        assert page.evaluate("client.id !== before[0]")
        assert page.evaluate("[client.seen.connections, client.seen.left]") == [2, []]
    cid.evaluate("shout('it works')")
    bob.evaluate("shout('still here')")
    heard(ann, ("bob", "still here"), ("cid", "it works"))
    heard(cid, ("bob", "still here"))


def test_a_renegotiation_after_the_server_was_killed(
    start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    """The connection that was kept is agreed on anew: both sides may change it."""
    server = start()
    ann, bob = tab(), tab()
    join(ann, server, "ann")
    join(bob, server, "bob")
    for page in (ann, bob):
        opened(page, 1)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    start("--port", str(server.port))
    for page in (ann, bob):
        page.wait_for_function("client.status === 'joined' && client.seen.joined === 2")
        page.wait_for_function("client.peers[0]?.pc.signalingState === 'stable'")
    for page, other in ((ann, bob), (bob, ann)):
        other.evaluate("client.tracks = 0; client.addEventListener('track', () => client.tracks++)")
        page.evaluate("client.peers[0].pc.addTransceiver('audio'); null")
        other.wait_for_function("client.tracks >= 1")
        assert page.evaluate("client.seen.connections") == 1


def test_a_broken_line_is_resumed(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    """What is said while the line is broken arrives, and nobody connects anew."""
    server = start("--signaling-relay-data")
    ann, bob = tab(), tab()
    join(ann, server, "ann", relayData=True)
    join(bob, server, "bob", relayData=True)
    for page in (ann, bob):
        opened(page, 1)
    bob.evaluate(
        "client.data = [];"
        "client.addEventListener('data', ({detail}) => client.data.push(detail.payload))"
    )
    ann.evaluate(
        """{
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function () { this.close(4002); };
            client.relay(1); client.relay(2);
            WebSocket.prototype.send = send;
        } null"""
    )
    ann.wait_for_function("client.seen.joined === 2")
    ann.evaluate("client.relay(3)")
    bob.wait_for_function("client.data.length >= 3")
    assert bob.evaluate("client.data") == [1, 2, 3]
    assert ann.evaluate("client.seen.connections") == 1


def test_a_gap_is_mended(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    """A client that claims to have what was never said has a gap; both sides restart ICE."""
    server = start()
    ann, bob = tab(), tab()
    join(ann, server, "ann")
    join(bob, server, "bob")
    for page in (ann, bob):
        opened(page, 1)
    fragment = "/a=ice-ufrag:(.+)/.exec(client.peers[0].pc.remoteDescription.sdp)[1]"
    for page in (ann, bob):
        others = bob if page is ann else ann
        page.evaluate(f"window.old = {fragment}")
        others.evaluate(f"window.old = {fragment}")
        page.evaluate("miss()")
        for either in (page, others):
            either.wait_for_function(f"{fragment} !== old")
            either.wait_for_function("client.peers[0].pc.signalingState === 'stable'")
            either.wait_for_function("client.peers[0].pc.connectionState === 'connected'")
    ann.evaluate("shout('mended')")
    heard(bob, ("ann", "mended"))
    assert ann.evaluate("client.seen.connections") == 1
    assert bob.evaluate("client.seen.connections") == 1


def test_both_sides_negotiate_at_once(
    start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    server = start()
    page = tab()
    for name in "ab":
        join(page, server, name)
    page.wait_for_function("clients.length === 2 && clients.every((client) => open(client, 1))")
    for count in range(1, 11):
        page.evaluate("clients.map(({peers}) => peers[0].pc.addTransceiver('audio')), null")
        settled = (
            "clients.every(({peers: [{pc}]}) => pc.signalingState === 'stable' &&"
            " pc.getTransceivers().filter(({mid}) => mid !== null).length"
            f" >= {2 * count})"
        )
        page.wait_for_function(settled)
    page.evaluate("shout('in tune')")
    page.wait_for_function("clients.some(({seen}) => seen.heard[0]?.[1] === 'in tune')")
    assert (
        page.evaluate("clients.map(({seen}) => [seen.connections, seen.errors])") == [[1, []]] * 2
    )


def test_credentials_are_refreshed(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    turn = ("--turn-servers", "turn:127.0.0.1:9", "--turn-secret", "a secret of these tests")
    server = start(*turn, "--turn-seconds", "60")
    ann, bob = tab(), tab()
    # The page's clock: four fifths of the minute are over after a second and a half.
    ann.evaluate(
        "{ const later = setTimeout;"
        " window.setTimeout = (f, ms) => later(f, ms === 48000 ? 1500 : ms); } null"
    )
    join(ann, server, "ann")
    join(bob, server, "bob")
    opened(ann, 1)
    credential = "client.peers[0].pc.getConfiguration().iceServers[0].username"
    ann.evaluate(f"window.first = {credential}")
    ann.wait_for_function(f"{credential} !== first")


def test_rules_of_coming_back(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    server = start()
    page = tab()
    page.evaluate(f"(async () => (window.sdk = await import('http://{server.authority}{SDK}')))()")
    codes = [1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1012, 1013]
    codes += [4000, 4001, 4499, 4500, 4999, 5000]
    final = [1000, 1002, 1003, 1007, 1008, 1009, 4500, 4999]
    assert page.evaluate(f"{codes}.filter((code) => sdk.isFinal(code))") == final
    delays = "[0, 1, 2, 3, 50].map((attempt) => sdk.backoff(attempt, () => {}))"
    assert page.evaluate(delays.replace("{}", "0")) == [250, 500, 1000, 2000, 10_000]
    assert page.evaluate(delays.replace("{}", "1")) == [500, 1000, 2000, 4000, 20_000]


def test_a_failure_is_told(start: Callable[..., Server], tab: Callable[..., Page]) -> None:
    server = start()
    ann, bob = tab(), tab()
    join(ann, server, "ann", connectTimeout=4000)
    relay_only = {"iceTransportPolicy": "relay"}
    join(bob, server, "bob", connectTimeout=2000, rtcConfiguration=relay_only)
    bob.wait_for_function("client.seen.failed.length === 1")
    assert bob.evaluate("client.seen.failed") == [["ann", "no usable candidates"]]
    assert bob.evaluate("client.peers[0].state") == "failed"
    ann.wait_for_function("client.seen.failed.length === 1")
    ((name, reason),) = ann.evaluate("client.seen.failed")
    assert (name, reason) in [
        ("bob", "no usable candidates of the peer"),
        ("bob", "no usable candidates"),
    ]


def test_who_is_sent_away_stays_away(
    start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    server = start()
    page = tab()
    join(page, server, "ann", room="not a room")
    page.wait_for_function("client.status === 'closed'")
    assert page.evaluate("client.seen.errors") == ["bad-message"]
    join(page, server, "ann")
    page.wait_for_function("client.status === 'joined'")
    order = {"action": "close", "room": "room"}
    body = json.dumps(order).encode()
    assert call(server, "POST", ROOMS, body, "application/json").status == 200
    page.wait_for_function("client.status === 'closed'")


def test_who_is_kicked_does_not_come_back(
    start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    server = start()
    ann, bob = tab(), tab()
    bob.evaluate(COUNT_LINES)
    join(ann, server, "ann")
    join(bob, server, "bob")
    for page in (ann, bob):
        opened(page, 1)
    bob.evaluate(
        "window.ends = []; window.pc = client.peers[0].pc;"
        "client.addEventListener('closed', ({detail}) => ends.push(detail.code))"
    )
    order = {"action": "kick", "room": "room", "peer": bob.evaluate("client.id")}
    body = json.dumps(order).encode()
    assert call(server, "POST", ROOMS, body, "application/json").status == 200
    ann.wait_for_function("client.seen.left.length === 1")
    assert ann.evaluate("[client.seen.left, client.peers]") == [[["bob", "kicked"]], []]
    bob.wait_for_function("client.seen.left.length === 1")
    assert bob.evaluate("[client.seen.left, client.peers]") == [[["ann", "kicked"]], []]
    assert bob.evaluate("[client.status, ends]") == ["closed", [4502]]
    assert bob.evaluate("client.seen.errors") == ["kicked"]
    assert bob.evaluate("pc.connectionState") == "closed"
    bob.evaluate("dispatchEvent(new Event('online'))")
    assert bob.evaluate("lines.length") == 1
    (left,) = call(server, "GET", f"{ROOMS}?room=room").json["peers"]
    assert left["id"] == ann.evaluate("client.id")


def test_what_the_server_could_not_keep_is_said_again(
    start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    """An offer for a peer that is away finds no room; it arrives when the peer is back."""
    server = start("--signaling-relay-data")
    ann, bob = tab(), tab()
    bob.evaluate(COUNT_LINES)
    for page, name in ((ann, "ann"), (bob, "bob")):
        join(page, server, name, relayData=True)
    for page in (ann, bob):
        opened(page, 1)
    ann.evaluate(
        "window.refused = 0;"
        "client.addEventListener('error', ({detail}) => (refused += 'session' in detail))"
    )
    bob.evaluate("window.isAway = true; lines[0].close(4002)")
    ann.wait_for_function("client.peers[0].suspended")
    # Smaller and smaller ones, until there is no room for an offer.
    ann.evaluate(
        """for (const [size, count] of [[50_000, 6], [5_000, 11], [400, 14]]) {
            for (let n = 0; n < count; n += 1) client.relay("x".repeat(size), client.peers[0].id);
        }
        client.peers[0].pc.addTransceiver("audio");
        null"""
    )
    ann.wait_for_function("refused >= 1")
    assert set(ann.evaluate("client.seen.errors")) >= {"queue-full"}
    bob.evaluate("isAway = false; dispatchEvent(new Event('online'))")
    bob.wait_for_function("client.seen.tracks.length === 1")
    for page in (ann, bob):
        page.wait_for_function("client.peers[0].pc.signalingState === 'stable'")
        assert page.evaluate("client.seen.connections") == 1
    ann.evaluate("shout('mended')")
    heard(bob, ("ann", "mended"))


def text_of(page: Page, element: str) -> str:
    """What an element of the demo says; its policy forbids `wait_for_function`, which uses eval."""
    return page.evaluate(f"document.getElementById('{element}').innerText")


def test_the_demo(start: Callable[..., Server], tab: Callable[..., Page], tmp_path: Path) -> None:
    server = start()
    pages = [tab(f"http://{server.authority}{DEMO}") for _ in range(2)]
    for page, name in zip(pages, ("Ann", "Bob"), strict=True):
        until(lambda page=page: page.evaluate(f"{NAME}.value !== ''"), "script")
        page.evaluate(
            f"{NAME}.value = '{name}'; document.getElementById('entrance').requestSubmit()"
        )
    for page, other in zip(pages, ("Bob", "Ann"), strict=True):
        row = re.compile(rf"{other}\s*connected\s*(host|prflx) - (host|prflx) \(udp\)")
        until(lambda page=page, row=row: row.search(text_of(page, "peers")), "connected row")
    pages[0].evaluate(
        "document.getElementById('text').value = '<b>hello</b>';"
        "document.getElementById('say').requestSubmit()"
    )
    until(lambda: "Ann: <b>hello</b>" in text_of(pages[1], "log"), "message")
    pages[1].screenshot(tmp_path / "demo.png")
    assert (tmp_path / "demo.png").stat().st_size > 0


@pytest.mark.parametrize("name", [{"toString": 1, "valueOf": 1}, "x" * 4_000])
def test_the_demo_takes_any_name(
    start: Callable[..., Server], tab: Callable[..., Page], name: object
) -> None:
    server = start()
    page = tab(f"http://{server.authority}{DEMO}")
    until(lambda: page.evaluate(f"{NAME}.value !== ''"), "script")
    page.evaluate("document.getElementById('entrance').requestSubmit()")
    until(lambda: "joined" in text_of(page, "status"), "joined")
    room = text_of(page, "where")
    url = f"ws://{server.authority}/realtime/webrtc/signaling"
    with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)]) as odd:
        odd.send(json.dumps({"type": "join", "room": room, "metadata": {"name": name}}))
        joined = json.loads(odd.recv(timeout=20))
        until(lambda: "connecting" in text_of(page, "peers"), "row")
        shown = text_of(page, "peers")
        assert (joined["peer"] in shown) == (not isinstance(name, str))
        assert len(shown) < 1_000
        odd.send(json.dumps({"type": "leave"}))
    until(lambda: "has gone (left)" in text_of(page, "log"), "remark")
    assert "connecting" not in text_of(page, "peers")


def test_the_demo_says_what_becomes_of_you(
    start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    server = start("--token-key", KEY)
    page, other = (tab(f"http://{server.authority}{DEMO}") for _ in range(2))

    def submit(page: Page, form: str, field: str, text: str) -> None:
        until(lambda: page.evaluate(f"{NAME}.value !== ''"), "script")
        page.evaluate(
            f"document.getElementById('{field}').value = '{text}';"
            f"document.getElementById('{form}').requestSubmit()"
        )

    def says(page: Page, element: str, text: str) -> None:
        until(lambda: text in text_of(page, element), text)

    def shows(page: Page, element: str) -> bool:
        return bool(page.evaluate(f"document.getElementById('{element}').checkVisibility()"))

    submit(page, "entrance", "token", "")
    says(page, "trouble", "a token is needed")
    assert shows(page, "entrance")
    assert not shows(page, "inside")
    submit(page, "entrance", "token", token("ann", rooms=["demo"]))
    until(lambda: shows(page, "alone"), "joined")
    assert text_of(page, "trouble") == ""
    submit(page, "say", "text", "anyone?")
    says(page, "log", "Nobody has heard that")
    submit(other, "entrance", "token", token("bob", rooms=["demo"]))
    for each in (page, other):
        says(each, "log", "Connected with")
        assert not shows(each, "alone")
    page.evaluate("document.getElementById('leave').click()")
    says(page, "log", "You have left")
    assert "has gone" not in text_of(page, "log")
    assert shows(page, "entrance")
    assert not shows(page, "inside")
    says(other, "log", "has gone (left)")
    assert shows(other, "alone")
