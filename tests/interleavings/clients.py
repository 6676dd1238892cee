"""A client's connection on the server, and its own end of the wire."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs
import trio
from hypothesis import note
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.headers import parse_extension
from websockets.protocol import OPEN, Protocol, Side

from triocast.auth import EVERYTHING as EVERY_RIGHT
from triocast.auth import Grant
from triocast.connection import Connection
from triocast.errors import EndReason
from triocast.events import Publication, presence_channel
from triocast.hub import Hub
from triocast.subscriptions import Filter
from triocast.transports.deflate import make_deflate
from triocast.transports.native import NativeConnection
from triocast.transports.sse import SSEConnection, StreamOptions
from triocast.wire import cursor, sse
from triocast.wire.start import After

from . import network, reading
from .expectation import Expectation
from .life import End, Life
from .network import Wire
from .steps import NAMESPACES, Connect
from .table import Entry, Listing, Table

DEFLATE = make_deflate(NAMESPACES)


FAILED_CODES = ("unavailable", "shutting_down")
"""What a node that fails tells those who ask it for something."""

TELLING = (reading.Change, reading.Event, reading.Gap, reading.Heartbeat)
"""Items that can carry a cursor."""


def agreed() -> PerMessageDeflate:
    assert DEFLATE is not None
    ((_, parameters),) = parse_extension(DEFLATE.negotiate(["permessage-deflate"]) or "")
    return ClientPerMessageDeflateFactory().process_response_params(parameters, [])


class Client:
    """One client's connection on the server, and its own end of the wire."""

    def __init__(
        self, life: Life, id: str, spec: Connect, start: After | None, listing: Listing | None
    ) -> None:
        self.id = id
        self.life = life
        self.scope = trio.CancelScope()
        self.start = start
        self._listings = [] if listing is None else [listing]
        """What it has read of documents or members, to be kept up to date by events."""
        self.way = spec.way
        self.wire = Wire(spec.plan)
        self.reason: EndReason | None = None
        self.survived = False
        self._leaving = self._was_cut_off = False
        self._arrived_at_end = (0, 0)
        self._asks = Protocol(Side.CLIENT, state=OPEN)
        if spec.way.transport == "sse":
            self.connection: Connection = self._open_stream(life, spec)
        else:
            self.connection = self._open_websocket(life, spec)

    def _open_stream(self, life: Life, spec: Connect) -> SSEConnection:
        options = StreamOptions(
            tuple(spec.names), spec.filter, heartbeat_events=spec.heartbeat_events, start=self.start
        )
        grant = Grant(user=spec.user, subscribe=("*",))
        stream = SSEConnection(life.connections, options, id=self.id, grant=grant, address=None)
        stream.use_framing(chunked=self.way.chunked)
        if not self.way.portable:
            stream.preface = self.head
        return stream

    def _open_websocket(self, life: Life, spec: Connect) -> NativeConnection:
        websocket = NativeConnection(
            life.connections,
            life.publisher,
            id=self.id,
            grant=attrs.evolve(EVERY_RIGHT, user=spec.user),
            address=None,
            most_channels=100,
            max_message_bytes=10_000,
            max_json_depth=10,
            heartbeat_events=spec.heartbeat_events,
            channels=spec.names,
            filter=spec.filter,
            start=self.start,
        )
        if not self.way.portable:
            websocket.use_frames(b"", deflate=DEFLATE if self.way.deflate else None)
            websocket.preface = self.head
            if self.way.deflate:
                self._asks.extensions = [agreed()]
        return websocket

    @property
    def head(self) -> bytes:
        if self.way.transport == "websocket":
            return reading.UPGRADE_HEAD
        return reading.CHUNKED_HEAD if self.way.chunked else reading.CLOSING_HEAD

    async def run(self) -> None:
        if self.way.direct:
            link = network.DirectLink(self.wire)
        elif not self.way.portable:
            link = network.stream_link(self.wire)
        elif self.way.transport == "sse":
            link = network.response_link(self.wire)
        else:
            link = network.websocket_link(self.wire)
        with self.scope:
            await self.connection.run(link)
        self.reason = self.connection.reason
        self._arrived_at_end = len(self.wire.arrived), len(self.wire.messages)

    # What it does.

    @property
    def is_there(self) -> bool:
        """Whether it may still ask for something."""
        return self.connection.reason is None and not self._leaving

    @property
    def _may_be_slow(self) -> bool:
        # Where only the send task writes, as it does for a backlog, a burst can be over the bound
        # before its turn.
        return self.wire.hindered or not self.way.direct or self.start is not None

    @property
    def is_catching_up(self) -> bool:
        return self.connection._held is not None

    def cut_off(self) -> None:
        """Its server is killed: what arrived by now is all that it gets."""
        self._was_cut_off = True
        self.wire.cut()

    def leave(self) -> None:
        self._leaving = True
        self.wire.to_server.close()

    def say(self, message: dict[str, object]) -> None:
        text = json.dumps(message)
        if self.way.portable:
            self.wire.to_server.send_nowait(text)
        else:
            self._asks.send_text(text.encode())
            self._flush()

    def pong(self) -> None:
        if self.way.transport == "websocket" and not self.way.portable and self.is_there:
            self._asks.send_pong(b"")
            self._flush()

    def _flush(self) -> None:
        self.wire.to_server.send_nowait(b"".join(self._asks.data_to_send()))

    def subscribe(self, hub: Hub, names: Sequence[str], filter: Filter) -> None:
        if self.way.transport == "websocket":
            self.say(
                {
                    "type": "subscribe",
                    "id": "change",
                    "channels": names,
                    "types": sorted(filter.types),
                    "tags": sorted(filter.tags),
                }
            )
        elif not self.is_catching_up:
            hub.subscribe(self.connection, names, filter)
            self._mark_change()

    def ask(self, channel: str) -> None:
        if self.way.transport == "websocket":
            self.say({"type": "presence", "id": "members", "channel": channel})

    def unsubscribe(self, hub: Hub, names: Sequence[str]) -> None:
        if self.way.transport == "websocket":
            self.say({"type": "unsubscribe", "id": "change", "channels": names})
        elif not self.is_catching_up:
            hub.unsubscribe(self.connection, names)
            self._mark_change()

    def _mark_change(self) -> None:
        block = sse.block(event="changed", data=b"null")
        self.connection.push(sse.chunk(block) if self.way.chunked else block)

    # What it has got.

    def read(self, accepted: Sequence[Publication]) -> list[reading.Item]:
        arrived = bytes(self.wire.arrived)
        if self.way.transport == "sse":
            head = self.head
            return reading.read_stream(head + arrived if self.way.portable else arrived, head=head)
        if self.way.portable:
            return reading.read_messages(self.wire.messages)
        sent = (self.connection.encoder.encode(publication) for publication in accepted)
        return reading.read_frames(arrived, [agreed()] if self.way.deflate else [], sent)

    def cursor(self, accepted: Sequence[Publication]) -> str | None:
        """What the next one in its place comes back with."""
        ids = [item.id for item in self.read(accepted) if isinstance(item, TELLING) and item.id]
        if ids:
            return ids[-1]
        return None if self.start is None else cursor.encode(self.start.position)

    def check(
        self,
        accepted: Sequence[Publication],
        kept: set[Publication],
        table: Table,
        *,
        store_failed: bool,
        all_was_told: bool,
    ) -> None:
        """Compare what arrived with what was accepted.

        ``all_was_told`` says whether each change in the table has its event.
        """
        items = self.read(accepted)
        note(f"{self.id} {self.way} {self.reason} {items}")
        if not self._was_cut_off:
            self._check_end(items)
        start = None if self.start is None else self.start.position
        expected = Expectation(
            self.id, self.life.epoch, accepted, kept, start=start, lossy=self._may_be_slow
        )
        pending = deque(self.life.hub.changes.get(self.id, ()))
        early = 0
        for item in items:
            if isinstance(item, reading.Event | reading.Gap | reading.Heartbeat):
                # What comes after a change may come before the reply to it.
                while pending and pending[0].live < expected.reached(item):
                    expected.change(pending.popleft())
                    early += 1
            match item:
                case reading.Change(id):
                    if early:
                        early -= 1
                    else:
                        expected.change(pending.popleft())
                    if expected.changes == 1:
                        expected.change(pending.popleft())  # its channels, behind what is for all
                    if id is not None:
                        expected.come_back_with(id)
                case reading.Event():
                    expected.take(item)
                case reading.Gap():
                    expected.skip(item)
                case reading.Heartbeat() if item.id is not None:
                    expected.come_back_with(item.id)
                case reading.Members():
                    self._listings.append(read_members(item.content))
                case reading.Failure(code):
                    assert (store_failed and code == "store_failed") or (
                        self.life.ended is End.FAILED and code in FAILED_CODES
                    ), code
        if not self.survived:
            while pending:  # It took effect, though the reply did not come any more.
                expected.change(pending.popleft())
        if self.survived:
            assert not pending
            expected.end(math.inf)
            assert not expected.lacks_gap
            assert self.connection.events == len(expected.got)
        elif (
            self.reason in (EndReason.SHUTDOWN, EndReason.SERVER_ERROR)
            and self.wire.finished
            and not self._was_cut_off
        ):
            for change in pending:  # of which it was told nothing any more
                expected.change(change)
            expected.end(self.connection.seq)  # what was given to it goes out before the farewell
        else:
            expected.end(expected.last)
        events = [item for item in items if isinstance(item, reading.Event)]
        for listing in self._listings:
            if all_was_told and expected.has_all(listing.channel, after=listing.position.seq):
                assert listing.follow(events) == table.channel(listing.channel), listing

    def _check_end(self, items: Sequence[reading.Item]) -> None:
        match self.reason:
            case EndReason.CLIENT_CLOSED:
                assert self._leaving
            case EndReason.PEER_LOST:
                assert self.wire.broken
            case EndReason.SLOW_CONSUMER:
                assert self._may_be_slow
            case EndReason.SERVER_ERROR:
                assert self.life.ended is End.FAILED
            case _:
                assert self.reason is EndReason.SHUTDOWN
        assert self._arrived_at_end == (len(self.wire.arrived), len(self.wire.messages))
        assert self.wire.late_writes == 0
        if self.wire.finished and self.reason is not EndReason.CLIENT_CLOSED:
            assert items[-1] == reading.Farewell()


def read_members(answer: dict[str, Any]) -> Listing:
    """Return who is on a channel as a client reads it."""
    entries = {
        member["key"]: Entry(member["version"], {"user": member["user"], "since": member["since"]})
        for member in answer["members"]
    }
    assert not answer["more"]
    (standing,) = cursor.decode(answer["id"])
    channel = presence_channel(answer["channel"])
    return Listing(channel, entries, answer["version"], standing.position)
