"""Order and completeness under any interleaving of all that can happen to a fan-out.

Real engine, hub, publisher and connections; hypothesis writes the script and the network's
behaviour. What each client's bytes mean is compared with the plain list of what was accepted.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from trio.testing import MockClock

from triocast import connection as connection_module
from triocast import hub as hub_module
from triocast import outbox as outbox_module

from .script import FAN_OUT, OVERFLOW, scripts
from .world import World


@pytest.fixture(scope="module", autouse=True)
def others_get_their_turn_between_any_two_clients() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "SLICE_SECONDS", -1.0)
        patch.setattr(hub_module, "LONGEST_SLICE_SECONDS", -1.0)
        patch.setattr(hub_module, "_WRITES_IN_A_ROW", 1)
        yield


@pytest.fixture
def outboxes_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being written is nobody's to change: of all that waits it is a small part."""
    monkeypatch.setattr(connection_module, "JOIN_BYTES", 1_500)
    monkeypatch.setattr(outbox_module, "LEAST_FOR_LOSSES", 800)


LONG = settings(
    max_examples=300,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


@LONG
@given(scripts(FAN_OUT))
def test_everybody_gets_what_is_due_once_in_order_and_whole(script):
    play(script)


@LONG
@given(scripts(OVERFLOW))
@pytest.mark.usefixtures("outboxes_are_small")
def test_who_is_slow_misses_what_the_policy_says_and_is_told(script):
    play(script)


def play(script):
    world = World()
    trio.run(world.play, script, clock=MockClock(autojump_threshold=0))
    world.check()
