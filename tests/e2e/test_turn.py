"""TURN: pages that may use relays only, through a real coturn with the server's credentials."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.browser import Browser, Browsers, Page, site
from e2e.coturn import Coturn, coturn
from e2e.rtc_pages import LOOPBACK, PAGE, heard, join, opened, tab
from e2e.servers import Certificate, Server
from triocast.signaling.ice import turn_credentials

__all__ = ["tab"]

pytestmark = pytest.mark.once

SECRET = "the secret of coturn and of these tests"
FORMER_SECRET = "the secret before it was changed"
RELAY_ONLY = {"rtcConfiguration": {"iceTransportPolicy": "relay"}}
# How the page reaches the relay; a path's `protocol` is how the relay reaches the other side.
TRANSPORTS = """
    client.peers[0].pc.getStats().then((stats) => [...stats.values()]
        .filter(({type, candidateType}) => type === "local-candidate" && candidateType === "relay")
        .map(({relayProtocol}) => relayProtocol))
"""
# What coturn says to who asks for relays: how each that it gave is reached (udp, tcp, tls), or 401.
ALLOCATE = """
    window.ask = (iceServers) => new Promise((resolve) => {
        const pc = new RTCPeerConnection({iceServers, iceTransportPolicy: "relay"});
        const answers = new Set();
        pc.onicecandidateerror = ({errorCode}) => {
            if (errorCode !== 701) answers.add(`${errorCode}`); // that is for a network's IPv6
        };
        pc.onicecandidate = async ({candidate}) => {
            if (candidate) return;
            for (const {type, relayProtocol} of (await pc.getStats()).values()) {
                if (type === "local-candidate") answers.add(relayProtocol);
            }
            pc.close();
            resolve([...answers].join());
        };
        pc.createDataChannel("");
        pc.setLocalDescription();
    });
    null
"""
ERRORS = """
    client.told = [];
    client.addEventListener("failed", ({detail: {reason, errors}}) => {
        client.told.push([reason, errors]);
    });
    null
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with site(PAGE) as running:
        yield running


@pytest.fixture
def browser(browsers: Browsers) -> Browser:
    return browsers.get(*LOOPBACK, "--ignore-certificate-errors")


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Coturn]:
    folder = tmp_path_factory.mktemp("coturn")
    with coturn(folder, certificate, FORMER_SECRET, SECRET) as running:
        yield running


@pytest.fixture
def start(serve: Callable[..., Server], origin: str) -> Callable[..., Server]:
    """Start a server that tells peers of these TURN servers: `start(url, secret)`."""

    def start_with(urls: str, secret: str = SECRET) -> Server:
        settings = {"turn_servers": urls, "turn_secret": secret, "allowed_origins": origin}
        return serve(
            environment={f"TRIOCAST_{name.upper()}": value for name, value in settings.items()}
        )

    return start_with


def enter(page: Page, server: Server, name: str, **options: Any) -> None:
    """Join as a client that uses relays only, and note its failures."""
    join(page, server, name, **RELAY_ONLY, **options)
    page.evaluate(ERRORS)


def path(page: Page) -> dict[str, str]:
    page.evaluate("(async () => (window.path = await client.peers[0].path()))()")
    return page.evaluate("path")


def ice_server(relay: Coturn, secret: str, *, expires_at: int) -> dict[str, str]:
    username, credential = turn_credentials(secret, "somebody", expires_at=expires_at)
    return {"urls": relay.url(), "username": username, "credential": credential}


def failure(page: Page) -> str:
    """Return the error of the page's only failure: coturn's refusal, which each network gets."""
    page.wait_for_function("client.told.length === 1")
    ((reason, errors),) = page.evaluate("client.told")
    assert reason == "no usable candidates"
    refusals = [error for error in errors if not error.startswith("701 ")]  # a network's IPv6
    assert {error.partition(" ")[0] for error in refusals} == {"401"}
    return str(refusals[0])


def talk(ann: Page, bob: Page, text: str) -> None:
    for page in (ann, bob):
        page.evaluate(f"shout({json.dumps(text)})")
    heard(ann, ("bob", text))
    heard(bob, ("ann", text))


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_pages_that_use_relays_only(
    relay: Coturn, start: Callable[..., Server], tab: Callable[..., Page], transport: str
) -> None:
    server = start(relay.url(transport))
    ann, bob = tab(), tab()
    enter(ann, server, "ann")
    enter(bob, server, "bob")
    for page in (ann, bob):
        opened(page, 1)
        assert path(page) == {"local": "relay", "remote": "relay", "protocol": "udp"}
        assert set(page.evaluate(TRANSPORTS)) == {transport}
    talk(ann, bob, "hello")
    assert SECRET not in server.stderr.read_text()


def test_a_wrong_secret_is_told(
    relay: Coturn, start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    server = start(relay.url(), "not what coturn has")
    ann, bob = tab(), tab()
    enter(ann, server, "ann", connectTimeout=5000)
    enter(bob, server, "bob", connectTimeout=5000)
    for page in (ann, bob):
        assert relay.url() in failure(page)
        assert page.evaluate("client.peers[0].state") == "failed"
    assert "not what coturn has" not in server.stderr.read_text()


def test_expired_credentials_are_told_and_new_ones_work(
    relay: Coturn, start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    """A page that slept has credentials of yesterday; the server's next ones mend it."""
    server = start(relay.url())
    ann, bob = tab(), tab()
    expired = ice_server(relay, SECRET, expires_at=int(time.time()) - 1)
    ann.evaluate(OLD_CREDENTIALS % json.dumps(expired))
    enter(ann, server, "ann", connectTimeout=5000)
    enter(bob, server, "bob", connectTimeout=5000)
    assert relay.url() in failure(ann)
    bob.wait_for_function("client.told.length === 1")
    assert bob.evaluate("client.told")[0][0] == "no usable candidates of the peer"
    used = "client.peers[0].pc.getConfiguration().iceServers[0].username"
    assert ann.evaluate(used) == expired["username"]
    ann.evaluate("refresh(); null")
    ann.wait_for_function(f"{used} !== {json.dumps(expired['username'])}")
    ann.evaluate("client.peers[0].restart()")
    for page in (ann, bob):
        opened(page, 1)
        assert path(page) == {"local": "relay", "remote": "relay", "protocol": "udp"}
    talk(ann, bob, "back")


# The server's first credentials are replaced by others, and `refresh` is what the SDK does when
# four fifths of the hour for which they hold are over.
OLD_CREDENTIALS = """{
    const old = %s;
    const Socket = window.WebSocket;
    window.WebSocket = class extends Socket {
        set onmessage(listener) {
            super.onmessage = listener && ((event) => {
                const message = JSON.parse(event.data);
                if (message.type === "joined") Object.assign(message.iceServers[0], old);
                listener({data: JSON.stringify(message)});
            });
        }
    };
    const later = window.setTimeout;
    window.setTimeout = (work, ms) => {
        if (ms !== 2_880_000) return later(work, ms);
        window.refresh = work;
        return 0;
    };
} null"""


def test_several_addresses(
    relay: Coturn, start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    """One set of credentials for all; who has a dead one among them uses the others."""
    urls = ["turn:127.0.0.1:9?transport=tcp", *map(relay.url, ("udp", "tcp", "tls"))]
    server = start(",".join(urls))
    ann, bob = tab(), tab()
    enter(ann, server, "ann")
    enter(bob, server, "bob")
    for page in (ann, bob):
        opened(page, 1)
        (entry,) = page.evaluate("client.peers[0].pc.getConfiguration().iceServers")
        assert entry["urls"] == urls
    talk(ann, bob, "hello")
    ann.evaluate(ALLOCATE)
    answer = ann.evaluate(f"ask([{json.dumps(entry)}])")
    assert sorted(answer.split(",")) == ["tcp", "tls", "udp"]


def test_a_secret_can_be_changed(relay: Coturn, tab: Callable[..., Page]) -> None:
    """Coturn takes the old one as long as it has both."""
    page = tab()
    page.evaluate(ALLOCATE)
    expires_at = int(time.time()) + 600
    for secret, answer in (FORMER_SECRET, "udp"), (SECRET, "udp"), ("another", "401"):
        entry = ice_server(relay, secret, expires_at=expires_at)
        assert page.evaluate(f"ask([{json.dumps(entry)}])") == answer


def test_a_connection_outlives_its_credentials(
    relay: Coturn, start: Callable[..., Server], tab: Callable[..., Page]
) -> None:
    server = start(relay.url())
    ann, bob = tab(), tab()
    enter(ann, server, "ann")
    bob.evaluate(f"import('http://{server.authority}/realtime/sdk/signaling.js').then(() => null)")
    bob.evaluate(ALLOCATE)
    entry = ice_server(relay, SECRET, expires_at=int(time.time()) + 8)
    enter(bob, server, "bob", iceServers=[entry])
    for page in (ann, bob):
        opened(page, 1)
    # Who asks in the moment of the expiry may wait for long for the end of its attempts.
    bob.evaluate(
        f"{{ const servers = [{json.dumps(entry)}];"
        " const pause = () => new Promise((resolve) => setTimeout(resolve, 3_000));"
        " const asked = () => Promise.race([ask(servers), pause()]);"
        " (async () => { while (await asked() !== '401'); window.over = true; })(); } null"
    )
    bob.wait_for_function("window.over")
    talk(ann, bob, "still here")
    assert bob.evaluate("client.seen.connections") == 1
