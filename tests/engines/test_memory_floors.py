"""What the memory engine still knows of what it has forgotten: floors, ``prev``, and its price."""

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from triocast.engines import order
from triocast.engines.memory import MemoryEngine
from triocast.engines.rings import EVENT_OVERHEAD, MOST_NAMESPACES
from triocast.events import Event

EVERY = 10**6
CHANNELS = ["a", "b", "x:a", "x:b", "y:a", "$user:u", "$conn:c"]


def event(channel: str = "news", size: int = 0) -> Event:
    return Event("T", b"1" * size, channel, "2026-01-31T12:00:00.123Z")


def engine_of(events: int, kept: int) -> MemoryEngine:
    """An engine for so many events of a channel, and so many empty ones in all."""
    return MemoryEngine(epoch="e", history_events=events, history_bytes=kept * EVENT_OVERHEAD)


async def kept(engine: MemoryEngine, *channels: str) -> list[int]:
    history = await engine.history(channels, after=0, limit=EVERY)
    return [publication.seq for publication in history.publications]


class Model:
    """The documented rules on a plain list of (seq, channel, bytes)."""

    def __init__(self, history_events: int, history_bytes: int) -> None:
        self.most, self.bound = history_events, history_bytes
        self.rows: list[tuple[int, str, int]] = []
        self.seq = 0
        self.last: dict[str, int] = {}
        self.removed: dict[str, int] = {}
        self.namespaces: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        return sum(size for _, _, size in self.rows)

    def publish(self, channel: str, size: int) -> int:
        """Return the ``prev`` that the event has to carry."""
        self.seq += 1
        if channel.startswith("$conn:"):
            return 0
        if channel not in self.last:
            self.removed[channel] = self.last[channel] = self.floor(channel)
        prev, self.last[channel] = self.last[channel], self.seq
        self.rows.append((self.seq, channel, size + EVENT_OVERHEAD))
        if len(self.of(channel)) > self.most:
            self.remove(self.of(channel)[0])
        while self.bytes > self.bound:
            self.remove(self.rows[0])
        return prev

    def of(self, channel: str) -> list[tuple[int, str, int]]:
        return [row for row in self.rows if row[1] == channel]

    def remove(self, row: tuple[int, str, int]) -> None:
        seq, channel, _ = row
        self.rows.remove(row)
        self.removed[channel] = seq
        if not self.of(channel):
            namespace = self.namespace(channel)
            forgotten = max(self.namespaces.get(namespace, 0), self.last.pop(channel))
            self.namespaces[namespace] = forgotten
            del self.removed[channel]

    @staticmethod
    def namespace(channel: str) -> str:
        return channel.split(":")[0] if ":" in channel else "default"

    def floor(self, channel: str) -> int:
        forgotten = self.namespaces.get(self.namespace(channel), 0)
        return self.removed.get(channel, forgotten)


batches = st.lists(
    st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from([0, 1, 700, 3000])), max_size=4),
    max_size=25,
)


@pytest.mark.parametrize("piece", [2, order.MAX_PIECE])
@given(batches=batches, most=st.integers(1, 4), bound=st.integers(500, 7_000), after=st.integers(0))
@example([[("a", 0)]] * 3 + [[("b", 0)]] * 9, 2, 5 * EVENT_OVERHEAD, 0)
def test_floors_and_prevs_agree_with_a_plain_list(piece, batches, most, bound, after):
    async def scenario():
        engine = MemoryEngine(epoch="e", history_events=most, history_bytes=bound)
        model = Model(most, bound)
        for batch in batches:
            prevs = [model.publish(channel, size) for channel, size in batch]
            published = await engine.publish([event(channel, size) for channel, size in batch])
            assert [p.prev for p in published] == prevs
            assert engine.kept_bytes == model.bytes <= bound
        assert engine.head.seq == model.seq
        history = await engine.history(CHANNELS, after=after, limit=EVERY)
        assert [(p.seq, p.event.channel) for p in history.publications] == [
            (seq, channel) for seq, channel, _ in model.rows if seq > after
        ]
        assert history.floors == {channel: model.floor(channel) for channel in CHANNELS}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "MAX_PIECE", piece)  # with pieces that are full at once, and as it is
        trio.run(scenario)


async def test_quiet_channels_are_still_the_oldest_after_much_traffic():
    """What a busy channel has dropped is swept out of the order now and then."""
    engine = engine_of(events=1, kept=4)
    await engine.publish([event("quiet"), event("calm")])
    for _ in range(60):
        await engine.publish([event("busy") for _ in range(100)])
    last = engine.head.seq
    await engine.publish([event("x"), event("y")])
    assert await kept(engine, "quiet", "calm", "busy", "x", "y") == [2, last, last + 1, last + 2]
    await engine.publish([event("z")])
    assert await kept(engine, "calm", "busy", "x", "y", "z") == list(range(last, last + 4))
    assert (await engine.history(["calm"], after=0, limit=1)).floors == {"calm": 2}


async def test_namespaces_that_were_heard_of_once_do_not_add_up():
    """A publisher may name a new namespace with every event; the bound holds all the same."""
    engine = engine_of(events=10, kept=10)
    for n in range(2 * MOST_NAMESPACES):
        await engine.publish([event(f"n{n}:x")])
    rings = engine._rings
    assert len(rings) == len(rings._namespaces) == 10
    assert len(rings._namespace_floors) <= MOST_NAMESPACES
    history = await engine.history(["n0:x"], after=0, limit=1)
    assert history.floors["n0:x"] >= 1  # what was merged is still known to be gone


async def test_names_count_like_data():
    """The bound is one of memory: a key, tags and long names are kept with the event."""
    engine = engine_of(events=10, kept=100)
    await engine.publish([event()])
    small = engine.kept_bytes
    key, tags = "k" * 255, tuple(f"{n:064}" for n in range(16))
    await engine.publish(
        [Event("T" * 128, b"", "c" * 255, "2026-01-31T12:00:00.123Z", key, tags, "u" * 200)]
    )
    assert engine.kept_bytes >= 2 * small + 255 + 16 * 64


async def test_what_was_forgotten_of_a_channel_is_no_gap_in_the_broadcasts():
    """Every connection hears ``$all``: a floor that is too high there is a gap for everybody."""
    engine = engine_of(events=10, kept=2)
    await engine.publish([event("news"), event("x:a"), event("x:a")])
    history = await engine.history(["$all", "news"], after=0, limit=1)
    assert history.floors == {"$all": 0, "news": 1}
    await engine.publish([event("$all"), event("x:a"), event("x:a")])
    history = await engine.history(["$all", "weather"], after=0, limit=1)
    assert history.floors == {"$all": 4, "weather": 1}
