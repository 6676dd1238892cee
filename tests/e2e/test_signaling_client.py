"""Triocast's own signaling client against real servers: signals pass, and lines that break come
back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from e2e.rest import post
from e2e.servers import Server
from e2e.tokens import KEY, token
from triocast.client import SignalingClient, SignalingClosed, open_signaling

PATIENCE = 20
SDP = "v=0\r\n"
PATH = "/realtime/webrtc/signaling"


class Line:
    """A TCP proxy whose connections can be cut."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.held = trio.Event()
        self.held.set()
        self._mute: set[trio.CancelScope] = set()
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    def silence(self) -> None:
        """Carry nothing more for those who are connected, and leave their connections open."""
        self._mute = set(self._scopes)

    async def serve(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._carry, 0)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    async def _carry(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            await self.held.wait()
            async with (
                await trio.open_tcp_stream("127.0.0.1", self.target) as far,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._pump, near, far, scope)
                nursery.start_soon(self._pump, far, near, scope)
        self._scopes.discard(scope)

    async def _pump(self, source: Any, target: Any, scope: trio.CancelScope) -> None:
        try:
            async for data in source:
                if scope not in self._mute:
                    await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if scope in self._mute:
            await trio.sleep_forever()
        scope.cancel()


def address(port: int) -> str:
    return f"ws://127.0.0.1:{port}{PATH}"


@asynccontextmanager
async def joined(port: int, room: str = "a", **options: Any) -> AsyncIterator[SignalingClient]:
    async with open_signaling(address(port), room, **options) as client:
        await until(client, "joined")
        yield client


async def until(client: SignalingClient, kind: str) -> dict[str, Any]:
    """Return the next message of a kind."""
    with trio.fail_after(PATIENCE):
        async for message in client:
            if message["type"] == kind:
                return message
    raise AssertionError(f"it ended before {kind}")


async def test_signals_pass(serve: Callable[..., Server]) -> None:
    server = serve()
    async with joined(server.port, metadata={"name": "Ann"}) as ann:
        async with joined(server.port) as bob:
            assert bob.peers[ann.peer or ""].metadata == {"name": "Ann"}
            assert bob.peers[ann.peer or ""].initiator
            came = await until(ann, "peer-joined")
            assert came["peer"] == bob.peer
            await bob.send_webrtc_signal("offer", ann.peer or "", SDP)
            offer = await until(ann, "offer")
            assert (offer["from"], offer["description"]["sdp"]) == (bob.peer, SDP)
            await ann.send_webrtc_signal("answer", bob.peer or "", SDP)
            await ann.send_candidate(bob.peer or "", {"candidate": "candidate:1", "sdpMid": "0"})
            await ann.send_candidate(bob.peer or "", None)
            for kind in ("answer", "candidate", "end-of-candidates"):
                assert (await until(bob, kind))["from"] == ann.peer
            with pytest.raises(KeyError):
                await bob.send_candidate("nobody", None)
        left = await until(ann, "peer-left")
        assert left["reason"] == "left"
        assert ann.peers == {}


async def test_a_line_that_breaks_loses_nothing(
    serve: Callable[..., Server], nursery: trio.Nursery
) -> None:
    server = serve()
    line = Line(server.port)
    await nursery.start(line.serve)
    async with joined(server.port) as ann, joined(line.port) as bob:
        await until(ann, "peer-joined")
        me, other = bob.peer or "", ann.peer or ""
        for number in range(5):
            line.held = trio.Event()
            line.cut()
            # Said while the line is down, in both directions.
            await ann.send("renegotiate", me, reason=f"a{number}")
            await bob.send("renegotiate", other, reason=f"b{number}")
            line.held.set()
            assert (await until(bob, "joined"))["resume"]["resumed"] is True
            assert (await until(bob, "renegotiate"))["reason"] == f"a{number}"
            assert (await until(ann, "renegotiate"))["reason"] == f"b{number}"
        assert bob.peer == me
        assert set(ann.peers) == {me}
    nursery.cancel_scope.cancel()


async def test_a_line_that_falls_silent_is_given_up(
    serve: Callable[..., Server], nursery: trio.Nursery
) -> None:
    """As after a machine lost its power: nobody closes the connection."""
    server = serve("--heartbeat-seconds", "1")
    line = Line(server.port)
    await nursery.start(line.serve)
    async with joined(line.port) as ann:
        line.silence()
        assert (await until(ann, "joined"))["resume"]["resumed"] is True
    nursery.cancel_scope.cancel()


async def test_sessions_and_numbers_of_offers(serve: Callable[..., Server]) -> None:
    """What is sent belongs to the session of the message that was taken last."""
    server = serve()
    async with joined(server.port) as ann, joined(server.port) as bob:
        await until(ann, "peer-joined")
        me, other = bob.peer or "", ann.peer or ""
        first = bob.peers[other].session
        await bob.send_webrtc_signal("offer", other, SDP, offer_id=1)
        await bob.send_webrtc_signal("offer", other, SDP, session=first + 1, offer_id=2)
        await bob.send_candidate(other, None)
        await bob.send_webrtc_signal("answer", other, SDP, session=first, offer_id=9)
        await until(bob, "error")  # By then the server has all that was sent before.
        offer = await until(ann, "offer")
        assert (offer["session"], offer["offerId"]) == (first, 1)
        assert ann.peers[me].session == first  # though the next offer may be here
        await ann.send_webrtc_signal("answer", me, SDP, offer_id=1)
        offer = await until(ann, "offer")
        assert (offer["session"], offer["offerId"]) == (first + 1, 2)
        assert (await until(ann, "end-of-candidates"))["session"] == first + 1
        await ann.send_webrtc_signal("answer", me, SDP, offer_id=2)
        # The first answer was for a session that had been replaced.
        assert (await until(ann, "error"))["code"] == "stale-session"
        answer = await until(bob, "answer")
        assert (answer["session"], answer["offerId"]) == (first + 1, 2)


async def test_credentials_are_refreshed(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triocast.client.signaling.ICE_REFRESH_AFTER", 0.02)
    turn = ("--turn-servers", "turn:127.0.0.1:9", "--turn-secret", "a secret of these tests")
    server = serve(*turn, "--turn-seconds", "60")
    async with joined(server.port) as ann:
        first = ann.ice_servers
        assert first[0]["credential"]
        while ann.ice_servers[0]["username"] == first[0]["username"]:  # it has a clock of seconds
            await until(ann, "ice-servers")


async def test_after_a_restart_of_the_server_it_joins_anew(
    serve: Callable[..., Server], nursery: trio.Nursery
) -> None:
    first = serve()
    line = Line(first.port)
    await nursery.start(line.serve)
    async with joined(line.port) as ann:
        before = ann.peer
        first.process.kill()
        first.process.wait()
        line.target = serve().port
        told = await until(ann, "joined")
        assert told["resume"]["resumed"] is False
        assert ann.peer != before
        async with joined(line.port) as bob:
            assert set(bob.peers) == {ann.peer}
    nursery.cancel_scope.cancel()


async def test_tokens_are_renewed(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    made = []

    async def next_token() -> str:
        made.append(token("ann", seconds=3, rooms=["a"]))
        return made[-1]

    async with (
        joined(server.port, token=token("bob", rooms=["a"])) as bob,
        joined(server.port, token=next_token) as ann,
    ):
        await until(bob, "peer-joined")
        before = ann.peer
        for _ in range(2):
            again = await until(ann, "joined")
            assert (again["resume"]["resumed"], ann.peer) == (True, before)
        assert len(made) == 3
        await ann.send_webrtc_signal("offer", bob.peer or "", SDP)
        with trio.fail_after(PATIENCE):
            assert (await anext(bob))["type"] == "offer"  # and nothing before it


async def test_a_token_that_ended_is_replaced(serve: Callable[..., Server]) -> None:
    """Too late for a renewal, as after a machine has slept."""
    server = serve("--token-key", KEY)
    lifetimes = iter((2, 600))

    async def next_token() -> str:
        return token("ann", seconds=next(lifetimes), rooms=["a"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triocast.client.signaling.RENEW_AFTER", 1_000)
        async with joined(server.port, token=next_token) as ann:
            before = ann.peer
            again = await until(ann, "joined")
            assert not again["resume"]["resumed"]
            assert ann.peer != before


async def why_it_ended(port: int, then: Callable[[SignalingClient], Any], **options: Any) -> int:
    """Join, do something with the client, and return the code with which the server ends it."""
    try:
        async with open_signaling(address(port), "a", **options) as client:
            await then(client)
            await trio.sleep_forever()
    except* SignalingClosed as ended:
        (error,) = ended.exceptions
        assert isinstance(error, SignalingClosed)
        code = error.code
    return code


@pytest.mark.parametrize(("action", "code"), [("close", 4503), ("kick", 4502)])
async def test_it_ends_where_the_server_does_not_want_it(
    serve: Callable[..., Server], action: str, code: int
) -> None:
    server = serve()

    async def moderate(client: SignalingClient) -> None:
        await until(client, "joined")
        order = {"action": action, "room": "a"}
        if action == "kick":
            order["peer"] = client.peer or ""
        answer = await trio.to_thread.run_sync(post, server, "/realtime/webrtc/rooms", order)
        assert answer.status == 200

    with trio.fail_after(PATIENCE):
        assert await why_it_ended(server.port, moderate) == code


async def test_tokens(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    allowed = token("ann", rooms=["a"])
    async with joined(server.port, token=allowed):
        pass
    async with joined(server.port, headers={"Authorization": f"Bearer {allowed}"}):
        pass

    async def wait(client: SignalingClient) -> None:
        await trio.lowlevel.checkpoint()

    async def forbidden(client: SignalingClient) -> None:
        assert (await until(client, "error"))["code"] == "forbidden"

    with trio.fail_after(PATIENCE):
        elsewhere = {"token": token("ann", rooms=["b"])}
        assert await why_it_ended(server.port, forbidden, **elsewhere) == 1008
        headers = {"Authorization": "Bearer x"}
        assert await why_it_ended(server.port, wait, headers=headers) == 1008
