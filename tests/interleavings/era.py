"""All that happened in one epoch of a store, in its processes, and what must be true of it.

A store that outlives its processes has one epoch. One in memory has one for each process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import note

from triocast.events import Publication, presence_target
from triocast.presence import LEAVE

from .attendance import Member, Stay, check_told, stays
from .clients import Client
from .ledger import Ledger, Taken, number_of
from .life import End, Life
from .observing import Accepted, is_lost
from .steps import NAMESPACES
from .stores import Store
from .table import Listing, is_written_by_presence
from .windows import Placed, Process, Windows


class Era:
    """One epoch of a store."""

    def __init__(self, store: Store, epoch: str) -> None:
        self.epoch = epoch
        self.accepted = Accepted()
        self.ledger = Ledger(self.accepted, store.disk)
        self.clients: list[Client] = []
        self.kept: set[Publication] = set()
        """In the end."""
        self.last_lists: Sequence[Listing] = ()
        """In the end, from who was asked then."""
        self._store = store
        self._lives: list[Life] = []
        self._firsts: list[int] = []

    def enter(self, life: Life) -> None:
        """Have the next process go on from where the one before it ended."""
        if self._lives:
            self.accepted.find_what_was_not_told(life.engine.head, self._store.kept())
        assert life.engine.head.epoch == self.epoch, "the past was lost"
        assert life.engine.head.seq == len(self.accepted.list)
        life.engine.attach(self.accepted)
        self.ledger.process = len(self._lives)
        self._lives.append(life)
        self._firsts.append(len(self.accepted.list))

    def leave(self, life: Life) -> None:
        """Hear no more of a process: it has ended for all others."""
        life.engine.detach(self.accepted)
        if life.ended is End.FAILED:
            self.ledger.failed.add(len(self._lives) - 1)

    # What became of it.

    def check(self) -> None:
        accepted = self.accepted.list
        note(f"epoch {self.epoch}: {[(each.seq, each.event.channel) for each in accepted]}")
        assert [each.seq for each in accepted] == list(range(1, len(accepted) + 1))
        table = self.ledger.check(
            Taken(event, process)
            for process, life in enumerate(self._lives)
            for event, _ in life.taken
        )
        store_failed = self._store.disk.failures > 0
        self._check_windows(punctual=not store_failed)
        self._check_presence()
        for listing in self.last_lists:
            assert listing.entries == table.channel(listing.channel)
        # What a process in memory held went with it.
        all_was_told = self._lives[-1].ended is End.ORDERLY
        for client in self.clients:
            client.check(
                accepted,
                self.kept,
                table,
                store_failed=store_failed,
                all_was_told=all_was_told,
            )

    def _told_by(self, process: int) -> Iterator[tuple[Publication, float]]:
        """Yield what a process accepted, and when."""
        firsts = [*self._firsts, len(self.accepted.list)]
        part = slice(firsts[process], firsts[process + 1])
        return zip(self.accepted.list[part], self.accepted.times[part], strict=True)

    def _check_windows(self, *, punctual: bool) -> None:
        processes = [
            Process(
                life.born,
                life.died,
                was_cut=life.ended is not End.ORDERLY,
                forgets=not self._store.outlives_processes,
            )
            for life in self._lives
        ]
        placed = {
            number_of(publication.event): Placed(publication, at, process)
            for process in range(len(self._lives))
            for publication, at in self._told_by(process)
            if NAMESPACES.of_channel(publication.event.channel).debounce_ms
            and not is_lost(publication)
        }
        taken = [
            (event, at, process)
            for process, life in enumerate(self._lives)
            for event, at in life.taken
            if NAMESPACES.of_channel(event.channel).debounce_ms
        ]
        dropped = Windows(processes, punctual=punctual).check(taken, placed)
        assert sum(life.merged for life in self._lives) == dropped

    def _check_presence(self) -> None:
        """Check what was told of who is there until everybody was sent away."""
        known: set[Member] = set()
        for process, life in enumerate(self._lives):
            told = [
                (publication.event, at)
                for publication, at in self._told_by(process)
                if is_written_by_presence(publication.event)
            ]
            its = stays(life.moves, of_before=known, born=life.born)
            check_told(its, told, life.died, is_cut=life.ended is not End.ORDERLY)
            for event, _ in told:
                assert event.key is not None
                member = event.channel, event.key
                (known.discard if event.type == LEAVE else known.add)(member)
            self._check_last_lists(life, its)

    def _check_last_lists(self, life: Life, stays_of: dict[Member, list[Stay]]) -> None:
        if life is not self._lives[-1]:
            return
        there = {member for member, its in stays_of.items() if its[-1].gone_at > life.died}
        for listing in self.last_lists:
            if presence_target(listing.channel) is not None:
                assert listing.entries.keys() == {
                    key for channel, key in there if channel == listing.channel
                }
