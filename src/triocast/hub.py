"""The fan-out of one process: the task that writes events to those who listen.

An engine puts accepted publications into the hub's inbox (`Hub.put`). One task, `Hub.run`, takes
all that are ready, up to 64 kB, as one batch; encodes each event once for every `Encoder` that
has a listener; and gives each subscriber its frames in one call (`portions`). It works in `turns`
of about half a millisecond, so that publishers and new connections get theirs in between.

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
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio

from triocast.clock import Seldom
from triocast.errors import Overloaded
from triocast.events import Position, Publication
from triocast.portions import Batch, Portion
from triocast.subscriptions import (
    EVERYTHING,
    Encoder,
    Filter,
    Members,
    Subscriber,
    Subscriptions,
    Watcher,
)
from triocast.turns import Turns, in_turns

BATCH_BYTES: Final = 65_536
"""How much event data is joined into one batch at the most."""

WRITES_IN_A_ROW: Final = 32
"""So many at the most between two looks at the clock."""

_PUBLICATION_OVERHEAD: Final = 300

ERROR_LOG_SECONDS: Final = 1.0
"""An error of ours that repeats with each event is logged no more often than this."""

log = logging.getLogger("triocast.hub")


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


class Hub:
    """The fan-out of one process, and its door to the subscriptions."""

    def __init__(
        self, *, inbox_bytes: int, head: Position, max_subscriptions: int = sys.maxsize
    ) -> None:
        self.stats = HubStats()
        self._max_subscriptions = max_subscriptions
        self._inbox_bound = inbox_bytes
        self._inbox: deque[Publication] = deque()
        self._inbox_filled = trio.Event()
        self._room = trio.Event()
        self._wrote = trio.Event()
        self._accepted = head
        self._written = head
        self._subscriptions = Subscriptions()
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

    def check_room(self, added: int) -> None:
        """Raise Overloaded if all subscribers together may not have so many more subscriptions."""
        if self._subscriptions.total + added > self._max_subscriptions:
            raise Overloaded(f"this server has its {self._max_subscriptions} subscriptions")

    def subscribers(self) -> tuple[Subscriber, ...]:
        """Return everybody who is in now."""
        return self._subscriptions.everybody()

    async def count(self, channel: str) -> int:
        """Return how many local subscribers an event of this channel is offered to."""
        return await self._subscriptions.count(channel)

    async def channels(self) -> dict[str, int]:
        """Return the channels and patterns that have subscribers, with how many."""
        names = self._subscriptions.all_names()
        sizes = {name: self._subscriptions.size(name) async for name in in_turns(names)}
        return {name: size for name, size in sizes.items() if size}

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

    async def _fan_out(self, publications: list[Publication]) -> None:
        self.stats.batches += 1
        turns = Turns()
        batch = Batch(publications, self._subscriptions, self.encode)
        for _ in batch.look_up():
            await turns.give_if_over()
        # With one name there is nobody who was given something by another.
        given = None if len(batch.names) + len(batch.own) == 1 else set[Subscriber]()
        for name, events in batch.names.items():
            for members in self._subscriptions.groups(name):
                await turns.give_if_over()
                if not (mask := events & batch.passing(name, members)):
                    continue
                if given is None and not batch.excluded:
                    await self._write_shared(batch, mask, members, turns)
                else:
                    await self._write_each(batch, members, given, turns)
        await self._write_each(batch, batch.own, given, turns)
        self._written = publications[-1].position
        self._wrote.set()

    async def _write_shared(self, batch: Batch, mask: int, members: Members, turns: Turns) -> None:
        """Give a group its events, of which nobody has any yet: the common case, the fast one."""
        encoder = members.group.encoder
        everybody, live = list(members), list(members.values())
        departures = self._subscriptions.departures
        for start in range(0, len(everybody), WRITES_IN_A_ROW):
            if turns.over():
                await turns.give()
            row = everybody[start : start + WRITES_IN_A_ROW]
            try:
                portion = batch.portion(encoder, mask)
            except Exception as error:  # noqa: BLE001  # it is logged
                for subscriber in row:
                    if batch.mask(subscriber):
                        self._fail(subscriber, error)
                continue
            if (
                self._subscriptions.departures == departures
                and max(live[start : start + WRITES_IN_A_ROW]) < portion.first
            ):
                self._write_to(row, portion, batch)
            else:
                await self._write_row(row, batch, turns)

    async def _write_each(
        self,
        batch: Batch,
        subscribers: Iterable[Subscriber],
        given: set[Subscriber] | None,
        turns: Turns,
    ) -> None:
        """Give each all of its events in the batch, unless it is among those who have them."""
        everybody = list(subscribers)
        for start in range(0, len(everybody), WRITES_IN_A_ROW):
            if turns.over():
                await turns.give()
            row = everybody[start : start + WRITES_IN_A_ROW]
            if given is not None:
                row = [subscriber for subscriber in row if subscriber not in given]
                given.update(row)
            await self._write_row(row, batch, turns)

    async def _write_row(self, row: list[Subscriber], batch: Batch, turns: Turns) -> None:
        """Give a few subscribers their events, together to those who get the same."""
        same: list[Subscriber] = []
        portion: Portion | None = None
        for subscriber in row:
            its = self._portion(subscriber, batch)
            if portion is not None and (its is not portion or turns.over()):
                self._write_to(same, portion, batch)
                if turns.over():
                    await turns.give()
                # Anew, as others may have left.
                same, its = [], self._portion(subscriber, batch)
            portion = its
            if its is not None:
                same.append(subscriber)
        if portion is not None:
            self._write_to(same, portion, batch)

    def _portion(self, subscriber: Subscriber, batch: Batch) -> Portion | None:
        """Return what a subscriber gets now; end it if that cannot be made."""
        mask = batch.mask(subscriber)
        try:
            return batch.portion(subscriber.encoder, mask) if mask else None
        except Exception as error:  # noqa: BLE001  # it is logged
            self._fail(subscriber, error)
            return None

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

    def _write_to(self, subscribers: list[Subscriber], portion: Portion, batch: Batch) -> None:
        """Give a portion to a few subscribers for whom it is now.

        In two rounds, because a system call throws the processor's caches and branch predictors
        over: what Python has to do for a client is done for all of these first, and then there is
        next to nothing between one write and the next. A failing write ends its own client only.
        """
        joined, size = portion.joined, portion.size
        count, last = portion.count, portion.last
        departures = self._subscriptions.departures
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
                    subscriber.catch_up(portion.frames, portion.publications, size, 0, error)
                else:
                    if sent != size:
                        subscriber.catch_up(portion.frames, portion.publications, size, sent)
            except Exception as error:  # noqa: BLE001  # it is logged
                self._fail(subscriber, error)
        self.stats.delivered += len(direct) * count
        for subscriber in others:
            its: Portion | None = portion
            if self._subscriptions.departures != departures:
                # Somebody left when it was given its events, maybe this one.
                its = self._portion(subscriber, batch)
            if its is not None:
                self._deliver(subscriber, its)

    def _deliver(self, subscriber: Subscriber, portion: Portion) -> None:
        try:
            subscriber.deliver(portion.joined, portion.frames, portion.publications)
        except Exception as error:  # noqa: BLE001  # it is logged
            self._fail(subscriber, error)
        else:
            self.stats.delivered += portion.count
