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

from triocast import hub as hub_module

from .script import scripts
from .world import World


@pytest.fixture(scope="module", autouse=True)
def others_get_their_turn_between_any_two_clients() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "SLICE_SECONDS", -1.0)
        patch.setattr(hub_module, "LONGEST_SLICE_SECONDS", -1.0)
        patch.setattr(hub_module, "_WRITES_IN_A_ROW", 1)
        yield


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(scripts)
def test_everybody_gets_what_is_due_once_in_order_and_whole(script):
    world = World()
    trio.run(world.play, script, clock=MockClock(autojump_threshold=0))
    world.check()
