"""Request bodies: pulled as they are read, bounded where they are read whole."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart import request
from werkzeug.exceptions import RequestEntityTooLarge

from triocast.errors import BadRequest
from triocast.web.body import RequestBody


class Sender:
    """An ASGI server's ``receive``: gives one message after the other, and counts them."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.asked = 0

    async def receive(self):
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return self.messages.pop(0)


def chunk(data, *, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


def body_of(*messages, announced=None, most=None):
    sender = Sender(*messages)
    body = RequestBody(announced, most)
    body.attach(sender.receive)
    return body, sender


@given(st.lists(st.binary(max_size=4), max_size=8))
def test_a_body_is_the_same_whole_or_in_chunks(chunks):
    async def scenario():
        messages = [*map(chunk, chunks), chunk(b"", more=False)]
        body, _ = body_of(*messages)
        assert await body == b"".join(chunks)
        body, _ = body_of(*messages)
        assert [part async for part in body] == [part for part in chunks if part]

    trio.run(scenario)


async def test_a_chunk_is_received_only_when_it_is_read():
    body, sender = body_of(chunk(b"a"), chunk(b"b"), chunk(b"c", more=False))
    assert sender.asked == 0
    assert await anext(body) == b"a"
    assert sender.asked == 1
    assert await body == b"bc"
    assert sender.asked == 3


async def test_nothing_is_received_behind_the_end():
    body, sender = body_of(chunk(b"a", more=False))
    assert await body == b"a"
    assert await body == b""
    with pytest.raises(StopAsyncIteration):
        await anext(body)
    assert sender.asked == 1


async def test_a_message_without_fields_is_an_empty_end():
    body, sender = body_of({"type": "http.request"})
    assert await body == b""
    assert sender.asked == 1


async def test_a_client_that_leaves_in_the_middle_is_a_bad_request():
    body, _ = body_of(chunk(b"a"), {"type": "http.disconnect"})
    assert await anext(body) == b"a"
    with pytest.raises(BadRequest, match="ended before the body did"):
        await body
    with pytest.raises(StopAsyncIteration):
        await anext(body)


async def test_a_body_that_is_announced_as_too_large_is_not_read():
    body, sender = body_of(chunk(b"abcd", more=False), announced=4, most=3)
    with pytest.raises(RequestEntityTooLarge):
        await body
    assert sender.asked == 0


@pytest.mark.parametrize("announced", [None, 0, 3])
async def test_a_body_that_becomes_too_large_is_read_no_further(announced):
    body, sender = body_of(chunk(b"ab"), chunk(b"cd"), chunk(b"ef"), announced=announced, most=3)
    with pytest.raises(RequestEntityTooLarge):
        await body
    assert sender.asked == 2


@pytest.mark.parametrize("most", [3, None])
async def test_a_body_may_be_as_large_as_the_bound(most):
    body, _ = body_of(chunk(b"ab"), chunk(b"c", more=False), announced=3, most=most)
    assert await body == b"abc"


async def test_a_stream_has_no_bound():
    body, _ = body_of(chunk(b"abcd"), chunk(b"efgh", more=False), announced=8, most=3)
    assert [part async for part in body] == [b"abcd", b"efgh"]


async def test_what_quart_clears_stays_to_be_read():
    """Quart clears a body that it has parsed; ours keeps nothing that could be cleared."""
    body, _ = body_of(chunk(b"a"), chunk(b"b", more=False))
    assert await anext(body) == b"a"
    body.clear()
    assert await body == b"b"


async def test_an_application_gives_its_endpoints_such_bodies(app, client):
    @app.post("/echo")
    async def echo():
        assert isinstance(request.body, RequestBody)
        return b"".join([part async for part in request.body])

    async def chunks():
        yield b"a"
        yield b"b"

    assert (await client.post("/echo", content=chunks())).content == b"ab"
