"""The fan-out of one process: the task that writes events to those who listen.

An engine puts accepted publications into the hub's inbox (`Hub.put`). One task, `Hub.run`, takes
all that are ready, up to 64 kB, as one batch; encodes each event once for every `Encoder` that
has a listener; and gives each subscriber its frames in one call. It works in slices of about half
a millisecond, so that publishers and new connections get their turn in between.

Rules that keep the promises:

- A subscription is live from a ``seq`` on: the last one accepted when it was made. Events up to
  there, also ones that wait in the inbox, are not for it.
- Membership is looked up again for each subscriber right before its write. So after `unsubscribe`
  or `remove` returned, nothing more of that channel is written, even from a batch under way.
- A subscriber gets events in the order of ``seq`` over all its channels, each once, whatever
  number of its channels and patterns cover it.
- An error of ours costs as little as it can. An event that an encoder cannot encode is replaced by
  a gap for the subscribers of that encoder. A subscriber whose frames cannot be given to it is
  ended. Any other error ends `Hub.run`, and the node with it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio

from triocast.clock import Seldom
from triocast.events import Position, Publication, is_connection_channel
from triocast.subscriptions import (
    EVERYTHING,
    Encoder,
    Filter,
    Members,
    Subscriber,
    Subscriptions,
    Watcher,
)

BATCH_BYTES: Final = 65_536
"""How much event data is joined into one batch at the most."""

SLICE_SECONDS: Final = 0.0005
"""How long the hub writes before it gives others their turn, when they have something to do."""

LONGEST_SLICE_SECONDS: Final = 0.004
"""How long it writes when nobody had."""

_BUSY_SECONDS: Final = 0.0001
"""A turn that took longer was used by somebody."""

_WRITES_IN_A_ROW: Final = 32
"""So many at the most between two looks at the clock."""
_PUBLICATION_OVERHEAD: Final = 300

ERROR_LOG_SECONDS: Final = 1.0
"""An error of ours that repeats with each event is logged no more often than this."""

log = logging.getLogger("triocast.hub")


@attrs.define(eq=False)
class _Delivery:
    """The frames of one run of events for one group."""

    members: Members
    frames: list[Any]
    publications: list[Publication]
    first: int
    last: int
    excluded: str | None
    joined: Any


@attrs.define
class HubStats:
    """Counters since the start, and gauges of now. Bytes are those of event data."""

    published: int = 0
    delivered: int = 0
    batches: int = 0
    inbox_bytes: int = 0
    encode_failures: int = 0
    """How often an event could not be encoded by an encoder that has subscribers."""
    delivery_failures: int = 0
    """Subscribers that were ended because their frames could not be given to them."""


class _Slices:
    """Cuts a batch's writing into slices of time, longer ones while nobody else wants a turn."""

    def __init__(self) -> None:
        self._length = SLICE_SECONDS
        self._end = time.perf_counter() + self._length

    def over(self) -> bool:
        return time.perf_counter() > self._end

    async def give_turn(self) -> None:
        began = time.perf_counter()
        await trio.lowlevel.checkpoint()
        now = time.perf_counter()
        if now - began > _BUSY_SECONDS:
            self._length = SLICE_SECONDS
        else:
            self._length = min(2 * self._length, LONGEST_SLICE_SECONDS)
        self._end = now + self._length


class Hub:
    """The fan-out of one process, and its door to the subscriptions."""

    def __init__(self, *, inbox_bytes: int, head: Position) -> None:
        self.stats = HubStats()
        self._inbox_bound = inbox_bytes
        self._inbox: deque[Publication] = deque()
        self._inbox_filled = trio.Event()
        self._room = trio.Event()
        self._wrote = trio.Event()
        self._accepted = head
        self._written = head
        self._subscriptions = Subscriptions()
        self._failed_groups: list[tuple[Members, Exception]] = []
        self._encode_log = Seldom(ERROR_LOG_SECONDS)
        self._delivery_log = Seldom(ERROR_LOG_SECONDS)
        self.watcher: Watcher | None = None
        """Told of what members subscribe to."""

    # The engine's side: an Outlet.

    @property
    def has_room(self) -> bool:
        """Whether the inbox is below its bound."""
        return self.stats.inbox_bytes < self._inbox_bound

    async def wait_for_room(self) -> None:
        """Return when the inbox is below its bound. The caller owns the deadline."""
        while not self.has_room:
            await self._room.wait()

    def put(self, publications: Sequence[Publication]) -> None:
        """Take accepted publications, in the order of ``seq``."""
        for publication in publications:
            self.stats.inbox_bytes += len(publication.event.data) + _PUBLICATION_OVERHEAD
        self._inbox.extend(publications)
        self.stats.published += len(publications)
        self._accepted = publications[-1].position
        if self.stats.inbox_bytes >= self._inbox_bound:
            # Not a new one where it is closed already: somebody may wait for that.
            self._room = trio.Event() if self._room.is_set() else self._room
        self._inbox_filled.set()

    async def wait_until_written(self) -> None:
        """Return when all that was accepted by now is written. The caller owns the deadline."""
        goal = self._accepted.seq
        while self._written.seq < goal:
            if self._wrote.is_set():
                self._wrote = trio.Event()
            await self._wrote.wait()

    async def take_turn(self) -> None:
        """Let the fan-out begin with what was accepted by now."""
        if self._written.seq < self._accepted.seq:
            # Twice, as Trio runs the tasks of one pass in any order.
            await trio.lowlevel.cancel_shielded_checkpoint()
            await trio.lowlevel.cancel_shielded_checkpoint()

    # The connections' side.

    @property
    def accepted(self) -> Position:
        """The last position this hub was given: what a new subscription is live from."""
        return self._accepted

    @property
    def written(self) -> Position:
        """The last position that has been given to everybody whom it is for."""
        return self._written

    def add(self, subscriber: Subscriber, filter: Filter = EVERYTHING) -> Position:
        """Let a subscriber in; return where it is live from.

        It hears what is for all and for its user, as far as that passes the filter, and what is
        for itself.
        """
        self._subscriptions.add(subscriber, filter, self._accepted.seq)
        return self._accepted

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a subscriber at once: nothing is given to it after this. Idempotent."""
        names = self._subscriptions.names(subscriber)
        self._subscriptions.remove(subscriber)
        if self.watcher is not None and subscriber.is_member:
            for name in names:
                self.watcher.went(subscriber, name)

    def subscribe(
        self, subscriber: Subscriber, names: Iterable[str], filter: Filter = EVERYTHING
    ) -> Position:
        """Subscribe to canonical channels and patterns; return where they are live from.

        A name that is subscribed already with the same filter stays as it is; with another one
        it is a new subscription, live from the returned position.
        """
        for name in names:
            self._subscriptions.join(subscriber, name, filter, self._accepted.seq)
            if self.watcher is not None and subscriber.is_member:
                self.watcher.came(subscriber, name)
        return self._accepted

    def unsubscribe(self, subscriber: Subscriber, names: Iterable[str]) -> None:
        """Leave channels and patterns; ones that are not subscribed are passed over."""
        for name in names:
            self._subscriptions.leave(subscriber, name)
            if self.watcher is not None and subscriber.is_member:
                self.watcher.went(subscriber, name)

    def subscriptions(self, subscriber: Subscriber) -> tuple[str, ...]:
        """Return the channels and patterns of a subscriber."""
        return self._subscriptions.names(subscriber)

    def is_subscribed(self, subscriber: Subscriber, name: str) -> bool:
        """Say whether a subscriber has a channel or pattern."""
        return self._subscriptions.has(subscriber, name)

    def subscription_count(self, subscriber: Subscriber) -> int:
        """Return how many channels and patterns a subscriber has asked for."""
        return self._subscriptions.asked(subscriber)

    def subscribers(self) -> tuple[Subscriber, ...]:
        """Return everybody who is in now."""
        return self._subscriptions.everybody()

    def count(self, channel: str) -> int:
        """Return how many local subscribers an event of this channel is offered to."""
        return self._subscriptions.count(channel)

    def channels(self) -> dict[str, int]:
        """Return the channels and patterns that have subscribers, with how many."""
        return self._subscriptions.counts()

    # The fan-out.

    async def run(self) -> None:
        """Fan out until cancelled. One task runs this; nothing else writes to subscribers."""
        while True:
            if not self._inbox:
                self._inbox_filled = trio.Event()
                await self._inbox_filled.wait()
            await self._fan_out(self._take_batch())
            # Sockets get one turn before the next batch counts against their outboxes.
            await trio.lowlevel.checkpoint()

    def _take_batch(self) -> list[Publication]:
        batch: list[Publication] = []
        size = taken = 0
        while self._inbox and size < BATCH_BYTES:
            publication = self._inbox.popleft()
            batch.append(publication)
            length = len(publication.event.data) + _PUBLICATION_OVERHEAD
            size += length
            taken += length
        self.stats.inbox_bytes -= taken
        if self.stats.inbox_bytes < self._inbox_bound:
            self._room.set()
        return batch

    async def _fan_out(self, batch: list[Publication]) -> None:
        self.stats.batches += 1
        deliveries = list(self._deliveries(batch))
        for members, error in self._failed_groups:
            for subscriber in list(members):
                self._fail(subscriber, error)
        self._failed_groups.clear()
        if len(deliveries) == 1 and deliveries[0].excluded is None:
            await self._write_shared(deliveries[0])
        elif deliveries:
            await self._write_merged(deliveries)
        self._written = batch[-1].position
        self._wrote.set()

    def _deliveries(self, batch: list[Publication]) -> Iterable[_Delivery]:
        """Cut the batch into runs of one channel, and each run into its groups' frames."""
        start = 0
        while start < len(batch):
            event = batch[start].event
            end = start + 1
            while (
                end < len(batch)
                and batch[end].event.channel == event.channel
                and batch[end].event.exclude == event.exclude
            ):
                end += 1
            yield from self._run_deliveries(batch[start:end])
            start = end

    def _run_deliveries(self, run: list[Publication]) -> Iterable[_Delivery]:
        channel = run[0].event.channel
        encoded: dict[Encoder, list[Any] | Exception] = {}
        if is_connection_channel(channel):
            members = self._subscriptions.of_connection(channel)
            for subscriber in members:
                encoder = subscriber.encoder
                yield from self._delivery(members, encoder, self._encode_all(encoder, run), run)
            return
        for audience in self._subscriptions.audiences(channel):
            for group, members in audience.items():
                encoder = group.encoder
                if encoder not in encoded:
                    encoded[encoder] = self._encode_all(encoder, run)
                frames, publications = encoded[encoder], run
                if group.filter is not EVERYTHING:
                    chosen = [i for i, p in enumerate(run) if group.filter.passes(p)]
                    if not chosen:
                        continue
                    publications = [run[i] for i in chosen]
                    if not isinstance(frames, Exception):
                        frames = [frames[i] for i in chosen]
                yield from self._delivery(members, encoder, frames, publications)

    def encode(self, encoder: Encoder, publication: Publication) -> Any:
        """Return a publication's frame; where the encoder fails, that of a gap in its place."""
        try:
            return encoder.encode(publication)
        except Exception as error:
            self.stats.encode_failures += 1
            if count := self._encode_log.count(time.monotonic()):
                log.error(
                    "an event of %s was replaced by a gap, as %s failed by an error of ours"
                    " (%d since this was last logged)",
                    publication.event.channel,
                    type(encoder).__name__,
                    count,
                    exc_info=error,
                )
            return encoder.encode_gap(publication)

    def _encode_all(self, encoder: Encoder, run: list[Publication]) -> list[Any] | Exception:
        """Return a run's frames; the error if the encoder fails for a gap, too."""
        try:
            return [self.encode(encoder, publication) for publication in run]
        except Exception as error:  # noqa: BLE001  # it is logged when the group is ended
            return error

    def _delivery(
        self,
        members: Members,
        encoder: Encoder,
        frames: list[Any] | Exception,
        publications: list[Publication],
    ) -> Iterable[_Delivery]:
        """Yield the delivery of these frames; if there is none, have the group ended."""
        try:
            if isinstance(frames, Exception):
                raise frames
            joined = frames[0] if len(frames) == 1 else encoder.join(frames)
        except Exception as error:  # noqa: BLE001  # it is logged when the group is ended
            self._failed_groups.append((members, error))
            return
        yield _Delivery(
            members,
            frames,
            publications,
            first=publications[0].seq,
            last=publications[-1].seq,
            excluded=publications[0].event.exclude,
            joined=joined,
        )

    def _fail(self, subscriber: Subscriber, error: Exception) -> None:
        """End a subscriber that missed something by an error of ours."""
        self._log_delivery_failure(error)
        self.stats.delivery_failures += 1
        for end in (subscriber.fail, partial(self.remove, subscriber)):
            try:
                end()
            except Exception as another:  # noqa: BLE001  # it is logged
                self._log_delivery_failure(another)

    def _log_delivery_failure(self, error: Exception) -> None:
        if count := self._delivery_log.count(time.monotonic()):
            log.error(
                "frames could not be given to subscribers, which are ended, by an error of ours"
                " (%d since this was last logged)",
                count,
                exc_info=error,
            )

    async def _write_shared(self, delivery: _Delivery) -> None:
        """Give one group's frames to its members: the common case, and the fast one."""
        members, first = delivery.members, delivery.first
        waiting = [subscriber for subscriber, live in members.items() if live < first]
        late = [subscriber for subscriber, live in members.items() if live >= first]
        slices = _Slices()
        departures = self._subscriptions.departures
        start = 0
        while start < len(waiting):
            if slices.over():
                await slices.give_turn()
            if self._subscriptions.departures != departures:
                departures = self._subscriptions.departures
                # Also without those who left and came back: it is not for them any more.
                waiting = [s for s in waiting[start:] if members.get(s, first) < first]
                start = 0
            some = waiting[start : start + _WRITES_IN_A_ROW]
            start += _WRITES_IN_A_ROW
            self.stats.delivered += self._write_to(some, delivery)
        for subscriber in late:
            self.stats.delivered += self._try_to_give(subscriber, [delivery])

    def _write_to(self, subscribers: list[Subscriber], delivery: _Delivery) -> int:
        """Give all frames of a delivery to a few subscribers; return how many frames that was.

        In two rounds, because a system call throws the processor's caches and branch predictors
        over: what Python has to do for a client is done for all of these first, and then there is
        next to nothing between one write and the next. A failing write ends its own client only.
        """
        joined, frames = delivery.joined, delivery.frames
        size = len(joined) if isinstance(joined, bytes) else 0
        count, last = len(frames), delivery.last
        direct, others = [], []
        for subscriber in subscribers:
            try:
                write_now = subscriber.claim(size, count, last)
            except Exception as error:  # noqa: BLE001  # it is logged
                self._fail(subscriber, error)
                continue
            if write_now is None:
                others.append(subscriber)
            else:
                direct.append((subscriber, write_now))
        for subscriber, write_now in direct:
            try:
                try:
                    sent = write_now(joined)
                except OSError as error:
                    subscriber.catch_up(frames, delivery.publications, size, 0, error)
                else:
                    if sent != size:
                        subscriber.catch_up(frames, delivery.publications, size, sent)
            except Exception as error:  # noqa: BLE001  # it is logged
                self._fail(subscriber, error)
        written = len(direct)
        members, first = delivery.members, delivery.first
        for subscriber in others:
            if members.get(subscriber, first) < first:
                try:
                    subscriber.deliver(joined, frames, delivery.publications)
                except Exception as error:  # noqa: BLE001  # it is logged
                    self._fail(subscriber, error)
                written += 1
        return written * count

    async def _write_merged(self, deliveries: list[_Delivery]) -> None:
        """Give subscribers of several channels, patterns or runs their frames in one order."""
        parts: dict[Subscriber, list[_Delivery]] = {}
        for delivery in deliveries:
            for subscriber in delivery.members:
                parts.setdefault(subscriber, []).append(delivery)
        slices = _Slices()
        written = 0
        for index, (subscriber, its) in enumerate(parts.items()):
            if index % _WRITES_IN_A_ROW == 0 and slices.over():
                await slices.give_turn()
            written += self._try_to_give(subscriber, its)
        self.stats.delivered += written

    def _try_to_give(self, subscriber: Subscriber, deliveries: list[_Delivery]) -> int:
        try:
            return self._give(subscriber, deliveries)
        except Exception as error:  # noqa: BLE001  # it is logged
            self._fail(subscriber, error)
            return 0

    def _give(self, subscriber: Subscriber, deliveries: list[_Delivery]) -> int:
        """Give a subscriber what is still for it of some deliveries; return how many frames."""
        last = 0
        chosen: list[_Delivery] = []
        for delivery in deliveries:
            live = delivery.members.get(subscriber)
            if live is None or subscriber.id == delivery.excluded:
                continue
            if live >= delivery.first or last >= delivery.first:
                return self._give_some(subscriber, deliveries)
            last = delivery.last
            chosen.append(delivery)
        if not chosen:
            return 0
        if len(chosen) == 1:
            frames, joined = chosen[0].frames, chosen[0].joined
            publications = chosen[0].publications
        else:
            frames = [frame for delivery in chosen for frame in delivery.frames]
            publications = [each for delivery in chosen for each in delivery.publications]
            joined = subscriber.encoder.join(frames)
        subscriber.deliver(joined, frames, publications)
        return len(frames)

    def _give_some(self, subscriber: Subscriber, deliveries: list[_Delivery]) -> int:
        """The same where deliveries overlap, or hold events from before a subscription."""
        found: dict[int, tuple[Any, Publication]] = {}
        for delivery in deliveries:
            live = delivery.members.get(subscriber)
            if live is None or subscriber.id == delivery.excluded:
                continue
            for frame, publication in zip(delivery.frames, delivery.publications, strict=True):
                if publication.seq > live:
                    found[publication.seq] = frame, publication
        if found:
            ordered = [found[seq] for seq in sorted(found)]
            frames = [frame for frame, _ in ordered]
            joined = frames[0] if len(frames) == 1 else subscriber.encoder.join(frames)
            subscriber.deliver(joined, frames, [publication for _, publication in ordered])
        return len(found)
