"""A program: peers of aiortc in one room, each of which must hear each other one.

Run with the address of signaling and how many there are. A process of its own, because trio-asyncio
replaces asyncio's event loops for all of a process, and Playwright needs the usual ones.
"""

from __future__ import annotations

import sys
from typing import Any

import aioice.ice
import trio
import trio_asyncio
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from trio_asyncio import aio_as_trio

from triocast.client import SignalingClient, open_signaling

PATIENCE = 60


class Caller:
    """A peer with a connection to each other peer, and a data channel on each."""

    def __init__(self, client: SignalingClient, name: str) -> None:
        self.client = client
        self.name = name
        self.heard: dict[str, str] = {}
        self.news = trio.Event()
        self._links: dict[str, RTCPeerConnection] = {}

    async def run(self) -> None:
        async for message in self.client:
            match message["type"]:
                case "joined":
                    for peer in list(self.client.peers.values()):
                        if peer.initiator:
                            await self._offer(peer.id)
                case "offer":
                    await self._answer(message["from"], message["description"]["sdp"])
                case "answer":
                    answer = RTCSessionDescription(message["description"]["sdp"], "answer")
                    await aio_as_trio(self._links[message["from"]].setRemoteDescription(answer))

    async def close(self) -> None:
        for link in self._links.values():
            await aio_as_trio(link.close())

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(PATIENCE):
            while len(self.heard) < count:
                self.news = trio.Event()
                await self.news.wait()

    def _link(self, peer: str) -> RTCPeerConnection:
        link = self._links[peer] = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        link.on("datachannel", lambda channel: self._use(peer, channel))
        return link

    def _use(self, peer: str, channel: Any) -> None:
        def hear(text: str) -> None:
            self.heard[peer] = text
            self.news.set()

        def greet() -> None:
            channel.send(f"hello from {self.name}")

        channel.on("message", hear)
        if channel.readyState == "open":
            greet()
        else:
            channel.on("open", greet)

    async def _offer(self, peer: str) -> None:
        link = self._link(peer)
        self._use(peer, link.createDataChannel("chat"))
        await aio_as_trio(link.setLocalDescription(await aio_as_trio(link.createOffer())))
        await self.client.send_webrtc_signal("offer", peer, link.localDescription.sdp)

    async def _answer(self, peer: str, sdp: str) -> None:
        link = self._link(peer)
        await aio_as_trio(link.setRemoteDescription(RTCSessionDescription(sdp, "offer")))
        await aio_as_trio(link.setLocalDescription(await aio_as_trio(link.createAnswer())))
        await self.client.send_webrtc_signal("answer", peer, link.localDescription.sdp)


async def connect_all(url: str, count: int) -> None:
    """Have all join at once; return when each has heard each other over a channel of its own."""
    callers: list[Caller] = []

    async def call(number: int, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with open_signaling(url, "room") as client:
            caller = Caller(client, f"{number}")
            callers.append(caller)
            task_status.started()
            await caller.run()

    async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
        for number in range(count):
            await nursery.start(call, number)
        for caller in callers:
            await caller.wait_for(count - 1)
            print(caller.name, "heard", *sorted(text[-1] for text in caller.heard.values()))
        for caller in callers:
            await caller.close()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    # 127.0.0.1 alone, which aioice passes over.
    aioice.ice.get_host_addresses = lambda **_: ["127.0.0.1"]
    trio.run(connect_all, sys.argv[1], int(sys.argv[2]))
