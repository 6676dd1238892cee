"""What may become of events that come too fast, and when.

An event is one of a slot: of its channel, type and key. What counts in the end is the channel and
key, whose events stay in order whatever their types.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import attrs

from triocast.events import Event, Publication

from .ledger import number_of
from .steps import WINDOW_MS

WINDOW_SECONDS = WINDOW_MS / 1_000
TOLERANCE = 1e-6


@attrs.frozen
class Process:
    """When a process began and ended; ``forgets`` says whether it took with it what it held."""

    born: float
    died: float
    was_cut: bool
    forgets: bool


@attrs.frozen
class Arrival:
    """An event as the engine took it: when, and when it accepted it, if it did.

    ``process`` and ``accepted_by`` number the processes of one store.
    """

    event: Event
    at: float
    process: int
    publication: Publication | None
    accepted_at: float
    accepted_by: int

    @property
    def slot(self) -> tuple[str, str, str | None]:
        return self.event.channel, self.event.type, self.event.key

    @property
    def was_held(self) -> bool:
        return self.publication is None or self.accepted_at > self.at or self.is_taken_over

    @property
    def is_taken_over(self) -> bool:
        """Whether it was held when its process ended, and accepted by a later one."""
        return self.accepted_by > self.process


@attrs.frozen
class Placed:
    """An event with its position: when it got that, and from which process."""

    publication: Publication
    at: float
    process: int


class Windows:
    """What became of events that came too fast, in one or more processes on one store.

    Where the store did not always do its work, they need not be ``punctual``.
    """

    def __init__(self, processes: Sequence[Process], *, punctual: bool) -> None:
        self._processes = processes
        self._punctual = punctual

    def check(self, taken: Iterable[tuple[Event, float, int]], placed: Mapping[int, Placed]) -> int:
        """Check what became of the events that engines took; return how many were dropped.

        ``taken`` has when, and by which process; ``placed`` those with a position, by their
        numbers.
        """
        groups: dict[tuple[str, str | None], list[Arrival]] = {}
        for event, at, process in taken:
            found = placed.get(number_of(event))
            arrival = (
                Arrival(event, at, process, None, at, process)
                if found is None
                else Arrival(event, at, process, found.publication, found.at, found.process)
            )
            groups.setdefault((event.channel, event.key), []).append(arrival)
        dropped = 0
        for (_, key), arrivals in groups.items():
            if key is None:
                held = [each for each in arrivals if each.was_held]
                assert not held, f"held without a key: {held}"
            came = [each for each in arrivals if each.publication is not None]
            seqs = [each.publication.seq for each in came]
            assert seqs == sorted(seqs), f"out of order: {came}"
            for index, arrival in enumerate(arrivals):
                before, after = arrivals[:index], arrivals[index + 1 :]
                dropped += self._check_arrival(arrival, before, after)
            if key is not None:
                _check_pace(came)
        return dropped

    def _check_arrival(
        self, arrival: Arrival, before: Sequence[Arrival], after: Sequence[Arrival]
    ) -> bool:
        """Check one event; say whether it was dropped for another one."""
        if arrival.event.urgent:
            assert not arrival.was_held, f"urgent, but not accepted at once: {arrival}"
        if not arrival.was_held:
            return False
        # It waits for the end of a window, which another one of its slot has begun.
        begun = [
            each.accepted_at
            for each in before
            if each.slot == arrival.slot
            and each.publication
            and each.accepted_at <= arrival.at
            and (each.accepted_by == arrival.process or not self._punctual)
        ]
        assert begun, f"nothing was before it: {arrival}"
        end = begun[-1] + WINDOW_SECONDS if self._punctual else float("inf")
        assert arrival.at <= end + TOLERANCE, f"held although its window was over: {arrival}"
        process = self._processes[arrival.process]
        if arrival.is_taken_over:
            assert process.was_cut and process.died <= end + TOLERANCE, f"too late: {arrival}"
            self._check_taken_over(arrival)
            return False
        if arrival.publication is not None:
            assert arrival.accepted_at <= end + TOLERANCE, f"too late: {arrival}"
            return False
        if any(
            each.at <= end + TOLERANCE
            and (each.process == arrival.process or not self._punctual)
            and (each.slot == arrival.slot or each.event.urgent)
            for each in after
        ):
            return True
        is_lost = process.was_cut and process.forgets and process.died <= end + TOLERANCE
        assert is_lost, f"dropped for nothing: {arrival}"
        return False

    def _check_taken_over(self, arrival: Arrival) -> None:
        """Check that it came before anything else in the first process that lived long enough."""
        if not self._punctual:
            return
        born = self._processes[arrival.accepted_by].born
        assert arrival.accepted_at <= born + TOLERANCE, f"taken over too late: {arrival}"
        for process in self._processes[arrival.process + 1 : arrival.accepted_by]:
            assert process.died <= process.born + TOLERANCE, f"passed over: {arrival}"


def _check_pace(came: Sequence[Arrival]) -> None:
    """Check that those of a slot come one in a window, unless another type follows at once.

    A process begins with no windows.
    """
    slots: dict[object, list[Arrival]] = {}
    for arrival in came:
        slots.setdefault((arrival.slot, arrival.accepted_by), []).append(arrival)
    for arrivals in slots.values():
        for earlier, later in itertools.pairwise(arrivals):
            assert (
                later.accepted_at - earlier.accepted_at >= WINDOW_SECONDS - TOLERANCE
                or later.event.urgent
                or any(
                    other.slot != later.slot
                    and other.accepted_at == later.accepted_at
                    and other.publication.seq > later.publication.seq
                    for other in came
                )
            ), f"too early: {later}"
