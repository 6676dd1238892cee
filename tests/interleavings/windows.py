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
class Arrival:
    """An event as the engine took it: when, and when it accepted it, if it did."""

    event: Event
    at: float
    publication: Publication | None
    accepted_at: float

    @property
    def slot(self) -> tuple[str, str, str | None]:
        return self.event.channel, self.event.type, self.event.key

    @property
    def was_held(self) -> bool:
        return self.publication is None or self.accepted_at > self.at


def check_windows(
    added: Iterable[tuple[Event, float]],
    accepted: Mapping[int, tuple[Publication, float]],
    *,
    punctual: bool,
) -> int:
    """Check what became of the events that an engine took; return how many it dropped.

    ``accepted`` has those with a position by their numbers. Where the store did not always do its
    work, they need not be ``punctual``.
    """
    groups: dict[tuple[str, str | None], list[Arrival]] = {}
    for event, at in added:
        publication, accepted_at = accepted.get(number_of(event), (None, at))
        arrival = Arrival(event, at, publication, accepted_at)
        groups.setdefault((event.channel, event.key), []).append(arrival)
    for (_, key), arrivals in groups.items():
        if key is None:
            assert not any(each.was_held for each in arrivals), f"held without a key: {arrivals}"
        came = [each for each in arrivals if each.publication is not None]
        seqs = [each.publication.seq for each in came]
        assert seqs == sorted(seqs), f"out of order: {came}"
        assert arrivals[-1].publication is not None, f"the last is missing: {arrivals[-1]}"
        for index, arrival in enumerate(arrivals):
            _check_arrival(arrival, arrivals[:index], arrivals[index + 1 :], punctual=punctual)
        if key is not None:
            _check_pace(came)
    return sum(each.publication is None for arrivals in groups.values() for each in arrivals)


def _check_arrival(
    arrival: Arrival, before: Sequence[Arrival], after: Sequence[Arrival], *, punctual: bool
) -> None:
    if arrival.event.urgent:
        assert not arrival.was_held, f"urgent, but not accepted at once: {arrival}"
    if not arrival.was_held:
        return
    # It waits for the end of a window, which another one of its slot has begun.
    begun = [
        each.accepted_at
        for each in before
        if each.slot == arrival.slot and each.publication and each.accepted_at <= arrival.at
    ]
    assert begun, f"nothing was before it: {arrival}"
    end = begun[-1] + WINDOW_SECONDS if punctual else float("inf")
    assert arrival.at <= end + TOLERANCE, f"held although its window was over: {arrival}"
    if arrival.publication is not None:
        assert arrival.accepted_at <= end + TOLERANCE, f"too late: {arrival}"
        return
    assert any(
        each.at <= end + TOLERANCE and (each.slot == arrival.slot or each.event.urgent)
        for each in after
    ), f"dropped for nothing: {arrival}"


def _check_pace(came: Sequence[Arrival]) -> None:
    """Check that those of a slot come one in a window, unless another type follows at once."""
    slots: dict[object, list[Arrival]] = {}
    for arrival in came:
        slots.setdefault(arrival.slot, []).append(arrival)
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
