"""Order and completeness under any interleaving of all that can happen to a fan-out.

Real engine, hub, publisher, presence and connections; hypothesis writes the script and the
network's behaviour. What each client's bytes mean is compared with the plain list of what was
accepted, and that with what publishers were answered.

A store's threads are played by tasks, and the clock is a mock one: so a script is always played
alike. `examples` has those that have found something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from trio.testing import MockClock

from triocast import clock as clock_module
from triocast import connection as connection_module
from triocast import hub as hub_module
from triocast import outbox as outbox_module
from triocast import presence as presence_module
from triocast import resume as resume_module
from triocast import turns as turns_module
from triocast.engines import memory as memory_module

from . import examples
from .attendance import RETURN_SECONDS
from .script import DEBOUNCE, DOCUMENTS, FAN_OUT, OVERFLOW, PRESENCE, interrupted, scripts
from .steps import Step
from .stores import STORES, Store
from .world import World

Test = TypeVar("Test", bound=Callable[..., Any])


@pytest.fixture(scope="module", autouse=True)
def others_get_their_turn_between_any_two_clients_and_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns_module, "SLICE_SECONDS", -1.0)
        patch.setattr(turns_module, "LONGEST_SLICE_SECONDS", -1.0)
        patch.setattr(hub_module, "WRITES_IN_A_ROW", 1)
        patch.setattr(memory_module, "_EVENTS_PER_LOOK", 1)
        patch.setattr(resume_module, "PAGE_EVENTS", 4)
        patch.setattr(connection_module, "HELD_AT_ONCE", 2)
        yield


@pytest.fixture(scope="module", autouse=True)
def a_script_is_played_alike_each_time() -> Iterator[None]:
    """Also to the byte, which matters to those who take so many bytes at a time."""
    with pytest.MonkeyPatch.context() as patch:
        time = SimpleNamespace(time_ns=lambda: int(trio.current_time() * 10**9))
        patch.setattr(clock_module, "time", time)
        patch.setattr(presence_module, "RETURN_SECONDS", RETURN_SECONDS)
        yield


@pytest.fixture
def outboxes_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being written is nobody's to change: of all that waits it is a small part."""
    monkeypatch.setattr(connection_module, "JOIN_BYTES", 1_500)
    monkeypatch.setattr(outbox_module, "LEAST_FOR_LOSSES", 800)


PLAYS = settings(
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
"""As many as the profile says."""

INTERRUPTED_PLAYS = settings(PLAYS, max_examples=max(1, PLAYS.max_examples * 3 // 5))
"""Fewer, as each is of several processes."""

ON_EACH_STORE = pytest.mark.parametrize("open_store", STORES.values(), ids=STORES)
TURNS = range(10)


def each(scripts: Iterable[list[Step]]) -> Callable[[Test], Test]:
    """Have a test play these scripts, too."""

    def decorate(test: Test) -> Test:
        for script in scripts:
            test = example(script=script)(test)
        return test

    return decorate


@ON_EACH_STORE
@PLAYS
@given(script=scripts(FAN_OUT))
@each(map(examples.breaks_while_its_event_is_to_be_kept, TURNS))
@each(map(examples.is_sent_away_while_its_backlog_is_read, TURNS))
@each(map(examples.much_comes_before_its_backlog_is_read, TURNS))
def test_everybody_gets_what_is_due_once_in_order_and_whole(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@PLAYS
@given(script=scripts(OVERFLOW))
@each(map(examples.unsubscribes_within_a_batch, TURNS))
@pytest.mark.usefixtures("outboxes_are_small")
def test_who_is_slow_misses_what_the_policy_says_and_is_told(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@PLAYS
@given(script=scripts(DOCUMENTS))
@example(script=examples.rivals_find_the_disk_full())
def test_of_writers_who_race_one_wins_and_its_event_comes_with_it(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@PLAYS
@given(script=scripts(PRESENCE))
def test_lists_and_the_changes_behind_them_lead_to_who_is_there(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@PLAYS
@given(script=scripts(DEBOUNCE))
@example(script=examples.an_urgent_event_has_a_documents_key())
def test_of_events_that_come_too_fast_the_first_and_the_last_come_in_time(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@INTERRUPTED_PLAYS
@given(script=scripts(interrupted(FAN_OUT)))
def test_nobody_misses_anything_untold_however_processes_end(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@INTERRUPTED_PLAYS
@given(script=scripts(interrupted(OVERFLOW)))
@pytest.mark.usefixtures("outboxes_are_small")
def test_who_is_slow_comes_back_to_another_process(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@INTERRUPTED_PLAYS
@given(script=scripts(interrupted(DOCUMENTS)))
@each(map(examples.callers_are_cancelled_as_their_work_is_handed_over, range(20)))
@each(map(examples.is_killed_while_something_is_written, range(20)))
def test_what_was_acknowledged_stays_written_and_is_written_once(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@INTERRUPTED_PLAYS
@given(script=scripts(interrupted(PRESENCE)))
def test_who_was_there_when_a_process_ended_comes_back_or_is_told_of(open_store, script):
    play(open_store, script)


@ON_EACH_STORE
@INTERRUPTED_PLAYS
@given(script=scripts(interrupted(DEBOUNCE)))
def test_what_a_process_held_comes_from_the_next(open_store, script):
    play(open_store, script)


def play(open_store: Callable[[], AbstractContextManager[Store]], script: list[Step]) -> None:
    with open_store() as store:
        world = World(store)
        trio.run(world.play, script, clock=MockClock(autojump_threshold=0))
        world.check()
