"""Pages with the browser SDK and peers of aiortc, in the same rooms."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from e2e.aiortc_peer import AiortcPeer, aiortc_peer
from e2e.browser import Page
from e2e.rtc_pages import browser, heard, join, opened, origin, start, tab
from e2e.servers import Server

__all__ = ["browser", "origin", "start", "tab"]

pytestmark = pytest.mark.once

CHANNEL = "client.peers[0].channels.get('data')"


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture(params=["page", "program"])
def pair(request, server, tab):
    """A page and a program that are connected; the one of the parameter has joined first."""
    page = tab()
    with ExitStack() as stack:
        if request.param == "page":
            join(page, server, "page")
            page.wait_for_function("client.status === 'joined'")
        program = stack.enter_context(aiortc_peer(server.port, "program"))
        if request.param == "program":
            program.sees("* in the room")
            join(page, server, "page")
        connected(page, program)
        yield page, program


def connected(page: Page, program: AiortcPeer) -> None:
    opened(page, 1)
    program.sees("* connected with page")


def talk(page: Page, program: AiortcPeer, word: str) -> None:
    """Say something both ways, and wait until it is heard."""
    page.evaluate(f"client.seen.heard.length = 0; shout('{word} from the page')")
    program.sees(f"page: {word} from the page")
    program.type(f"{word} from the program")
    heard(page, ("program", f"{word} from the program"))


def test_messages_pass_and_the_page_leaves(pair: tuple[Page, AiortcPeer]) -> None:
    page, program = pair
    talk(page, program, "hello")
    assert page.evaluate("client.seen.connections") == 1
    page.evaluate("client.close()")
    program.sees("* page has left (left)")
    program.leave()


def test_the_program_leaves(pair: tuple[Page, AiortcPeer]) -> None:
    page, program = pair
    program.leave()
    page.wait_for_function("client.seen.left.length === 1 && client.peers.length === 0")
    assert page.evaluate("client.seen.left") == [["program", "left"]]


def test_the_page_restarts_ice(pair: tuple[Page, AiortcPeer]) -> None:
    """aiortc cannot, so a new connection takes the place of the old one."""
    page, program = pair
    page.evaluate(f"window.before = {CHANNEL}; client.peers[0].restart()")
    page.wait_for_function(f"before.readyState === 'closed' && {CHANNEL}")
    connected(page, program)
    talk(page, program, "again")
    assert page.evaluate("[client.seen.failed, client.seen.errors]") == [[], []]


def test_the_page_has_a_gap(pair: tuple[Page, AiortcPeer], request: pytest.FixtureRequest) -> None:
    """The page claims to have what was never said. A program that is asked for an offer begins
    again; a page that makes one knows that the connection is up, and keeps it."""
    page, program = pair
    page.evaluate(f"window.before = {CHANNEL}; miss()")
    page.wait_for_function("client.seen.joined === 2")
    if request.node.callspec.params["pair"] == "page":
        page.wait_for_function(f"before.readyState === 'closed' && {CHANNEL}")
        connected(page, program)
    else:
        page.wait_for_function("client.peers[0].pc.signalingState === 'stable'")
        assert page.evaluate(f"{CHANNEL} === before")
    talk(page, program, "mended")


def test_candidates_come_before_the_offer(server: Server, tab: Callable[..., Page]) -> None:
    """They are all that either side has to connect with."""
    page = tab()
    with aiortc_peer(server.port, "program") as program:
        program.sees("* in the room")
        page.evaluate(
            r"""{
                const bare = ({type, sdp}) => ({
                    type, sdp: sdp.replaceAll(/a=candidate.*\r\n/g, ""),
                });
                const set = RTCPeerConnection.prototype.setRemoteDescription;
                RTCPeerConnection.prototype.setRemoteDescription = function (description) {
                    return set.call(this, bare(description));
                };
                const send = WebSocket.prototype.send;
                let offer = null;
                WebSocket.prototype.send = function (text) {
                    const {seq, ...message} = JSON.parse(text);
                    if (message.type === "offer") {
                        offer = {...message, description: bare(message.description)};
                        return;
                    }
                    send.call(this, JSON.stringify(message));
                    if (message.type !== "end-of-candidates") return;
                    WebSocket.prototype.send = send;
                    send.call(this, JSON.stringify(offer));
                };
            } null"""
        )
        join(page, server, "page")
        connected(page, program)
        talk(page, program, "hello")
        assert page.evaluate("client.seen.connections") == 1  # the first attempt succeeded


def test_the_page_negotiates(pair: tuple[Page, AiortcPeer]) -> None:
    """A change that needs no new addresses is agreed on over the connection there is."""
    page, program = pair
    page.evaluate(
        f"window.before = {CHANNEL};"
        "window.audio = client.peers[0].pc.addTransceiver('audio', {direction: 'recvonly'}); null"
    )
    page.wait_for_function("audio.mid && client.peers[0].pc.signalingState === 'stable'")
    talk(page, program, "still here")
    assert page.evaluate(f"{CHANNEL} === before")


def test_the_server_is_killed_and_comes_back(
    pair: tuple[Page, AiortcPeer], server: Server, start: Callable[..., Server]
) -> None:
    """The channel goes on, without a server and with one that knows neither of the two."""
    page, program = pair
    page.evaluate(f"window.before = {CHANNEL}; null")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    page.wait_for_function("client.status === 'away' || client.status === 'connecting'")
    talk(page, program, "nobody")
    start("--port", str(server.port))
    program.sees("* in the room")
    page.wait_for_function("client.status === 'joined' && client.seen.joined === 2")
    page.wait_for_function("client.peers[0].pc.signalingState === 'stable'")
    opened(page, 1)
    talk(page, program, "back")
    assert page.evaluate(f"{CHANNEL} === before")
    assert page.evaluate("[client.seen.connections, client.seen.left]") == [1, []]
    program.leave()  # under its new id
    page.wait_for_function("client.seen.left.length === 1")
    assert page.evaluate("client.seen.left") == [["program", "left"]]


def test_a_mixed_room(server: Server, tab: Callable[..., Page]) -> None:
    ann, bob = tab(), tab()
    names = ["ann", "bob", "cid", "dora"]
    with ExitStack() as stack:
        join(ann, server, "ann")
        cid = stack.enter_context(aiortc_peer(server.port, "cid"))
        join(bob, server, "bob")
        dora = stack.enter_context(aiortc_peer(server.port, "dora"))
        for page in (ann, bob):
            opened(page, 3)
        cid.sees(*[f"* connected with {name}" for name in names if name != "cid"])
        dora.sees(*[f"* connected with {name}" for name in names if name != "dora"])
        for page in (ann, bob):
            page.evaluate("shout('hi')")
        for program in (cid, dora):
            program.type("hi")
        heard(ann, *[(name, "hi") for name in names if name != "ann"])
        heard(bob, *[(name, "hi") for name in names if name != "bob"])
        cid.sees(*[f"{name}: hi" for name in names if name != "cid"])
        dora.sees(*[f"{name}: hi" for name in names if name != "dora"])
        for page in (ann, bob):
            assert page.evaluate("[client.seen.failed, client.seen.errors]") == [[], []]
