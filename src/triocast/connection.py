"""One client's life on the server.

A connection is a nursery that owns three tasks: *receive* (the body of the nursery), *heartbeat*
and *send*. The hub gives it frames by `Connection.deliver`: over a taken-over socket with nothing
queued they are written to the socket right there; otherwise, and for whatever the kernel does not
take, they go to the `Outbox`, which the send task empties. Both are made when they are needed
first, which for most clients is never. The outbox is bounded in bytes, and at the bound does what
an event's namespace has as its policy.

A connection ends for exactly one reason, given by the first call of `Connection.end`. In that same
step it leaves the hub; its socket is closed after that, so that nothing can be written to a
descriptor that meanwhile is somebody else's.

A client that gets a backlog (see `resume`) *holds* from the moment it subscribes: what the hub
gives it waits in an outbox of its own until the backlog is out, and then follows in the order of
``seq``.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import time
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import attrs
import trio

from triocast import access
from triocast.clock import timestamp
from triocast.errors import EndReason, TriocastError
from triocast.events import Position, Publication
from triocast.hub import Hub
from triocast.link import Link
from triocast.outbox import Entry, Frame, Loss, Outbox, rest_of
from triocast.resume import Backlog, Gap, Page, open_backlog
from triocast.subscriptions import EVERYTHING, Encoder, Filter, Subscriber, WriteNow
from triocast.turns import Turns, in_turns
from triocast.wire import envelope
from triocast.wire.start import Start

if TYPE_CHECKING:
    from triocast.auth import Grant
    from triocast.connections import Connections

log = logging.getLogger("triocast.connection")

JOIN_BYTES: Final = 65_536
"""How many queued bytes the send task joins into one write."""

MOST_AHEAD: Final = 16
"""How many frames go ahead of others; of pongs the last one would do (RFC 6455, 5.5.3)."""

HELD_AT_ONCE: Final = 256
"""How many held events are put in order with a backlog in one step."""

FAREWELL_SECONDS: Final = 2.0
"""How long an ended connection may take to send what is left and say goodbye."""

_PROTOCOL: Final = (None,)
"""The publications of one frame that is of no event."""

_EARLIEST_HEARTBEAT: Final = 0.3
"""The first heartbeat comes after this part of the interval or later, so that they spread."""


def _seq(entry: Entry) -> int:
    return entry.seq


class Connection(Subscriber):
    """A client between its handshake and its end. Subclasses are the transports.

    ``transport`` is the word for logs and stats, ``sse`` or ``websocket``. ``encoder`` is how this
    client's frames are made; it is set when its link is known.
    """

    # Slots, because the fan-out goes over thousands of these and feels each step to memory.
    __slots__ = (
        "__weakref__",
        "_ahead",
        "_connections",
        "_direct",
        "_filled",
        "_filter",
        "_heartbeat_seconds",
        "_held",
        "_hub",
        "_link",
        "_nursery",
        "_outbox",
        "_scope",
        "_sent",
        "_write_now",
        "address",
        "bytes",
        "encoder",
        "events",
        "grant",
        "id",
        "preface",
        "reason",
        "retry_ms",
        "seq",
        "user",
    )

    transport: ClassVar[str]
    encoder: Encoder

    def __init__(
        self, connections: Connections, *, id: str, grant: Grant, address: str | None
    ) -> None:
        self.id = id
        self.grant = grant
        self.user = grant.user
        self.address = address
        self.reason: EndReason | None = None
        self.seq = 0
        """Up to here everything that is for this client has been given to its link or queued, or
        it is told behind what is queued that it was lost."""
        self.retry_ms = 0
        """When a client that is sent away should come back; 0 leaves it to the transport."""
        self.preface = b""
        """What goes out in front of the first frame: the head of the response."""
        self.events = 0
        self.bytes = 0
        self._connections = connections
        self._filter: Filter = EVERYTHING
        self._hub: Hub = connections.hub
        self._link: Link
        self._write_now: Callable[[bytes], int] | None = None
        self._direct = False
        self._held: Outbox | None = None
        self._sent: trio.Event | None = None  # While somebody waits for an empty outbox.
        self._heartbeat_seconds = connections.heartbeat_seconds
        self._outbox: Outbox | None = None
        self._filled: trio.Event  # Something is in the outbox.
        self._ahead: list[bytes] | None = None
        self._nursery: trio.Nursery | None = None  # While it takes tasks.
        self._scope: trio.CancelScope | None = None

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait in the outbox."""
        return 0 if self._outbox is None else self._outbox.bytes

    @property
    def taken_over(self) -> bool:
        return self._link.taken_over

    # What a transport decides.

    @abstractmethod
    def _opened(self) -> None:
        """Subscribe, and push the first frame. The connection is in the hub already."""

    @abstractmethod
    async def _receive(self) -> None:
        """Take what the client sends until its end, or until `end` was called."""

    @abstractmethod
    def _beat(self) -> None:
        """Push a heartbeat, or end the connection if the client gave no sign since the last."""

    @abstractmethod
    def _gap_frame(self, gap: Gap) -> bytes:
        """Return the frame that tells of a gap."""

    def _encoder_behind(self, stands: Position) -> Encoder | None:
        """Return the encoder of events that lie before where this client stands already.

        None while it stands nowhere yet, and may be told to stand where its backlog does.
        """
        return None

    @abstractmethod
    def _farewell(self, reason: EndReason) -> Sequence[bytes] | None:
        """Return the last frames for this client; None if nobody is there to take them."""

    def _ends_abruptly(self) -> bool:
        """Whether the link's end has to look like a fault, so that the client comes back."""
        return False

    def _hello(self, at: Position | None) -> bytes:
        """Return the first message; ``at`` is where the client stands, if that is known."""
        return envelope.encode_connected(
            timestamp(),
            connection_id=self.id,
            user=self.user,
            heartbeat_seconds=self._heartbeat_seconds,
            at=at,
        )

    # Its life.

    async def run(self, link: Link) -> EndReason:
        """Serve the client until the end; return why it ended. Closes the link."""
        self._link = link
        self._write_now = link.write_now
        self._direct = link.write_now is not None
        opened = time.monotonic()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._scope = nursery.cancel_scope
                self._scope.deadline = self._grant_deadline()
                try:
                    if self._connections.enter(self):
                        self._listen()
                        access.opened(self)
                        self._opened()
                        nursery.start_soon(self._heartbeat)
                        await self._receive()
                    self.end(EndReason.CLIENT_CLOSED)
                finally:
                    self._nursery = None
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.end(EndReason.PEER_LOST)
        except* Exception:
            log.exception("connection %s failed", self.id)
            self.end(EndReason.SERVER_ERROR)
        finally:
            self.end(self._reason_of_cancellation())
            try:
                patience = min(FAREWELL_SECONDS, self._heartbeat_seconds)
                with trio.move_on_after(patience, shield=True):
                    await self._part(self.reason or EndReason.SERVER_ERROR)
            finally:
                self._connections.leave(self)
                access.closed(self, time.monotonic() - opened)
        assert self.reason is not None
        return self.reason

    def _listen(self) -> None:
        """Enter the hub, and hear what is for all and for this client's user."""
        self.seq = self._hub.add(self, self._filter).seq

    def end(self, reason: EndReason) -> None:
        """End the connection; the first reason counts. It has left the hub on return."""
        if self.reason is not None:
            return
        self.reason = reason
        self._hub.remove(self)
        self._direct = False
        if self._scope is not None:
            self._scope.cancel(reason=reason.word)

    def fail(self) -> None:
        self.end(EndReason.SERVER_ERROR)

    def _reason_of_cancellation(self) -> EndReason:
        """Why the scope was cancelled by another than `end`."""
        if self._scope is not None and trio.current_time() >= self._scope.deadline:
            return EndReason.GRANT_ENDED
        # From outside: the server ends for good.
        return EndReason.SHUTDOWN

    def _grant_deadline(self) -> float:
        if self.grant.expires_at is None:
            return math.inf
        return trio.current_time() + max(0.0, self.grant.expires_at - time.time())

    # Frames to the client.

    def deliver(
        self, joined: bytes, frames: Sequence[bytes], publications: Sequence[Publication]
    ) -> None:
        """Take frames from the hub; write them now, queue or hold them. Never blocks or raises."""
        if self._held is None:
            self._give(joined, frames, publications, len(frames), publications[-1].seq)
        else:
            self._put(self._held, frames, publications)

    def push(self, frame: bytes) -> None:
        """Send a frame of the protocol itself: a reply, a heartbeat, a pong."""
        if self.preface:
            # A view, as what is left of a frame is: it goes out whatever becomes of the rest.
            opening, self.preface = self.preface + frame, b""
            self._give(opening, [memoryview(opening)], _PROTOCOL, 0, self.seq)
        else:
            self._give(frame, [frame], _PROTOCOL, 0, self.seq)

    def push_ahead(self, frame: bytes) -> None:
        """Send a frame of the protocol ahead of all that waits in the outbox, as soon as the write
        under way is done. Of many such frames only the last few are sent.
        """
        if self._outbox:
            self._ahead = [*(self._ahead or ())[1 - MOST_AHEAD :], frame]
        else:
            self.push(frame)

    def _give(
        self,
        joined: bytes,
        frames: Sequence[Frame],
        publications: Sequence[Publication | None],
        count: int,
        seq: int,
    ) -> None:
        write_now = self.claim(len(joined), count, seq)
        if write_now is None:
            self.seq = seq
            self.events += count
            self._queue(frames, publications)
            return
        try:
            sent = write_now(joined)
        except OSError as error:
            self.catch_up(frames, publications, len(joined), 0, error)
        else:
            if sent != len(joined):
                self.catch_up(frames, publications, len(joined), sent)

    def claim(self, size: int, count: int, seq: int) -> WriteNow | None:
        if not self._direct:
            return None
        self.seq = seq
        self.events += count
        self.bytes += size
        return self._write_now

    def catch_up(
        self,
        frames: Sequence[Frame],
        publications: Sequence[Publication | None],
        size: int,
        sent: int,
        error: OSError | None = None,
    ) -> None:
        self.bytes -= size - sent
        if error is not None and not isinstance(error, BlockingIOError):
            self.end(EndReason.PEER_LOST)
        else:
            self._queue(*rest_of(frames, publications, sent))

    def _queue(self, frames: Sequence[Frame], publications: Sequence[Publication | None]) -> None:
        if self.reason is not None:
            return
        self._direct = False
        if self._outbox is None:
            self._outbox = self._new_outbox()
            self._filled = trio.Event()
            # Without one, as when the grant has just ended, the farewell takes this along.
            if self._nursery is not None:
                self._nursery.start_soon(self._send, self._outbox)
        before = self._outbox.removed
        self._put(self._outbox, frames, publications)
        self.events -= self._outbox.removed - before
        self._filled.set()

    def _put(
        self,
        outbox: Outbox,
        frames: Sequence[Frame],
        publications: Sequence[Publication | None],
    ) -> None:
        """Put events into an outbox; end the connection where its policies say so."""
        for frame, publication in zip(frames, publications, strict=True):
            if self.reason is not None:
                return
            if not outbox.put(frame, publication):
                self._connections.overflow.acts["disconnected"] += 1
                self.end(EndReason.SLOW_CONSUMER)

    def _outbox_bytes(self) -> int:
        """Return how much may wait for the client."""
        return self._connections.outbox_bytes

    def _new_outbox(self) -> Outbox:
        return Outbox(self._connections.overflow, self._outbox_bytes())

    async def _send(self, outbox: Outbox) -> None:
        """Empty the outbox into the link, up to `JOIN_BYTES` at a time.

        A client that takes longer than a heartbeat for such a write is let go; it resumes.
        """
        while True:
            if not outbox:
                self._filled = trio.Event()
                await self._filled.wait()
            frames = [self._frame(entry) for entry in outbox.take(JOIN_BYTES)]
            if self._ahead is not None:
                # The rest of a frame that is written in part stays the first.
                is_begun = isinstance(frames[0], memoryview)
                frames[is_begun:is_begun] = self._ahead
                self._ahead = None
            with trio.move_on_after(self._heartbeat_seconds) as patience:
                await self._link.send(frames)
            if patience.cancelled_caught:
                self.end(EndReason.SLOW_CONSUMER)
                return
            self.bytes += sum(map(len, frames))
            outbox.written()
            if not outbox.bytes:
                self._write_directly()
                if self._sent is not None:
                    self._sent.set()

    def _frame(self, entry: Entry | Loss) -> Frame:
        return entry.frame if isinstance(entry, Entry) else self._gap_frame(entry.gap(entry.last))

    def _write_directly(self) -> None:
        """Let the hub write again, now that nothing is queued or held."""
        self._direct = self._write_now is not None and self._held is None and self.reason is None

    # What the client gets before what is live.

    def _hold(self) -> None:
        """Hold what the hub gives from now on; to be called before subscribing."""
        self._held = self._new_outbox()
        self._direct = False

    def _backlog(
        self, names: Sequence[str], filter: Filter, start: Start, live: Position
    ) -> Backlog:
        engine = self._connections.engine
        return open_backlog(engine, names, filter, start, live=live)

    async def _catch_up(self, backlog: Backlog) -> None:
        """Give a backlog, then what was held meanwhile, and hold no more.

        Goes no faster than the client takes it. One whose held events outgrow its outbox is let
        go; it comes back with the cursor of what it got.
        """
        held, stands = self._held, Position(backlog.live.epoch, self.seq)
        assert held is not None
        # What earlier subscriptions still get of the time before this one is held by then.
        await self._hub.wait_until_written()
        behind = self._encoder_behind(stands)
        while (page := await self._read(backlog)) is not None:
            for gap in page.gaps:
                told = gap if behind is None else attrs.evolve(gap, resume_at=stands)
                self.push(self._gap_frame(told))
            missed = [
                Entry(self._hub.encode(encoder, p), p)
                async for p in in_turns(page.publications)
                for encoder in [behind if behind and p.seq <= stands.seq else self.encoder]
            ]
            more = True
            while more:
                entries = held.take_until(page.seq, HELD_AT_ONCE)
                more = len(entries) == HELD_AT_ONCE
                count = bisect_right(missed, entries[-1].seq, key=_seq) if more else len(missed)
                await self._give_in_order([*entries, *missed[:count]], all_is_read=False)
                del missed[:count]
        while held:
            await self._give_in_order(held.take_until(math.inf, HELD_AT_ONCE), all_is_read=True)
        self._held = None
        if not self.queued_bytes:
            self._write_directly()
        self.seq = max(self.seq, backlog.live.seq)

    async def _read(self, backlog: Backlog) -> Page | None:
        try:
            page = await backlog.read()
        except TriocastError as error:
            log.warning("connection %s cannot get its backlog: %s", self.id, error)
            self.end(EndReason.SERVER_ERROR)
        else:
            # It may have been read in the moment in which the connection ended.
            await trio.lowlevel.checkpoint_if_cancelled()
            return page
        await trio.sleep_forever()  # for the cancellation that has begun
        raise AssertionError

    async def _give_in_order(self, entries: Iterable[Entry | Loss], *, all_is_read: bool) -> None:
        # What is both held and read comes once; of the outbox a part is left free for what is live.
        unique = {(entry.seq, isinstance(entry, Entry)): entry for entry in entries}
        most = min(JOIN_BYTES, self._outbox_bytes() // 2)
        turns = Turns()
        for _, entry in sorted(unique.items()):
            await turns.give_if_over()
            if isinstance(entry, Entry):
                frame, publication, seq = entry.frame, entry.publication, entry.seq
            else:
                # As long as other channels are read, the cursor must not pass over their events.
                resume_at = entry.last if all_is_read else entry.start
                frame, publication = self._gap_frame(entry.gap(resume_at)), None
                seq = resume_at.seq
            if self.queued_bytes and self.queued_bytes + len(frame) > most:
                self._sent = trio.Event()
                await self._sent.wait()
                self._sent = None
                self._progressed()
            await trio.lowlevel.checkpoint_if_cancelled()  # one that has ended gets no more
            self.seq = max(self.seq, seq)
            self.events += publication is not None
            self._queue([frame], [publication])

    def _progressed(self) -> None:
        """Be told that a client that is busy with its backlog took some of it."""

    async def _heartbeat(self) -> None:
        interval = self._heartbeat_seconds
        await trio.sleep(interval * random.uniform(_EARLIEST_HEARTBEAT, 1))  # noqa: S311
        while True:
            self._beat()
            await trio.sleep(interval)

    async def _part(self, reason: EndReason) -> None:
        """Send what is left, say goodbye, and close. The caller owns the deadline."""
        left: list[Frame] = []
        if self._outbox is not None:
            left = [self._frame(entry) for entry in self._outbox.take(sys.maxsize)]
        if reason in (EndReason.SLOW_CONSUMER, EndReason.PEER_LOST):
            # It resumes by its cursor. A frame that is half written (a memoryview) is finished, as
            # is the response's head, or the farewell would be read as a part of it.
            left = [frame for frame in left[:1] if isinstance(frame, memoryview)]
        farewell = self._farewell(reason)
        if self.preface:
            farewell = None  # Nobody has even been let in.
        try:
            if farewell is not None:
                abruptly = self._ends_abruptly()
                await self._link.finish([*left, *farewell], abruptly=abruptly)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("connection %s was gone before its farewell", self.id)
        except Exception:  # whatever an ASGI server's send raises
            log.exception("the farewell of connection %s failed", self.id)
        finally:
            self._link.close()
