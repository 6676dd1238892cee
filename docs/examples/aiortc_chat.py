"""Chat in a room, from Python to Python and to browsers, over data channels of WebRTC.

    pip install '.[client]' aiortc trio-asyncio  # in a clone of Triocast's repository
    python aiortc_chat.py ws://localhost:8000/realtime/webrtc/signaling demo --name Ann

What is typed goes to everybody; the end of the input leaves the room. aiortc cannot restart ICE or
roll back an offer, so a connection that is to be mended is replaced: the next session of the pair.
"""

from __future__ import annotations

import argparse
import math
import secrets
import sys
from typing import Any, Literal

import trio
import trio_asyncio
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp
from trio_asyncio import aio_as_trio

from triocast.client import SignalingClient, SignalingClosed, SignalingPeer, open_signaling

CONNECT_SECONDS = 15.0
CLOSE_SECONDS = 5.0
MOST_WAITING = 256  # messages for one connection


def say(text: str) -> None:
    """Print a line. What others write cannot command the terminal."""
    print("".join(letter for letter in text if letter.isprintable()), flush=True)


def identity(sdp: str) -> set[str]:
    """Return what of a description stays as it is for as long as the connection lives."""
    return {
        line for line in sdp.splitlines() if line.startswith(("a=fingerprint:", "a=ice-ufrag:"))
    }


class Link:
    """What there is with one other peer: an RTCPeerConnection, and the next where that fails."""

    def __init__(self, client: SignalingClient, peer: SignalingPeer) -> None:
        self.client = client
        self.scope = trio.CancelScope()
        self.tell, self._told = trio.open_memory_channel[dict[str, Any]](MOST_WAITING)
        self._follow(peer)
        self._pc: RTCPeerConnection | None = None
        self._channel: RTCDataChannel | None = None
        self._remote: set[str] = set()  # the identity that was agreed on
        self._offers = 0
        self._early: list[dict[str, Any]] = []
        self._must_mend = False
        self._deadline = trio.current_time() + CONNECT_SECONDS

    def _follow(self, peer: SignalingPeer) -> None:
        self.peer, self.session = peer, peer.session
        metadata = peer.metadata if isinstance(peer.metadata, dict) else {}
        self.name = str(metadata.get("name", peer.id))
        self.instance = metadata.get("instance")

    @property
    def is_up(self) -> bool:
        return self._pc is not None and self._pc.connectionState == "connected"

    def send(self, text: str) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(text)

    async def run(self) -> None:
        """Connect, and stay connected, until `scope` is cancelled."""
        try:
            with self.scope:
                if self.peer.initiator:
                    await self._offer()
                while True:
                    message = None
                    with trio.move_on_at(self._deadline):
                        message = await self._told.receive()
                    if message is None:
                        say(f"* no connection with {self.name}: {self._why()}. Trying again")
                        await self._renew()
                    else:
                        try:
                            await self._take(message)
                        except Exception as error:  # noqa: BLE001  # who knows what a bad SDP does
                            say(f"* a message of {self.name} cannot be used: {error!r}")
                    if self.is_up:
                        self._deadline = math.inf
                    elif self._has_failed and not self._is_reachable:
                        return
                    elif self._has_failed:
                        await self._renew()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + CLOSE_SECONDS, shield=True):
                await self._close()

    # What it is told.

    async def _take(self, message: dict[str, Any]) -> None:
        if message.get("session", self.session) < self.session:
            return  # of a connection that has been replaced
        match message["type"]:
            case "offer":
                await self._answer(message)
            case "answer" if message.get("offerId", self._offers) == self._offers:
                await self._take_answer(message["description"]["sdp"])
            case "candidate" | "end-of-candidates":
                await self._take_candidate(message)
            case "renegotiate" if self.peer.initiator and (
                message.get("reason") == "gap" or not self._is_offering
            ):
                await self._renew()
            case "peer-state" if self._must_mend and message["state"] == "connected":
                await self._mend()
            case "error" if message["code"] in ("queue-full", "expired"):
                self._must_mend = True
                if self.peer.state == "connected":
                    await self._mend()
            case "gap":
                self._follow(message["peer"])
                await self._mend()
            case "found again":
                self._follow(message["peer"])
                self._early.clear()  # its sessions were another server's
                if self.peer.initiator:
                    await self._offer()

    async def _answer(self, message: dict[str, Any]) -> None:
        sdp = message["description"]["sdp"]
        is_known = not self._is_offering and identity(sdp) == self._remote
        if self.peer.initiator and self._is_offering:
            return  # Ours counts: the polite one is never who cannot roll back.
        if self.peer.initiator and not is_known:
            await self._renew()
            return
        if self._pc is None or not is_known or message["session"] > self.session:
            self._pc = await self._replace(message["session"])
        await self._agree(sdp, "offer")
        await aio_as_trio(self._pc.setLocalDescription(await aio_as_trio(self._pc.createAnswer())))
        await self._describe("answer", message.get("offerId"))

    async def _take_answer(self, sdp: str) -> None:
        if not self._is_offering:
            return
        if self._remote and identity(sdp) != self._remote:
            await self._renew()  # It has no such connection any more.
        else:
            await self._agree(sdp, "answer")

    async def _agree(self, sdp: str, kind: str) -> None:
        assert self._pc is not None
        await aio_as_trio(self._pc.setRemoteDescription(RTCSessionDescription(sdp, kind)))
        self._remote = identity(sdp)
        early, self._early = self._early, []
        for message in early:
            await self._take_candidate(message)

    async def _take_candidate(self, message: dict[str, Any]) -> None:
        if self._pc is None or not self._remote or message["session"] > self.session:
            self._early = [*self._early, message][-MOST_WAITING:]
            return
        candidate = None  # which is their end
        if message["type"] == "candidate":
            sent = message["candidate"]
            candidate = candidate_from_sdp(sent["candidate"].removeprefix("candidate:"))
            candidate.sdpMid = sent.get("sdpMid")
            candidate.sdpMLineIndex = sent.get("sdpMLineIndex")
        await aio_as_trio(self._pc.addIceCandidate(candidate))

    # What it does.

    async def _offer(self) -> None:
        """Offer the connection there is, or a new one."""
        if self._pc is None or not self.is_up:
            self._pc = await self._replace(self.session)
            self._use(self._pc.createDataChannel("data"))
        self._offers += 1
        await aio_as_trio(self._pc.setLocalDescription(await aio_as_trio(self._pc.createOffer())))
        await self._describe("offer", self._offers)

    async def _renew(self) -> None:
        """Begin the next session, or ask the initiator for it."""
        self._deadline = trio.current_time() + CONNECT_SECONDS
        if self.peer.initiator:
            self.session += 1
            await self._close()
            await self._offer()
        else:
            await self._say("renegotiate", iceRestart=True)

    async def _mend(self) -> None:
        """Say anew what may be lost."""
        self._must_mend = False
        await self._say("renegotiate", iceRestart=True, reason="gap")
        if self.peer.initiator:
            await self._renew()

    async def _describe(self, kind: Literal["offer", "answer"], offer_id: int | None) -> None:
        assert self._pc is not None
        if self._is_reachable:
            sdp = self._pc.localDescription.sdp
            await self.client.send_webrtc_signal(
                kind, self.peer.id, sdp, session=self.session, offer_id=offer_id
            )

    async def _say(self, kind: str, **fields: Any) -> None:
        if self._is_reachable:
            await self.client.send(kind, self.peer.id, session=self.session, **fields)

    @property
    def _is_reachable(self) -> bool:
        """Whether the server knows the peer; if not, what is connected goes on all the same."""
        return self.peer.id in self.client.peers

    # The connection.

    @property
    def _has_failed(self) -> bool:
        return self._pc is not None and self._pc.connectionState in ("failed", "closed")

    @property
    def _is_offering(self) -> bool:
        return self._pc is not None and self._pc.signalingState == "have-local-offer"

    async def _replace(self, session: int) -> RTCPeerConnection:
        await self._close()
        self.session = session
        self._early = [each for each in self._early if each["session"] >= session]
        self._deadline = trio.current_time() + CONNECT_SECONDS
        known = ("urls", "username", "credential")
        servers = [
            RTCIceServer(**{name: server[name] for name in known if name in server})
            for server in self.client.ice_servers
        ]
        pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        pc.on("datachannel", self._use)
        pc.on("connectionstatechange", self._wake)
        return pc

    def _use(self, channel: RTCDataChannel) -> None:
        def opened() -> None:
            self._channel = channel
            say(f"* connected with {self.name}")

        channel.on("message", lambda text: say(f"{self.name}: {text}"))
        if channel.readyState == "open":
            opened()
        else:
            channel.on("open", opened)

    def _wake(self) -> None:
        try:
            self.tell.send_nowait({"type": "look"})
        except trio.WouldBlock:
            pass  # It looks after each message, and has some.

    async def _close(self) -> None:
        pc, self._pc, self._channel, self._remote = self._pc, None, None, set()
        if pc is not None:
            pc.remove_all_listeners()
            await aio_as_trio(pc.close())

    def _why(self) -> str:
        local = self._pc and self._pc.localDescription
        if not local:
            return "no offer came"
        if "a=candidate:" not in local.sdp:
            return "no address of our own to offer"
        return "no answer came" if self._is_offering else "the addresses do not reach each other"


class Chat:
    """A link to everybody in the room."""

    def __init__(self, client: SignalingClient, nursery: trio.Nursery) -> None:
        self._client = client
        self._nursery = nursery
        self._links: dict[str, Link] = {}
        self._orphans: list[Link] = []  # connected with somebody whom the server does not know

    def send(self, text: str) -> None:
        for link in [*self._links.values(), *self._orphans]:
            link.send(text)

    async def run(self) -> None:
        async for message in self._client:
            match message["type"]:
                case "joined":
                    await self._join(message["resume"])
                case "peer-joined":
                    await self._meet(self._client.peers[message["peer"]])
                case "peer-left" if message["peer"] in self._links:
                    link = self._links.pop(message["peer"])
                    link.scope.cancel()
                    say(f"* {link.name} has left ({message['reason']})")
                case kind:
                    who = message.get("from") or message.get("to") or message.get("peer")
                    if who in self._links:
                        await self._links[who].tell.send(message)
                    if kind == "error" and message["code"] != "peer-not-found":
                        say(f"* the server says: {message['message']} ({message['code']})")

    async def _join(self, resume: dict[str, Any]) -> None:
        if resume["resumed"] and not resume["gap"]:
            return  # Nothing is lost, and what was missed comes next.
        say("* in the room")
        missing = [id for id in self._links if not resume["gap"] or id not in self._client.peers]
        for link in map(self._links.pop, missing):
            if link.is_up:
                self._orphans.append(link)
            else:
                link.scope.cancel()
        for peer in self._client.peers.values():
            if peer.id in self._links:
                await self._links[peer.id].tell.send({"type": "gap", "peer": peer})
            else:
                await self._meet(peer)

    async def _meet(self, peer: SignalingPeer) -> None:
        """Find the connection with somebody who was here before, or begin one."""
        link = Link(self._client, peer)
        self._orphans = [orphan for orphan in self._orphans if orphan.is_up]
        for orphan in self._orphans:
            if link.instance is not None and orphan.instance == link.instance:
                self._orphans.remove(orphan)
                self._links[peer.id] = orphan
                await orphan.tell.send({"type": "found again", "peer": peer})
                return
        self._links[peer.id] = link
        self._nursery.start_soon(link.run)


async def main(url: str, room: str, name: str, token: str | None) -> None:
    # By the instance others find us again after the server has forgotten us all.
    metadata = {"name": name, "instance": secrets.token_hex(12)}
    say(f"* on the way to {room} at {url}")  # and again and again, where nobody answers
    async with (
        trio_asyncio.open_loop(),
        open_signaling(url, room, token=token, metadata=metadata) as client,
        trio.open_nursery() as nursery,
    ):
        chat = Chat(client, nursery)
        nursery.start_soon(chat.run)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            chat.send(line.rstrip("\n"))
        await client.leave()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("room")
    parser.add_argument("--name", required=True)
    parser.add_argument("--token")
    try:
        trio.run(main, *vars(parser.parse_args()).values())
    except* SignalingClosed as ended:
        sys.exit(f"The server does not want us: {ended.exceptions}")
