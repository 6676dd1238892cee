"""What bounds HTTP/2: the heads of frames and stream buffers."""

from hypercorn.trio.worker_context import EventWrapper
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from triocast.server.http2 import PREFACE, FrameHeads, SafeStreamBuffer


def frame(length: int) -> bytes:
    return length.to_bytes(3, "big") + bytes(6) + bytes(length)


@given(st.lists(st.integers(0, 300), max_size=8), st.data())
def test_frame_lengths_are_known_whatever_the_chunks(lengths, data):
    stream = PREFACE + b"".join(frame(length) for length in lengths)
    heads = FrameHeads()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        heads.feed(stream[:size])
        stream = stream[size:]
    assert heads.longest == max(lengths, default=0)


def test_a_length_is_known_before_its_payload_comes():
    heads = FrameHeads()
    heads.feed(PREFACE + (1 << 23).to_bytes(3, "big") + bytes(6))
    assert heads.longest == 1 << 23


async def test_a_writer_waits_until_little_is_left(nursery, autojump_clock):
    buffer = SafeStreamBuffer(EventWrapper)
    written = []

    async def write() -> None:
        for number in range(4):
            await buffer.push(bytes(20_000))
            written.append(number)

    nursery.start_soon(write)
    await wait_all_tasks_blocked()
    assert written == [0]  # the second one made it too much, and waits
    await buffer.pop(100)
    await wait_all_tasks_blocked()
    assert written == [0]  # little was taken, so much is left
    await buffer.pop(39_000)
    await wait_all_tasks_blocked()
    assert written == [0, 1, 2]
