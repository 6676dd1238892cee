"""NDJSON: each line stands alone, however the bytes are cut."""

import itertools

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triocast.auth import EVERYTHING
from triocast.engines import MemoryEngine
from triocast.errors import BadRequest, IdempotencyConflict, InvalidEvent, Overloaded
from triocast.publisher import Publisher
from triocast.web.lines import publish_lines

LONGEST = 20
TOGETHER = MemoryEngine.most_together


class Recorder(Publisher):
    """A real publisher that notes what it took, and can be told when to be overloaded."""

    def __init__(self):
        engine = MemoryEngine(epoch="e", history_events=0, history_bytes=0)
        super().__init__(engine, max_event_bytes=1_000, wait_seconds=1)
        self.data: list[bytes] = []
        self.sizes: list[int] = []
        self.overloaded_after: int | None = None

    async def publish(self, events):
        if self.overloaded_after is not None and len(self.data) >= self.overloaded_after:
            raise Overloaded("no room")
        publications = await super().publish(events)
        self.data += (event.data for event in events)
        self.sizes.append(len(events))
        return publications

    def event_of_line(self, line):
        if b"!" in line:
            raise InvalidEvent("a bad line")
        return self.event(EVERYTHING, channel="news", type="T", data=line.strip())


class Stream:
    """A body's chunks, with a pause before each, and perhaps an error behind them."""

    def __init__(self, chunks, *, pause=0.0, error=None):
        self.chunks = iter(chunks)
        self.pause = pause
        self.error = error

    def __aiter__(self):
        return self

    async def __anext__(self):
        await trio.sleep(self.pause)
        for chunk in self.chunks:
            return chunk
        raise self.error or StopAsyncIteration


async def publish(publisher, chunks, **how):
    return await publish_lines(
        publisher,
        Stream(chunks, **how),
        publisher.event_of_line,
        max_line_bytes=LONGEST,
        silence_seconds=10,
    )


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(c % (len(body) + 1) for c in cuts)})
    return [body[a:b] for a, b in itertools.pairwise(edges)]


def model(body: bytes) -> tuple[list[bytes], int | None, str | None]:
    """What is published, and the line and code of the error."""
    published = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if len(line) > LONGEST:
            return published, number, "too_large"
        if b"!" in line:
            return published, number, "invalid_event"
        if line.strip():
            published.append(line.strip())
    return published, None, None


lines = st.lists(st.text("ab! \r", max_size=LONGEST + 5).map(str.encode), max_size=10)
good_lines = st.lists(st.text("ab \r", max_size=LONGEST).map(str.encode), max_size=10)


@settings(max_examples=settings.default.max_examples * 6 // 10)
@given(
    (good_lines | lines).map(b"\n".join),
    st.lists(st.integers(0, 300), max_size=15),
)
@example(b" " * (LONGEST + 1) + b"\na", [])
@example(b"a" * (LONGEST + 1) + b"\na", [])
def test_the_result_does_not_depend_on_how_the_bytes_are_cut(body, cuts):
    async def scenario():
        for chunks in ([body], cut(body, cuts), [body[i : i + 1] for i in range(len(body))]):
            publisher = Recorder()
            progress = (await publish(publisher, chunks)).as_dict()
            published, line, code = model(body)
            assert publisher.data == published
            assert progress["published"] == len(published)
            if line is None:
                assert progress["error"] is None
            else:
                assert (progress["error"]["line"], progress["error"]["code"]) == (line, code)

    trio.run(scenario)


async def test_the_reply_names_the_first_and_the_last():
    publisher = Recorder()
    progress = await publish(publisher, [b"a\n\n  \r\nb\r\nc"])
    assert progress.as_dict() == {
        "published": 3,
        "pending": 0,
        "first": "0.e.1",
        "last": "0.e.3",
        "error": None,
    }
    assert publisher.data == [b"a", b"b", b"c"]


@pytest.mark.parametrize("body", [b"", b"\n", b"\n \n\r\n"])
async def test_a_body_of_nothing_publishes_nothing(body):
    progress = await publish(Recorder(), [body] if body else [])
    assert progress.as_dict() == {
        "published": 0,
        "pending": 0,
        "first": None,
        "last": None,
        "error": None,
    }


async def test_it_stops_at_the_first_bad_line():
    publisher = Recorder()
    progress = await publish(publisher, [b"a\nb\n!\nc\n", b"d\n"])
    assert publisher.data == [b"a", b"b"]
    assert progress.as_dict() == {
        "published": 2,
        "pending": 0,
        "first": "0.e.1",
        "last": "0.e.2",
        "error": {"line": 3, "code": "invalid_event", "message": "a bad line", "temporary": False},
    }


async def test_a_line_that_never_ends_is_refused_before_it_is_whole():
    publisher = Recorder()
    chunks = iter([b"xxxxx"] * 100)
    progress = await publish(publisher, chunks)
    assert progress.as_dict()["error"]["code"] == "too_large"
    assert len(list(chunks)) > 90


async def test_lines_are_published_as_they_arrive(nursery, autojump_clock):
    publisher = Recorder()
    nursery.start_soon(lambda: publish(publisher, [b"a\n", b"b\nc"], pause=5))
    await trio.sleep(6)
    assert publisher.data == [b"a"]
    await trio.sleep(60)
    assert publisher.data == [b"a", b"b", b"c"]


async def test_silence_ends_it(autojump_clock):
    publisher = Recorder()
    began = trio.current_time()
    progress = await publish(publisher, [b"a\nb"], pause=9)
    assert progress.error is None
    progress = await publish(publisher, [b"a\n", b"b\n"], pause=11)
    assert progress.error.code == "timeout"
    assert progress.error.temporary
    assert trio.current_time() - began < 30


async def test_a_cut_connection_leaves_what_was_published():
    publisher = Recorder()
    progress = await publish(publisher, [b"a\nb\nhal"], error=BadRequest("the connection ended"))
    assert publisher.data == [b"a", b"b"]
    assert progress.as_dict()["error"]["code"] == "bad_request"
    assert progress.published == 2


async def test_lines_that_come_together_are_published_together():
    publisher = Recorder()
    await publish(publisher, [b"a\n" * (2 * TOGETHER + 5)])
    assert publisher.sizes == [TOGETHER, TOGETHER, 5]


async def test_others_get_their_turn_within_a_large_chunk(nursery):
    publisher, turns = Recorder(), []

    async def count():
        while True:
            turns.append(len(publisher.data))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(count)
    await publish(publisher, [b"a\n" * 50 * TOGETHER])
    assert len(set(turns)) > 20
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("after", [0, TOGETHER])
@pytest.mark.parametrize("rest", [b"", b"!\n"])
async def test_when_there_is_no_room_the_line_is_the_first_that_was_not_published(after, rest):
    publisher = Recorder()
    publisher.overloaded_after = after
    progress = await publish(publisher, [b"a\n" * (TOGETHER + 10) + rest])
    error = progress.as_dict()["error"]
    assert (error["code"], error["temporary"]) == ("overloaded", True)
    assert progress.published == after
    assert error["line"] == after + 1


async def test_an_engine_may_want_more_together_and_others_get_their_turn_all_the_same(nursery):
    publisher, turns = Recorder(), []
    publisher.most_together = 10 * TOGETHER

    async def count():
        while True:
            turns.append(len(publisher.data))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(count)
    await publish(publisher, [b"a\n" * 20 * TOGETHER])
    assert publisher.sizes == [10 * TOGETHER] * 2
    assert len(turns) > 15
    nursery.cancel_scope.cancel()


async def test_one_line_that_cannot_be_kept_costs_few_publishes():
    """Each may take a commit: it is found by halves, and the lines before it are published."""
    count, bad = 4 * TOGETHER, 3 * TOGETHER + 10
    publisher = Recorder()
    publisher.tries = 0
    real = publisher.publish

    async def publish(events):
        publisher.tries += 1
        if any(event.data == b"%d" % bad for event in events):
            raise IdempotencyConflict("used before")
        return await real(events)

    publisher.publish = publish
    body = b"".join(b"%d\n" % n for n in range(1, count + 1))
    progress = await publish_lines(
        publisher,
        Stream([body]),
        publisher.event_of_line,
        max_line_bytes=LONGEST,
        silence_seconds=5,
    )
    assert (progress.published, progress.line) == (bad - 1, bad)
    assert isinstance(progress.error, IdempotencyConflict)
    assert publisher.data == [b"%d" % n for n in range(1, bad)]
    assert publisher.tries <= 4 + 2 * TOGETHER.bit_length()
