"""The clock by which idempotency records grow old: it goes on whatever the time of day does."""

import time
from contextlib import asynccontextmanager

import pytest
import trio

from triocast.engines.sqlite import SQLiteEngine, file
from triocast.engines.sqlite.ages import Ages
from triocast.events import Event, Once

DAY = 86_400


class Clocks:
    """The machine's clocks, which a test moves."""

    def __init__(self, monkeypatch):
        self.of_day = 1_800_000_000.0
        self.since_start = 500.0
        monkeypatch.setattr(time, "time", lambda: self.of_day)
        monkeypatch.setattr(time, "monotonic", lambda: self.since_start)

    def advance(self, seconds):
        self.of_day += seconds
        self.since_start += seconds


@pytest.fixture
def clocks(monkeypatch):
    return Clocks(monkeypatch)


@pytest.mark.parametrize("jump", [-10 * DAY, 10 * DAY])
def test_time_goes_on_whatever_the_time_of_day_does(clocks, jump):
    ages = Ages.continued(None, newest=0)
    assert ages.now() == clocks.of_day
    began = ages.now()
    clocks.advance(5)
    clocks.of_day += jump
    assert ages.now() == began + 5
    again = Ages.continued(ages.offset, newest=began)
    assert again.now() == began + 5


def test_time_is_never_before_the_newest_record(clocks):
    newest = clocks.of_day + DAY
    for offset in (None, 0.0):
        assert Ages.continued(offset, newest=newest).now() == newest


@asynccontextmanager
async def opened(path):
    engine = SQLiteEngine(
        path, history_events=9, history_bytes=10**6, idempotency_seconds=DAY, durable=False
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
    finally:
        engine.close()


async def publish(engine):
    """Publish under one key; return where the event stands."""
    once = Once("ann", "k", 0, b"1")
    event = Event("T", b"1", "a", "2026-01-31T12:00:00.123Z", once=once)
    (accepted,) = await engine.publish([event])
    return accepted.seq


class TestKeys:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "events.db"

    @pytest.mark.parametrize("jump", [-10 * DAY, 10 * DAY])
    async def test_a_jump_of_the_time_of_day_publishes_nothing_twice(self, path, clocks, jump):
        async with opened(path) as engine:
            assert await publish(engine) == 1
            clocks.of_day += jump
            await engine.trim()
            assert await publish(engine) == 1
        clocks.of_day += jump
        async with opened(path) as engine:
            await engine.trim()
            assert await publish(engine) == 1

    async def test_a_key_is_forgotten_when_its_time_is_over(self, path, clocks):
        async with opened(path) as engine:
            assert await publish(engine) == 1
            clocks.advance(DAY - 1)
        async with opened(path) as engine:
            assert await publish(engine) == 1
            clocks.advance(3)
            assert await publish(engine) == 2

    @pytest.mark.parametrize(
        ("passed", "seq"), [(DAY / 2, 1), (2 * DAY, 2), (-10 * DAY, 1)], ids=["day", "2", "back"]
    )
    @pytest.mark.parametrize("boot", ["another", ""])
    async def test_after_a_start_of_the_machine_the_time_of_day_says_what_passed(
        self, path, clocks, monkeypatch, boot, passed, seq
    ):
        async with opened(path) as engine:
            assert await publish(engine) == 1
        clocks.of_day += passed
        clocks.since_start = 3.0
        monkeypatch.setattr(file, "_boot_id", lambda: boot)
        async with opened(path) as engine:
            assert await publish(engine) == seq

    async def test_a_record_of_no_time_does_not_keep_a_store_closed(self, path, clocks):
        async with opened(path) as engine:
            await publish(engine)
            engine._file.writer.execute("UPDATE published SET at = 'x'")
        async with opened(path) as engine:
            assert engine._file.ages.now() == clocks.of_day
            assert await publish(engine) == 2
            await engine.trim()
            assert await publish(engine) == 2
