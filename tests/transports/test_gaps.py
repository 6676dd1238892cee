"""What a client is told of an event that it does not get, on every way to it."""

import json
import re

import pytest
from trio.testing import wait_all_tasks_blocked

from triocast.auth import Grant
from triocast.errors import Unavailable
from triocast.events import Event, Position, Publication
from triocast.resume import Gap, GapReason
from triocast.settings import Namespace, Namespaces
from triocast.transports.deflate import make_deflate
from triocast.transports.gaps import gap_text, loss_text
from triocast.transports.poll import Poll
from triocast.transports.sse import ENCODERS
from triocast.transports.websocket import TEXT_FRAMES, TEXT_MESSAGES
from triocast.wire import envelope
from triocast.wire.start import After

from .reading import blocks

READER = Grant(subscribe=("*",))


def position(seq):
    return Position("e", seq)


LOST = Publication(Event("t", b"1", "x", "2026-01-01T00:00:00.000Z"), position(7), 3)
WRITTEN = {"reason": "internal", "channels": ["x"], "from": "0.e.6", "to": "0.e.7"}


def test_a_gap_is_told_with_its_reason_and_bounds_and_where_to_go_on():
    gap = Gap(GapReason.EXPIRED, ("x", "n:*"), position(1), position(9), resume_at=position(1))
    told = json.loads(gap_text(gap))
    assert told.pop("timestamp")
    assert told == {
        "type": "gap",
        "data": {"reason": "expired", "channels": ["x", "n:*"], "from": "0.e.1", "to": "0.e.9"},
        "id": "0.e.1",
    }


def test_a_lost_event_is_a_gap_in_its_place():
    told = json.loads(loss_text(LOST))
    assert (told["type"], told["data"], told["id"]) == ("gap", WRITTEN, "0.e.7")


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_each_encoder_of_streams_frames_it_as_its_events(named, chunked):
    encoder = ENCODERS[named, chunked]
    frame = encoder.encode_gap(LOST)
    if chunked:
        size, frame = frame.split(b"\r\n", 1)
        assert int(size, 16) == len(frame) - 2
        frame = frame.removesuffix(b"\r\n")
    (block,) = blocks(frame)
    fields = dict(block)
    assert (fields["id"], fields.get("event")) == ("0.e.7", "gap" if named else None)
    assert json.loads(fields["data"])["data"] == WRITTEN


@pytest.mark.parametrize(
    "encoder",
    [TEXT_FRAMES, TEXT_MESSAGES, make_deflate(Namespaces({"x": Namespace(compress=True)}))],
)
def test_each_encoder_of_websockets_frames_it_as_text(encoder):
    text = encoder.encode_gap(LOST)
    if encoder is not TEXT_MESSAGES:
        text = re.sub(rb"\A\x81(?:\x7e..|[\x00-\x7d])", b"", text, flags=re.DOTALL)
    assert json.loads(text)["data"] == WRITTEN


# Over connections: an event that no encoder can encode.


@pytest.fixture
def poison(monkeypatch):
    encode = envelope.encode_publication

    def encode_publication(publication, **how):
        if publication.event.type == "poison":
            raise RuntimeError("injected")
        return encode(publication, **how)

    monkeypatch.setattr(envelope, "encode_publication", encode_publication)


def told_in(messages):
    return [
        (message["type"], message["id"]) for message in messages if message["type"] in ("t", "gap")
    ]


EXPECTED = [("t", "0.e.1"), ("gap", "0.e.2"), ("t", "0.e.3")]


@pytest.fixture
async def publish_three(parts):
    async def publish_three():
        for type in ("t", "poison", "t"):
            await parts.publish("x", type)
        await wait_all_tasks_blocked()

    return publish_three


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("live", [True, False])
async def test_a_stream_gets_all_but_the_lost_event(parts, open_sse, publish_three, live):
    if live:
        client = open_sse(channels=("x",))
        await client.read()
        await publish_three()
    else:
        await publish_three()
        client = open_sse(channels=("x",), start=After(position(0)))
    read = [dict(block) for block in blocks(await client.read())]
    assert told_in(json.loads(block["data"]) for block in read if "data" in block) == EXPECTED
    assert client.connection.reason is None
    # Whoever broke off behind the gap does not get it again, and loses nothing.
    again = open_sse(id="s2", channels=("x",), start=After(position(2)))
    read = [dict(block) for block in blocks(await again.read())]
    assert told_in(json.loads(b["data"]) for b in read if "data" in b) == EXPECTED[2:]
    assert parts.hub.stats.encode_failures == 1


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("live", [True, False])
async def test_a_websocket_gets_all_but_the_lost_event(open_websocket, publish_three, live):
    if live:
        client = await open_websocket(channels=("x",))
        await publish_three()
    else:
        await publish_three()
        client = await open_websocket(channels=("x",), start=After(position(0)))
    assert told_in(client.take()) == EXPECTED
    assert client.connection.reason is None


def poll(parts, after):
    start = After(position(after))
    return Poll(parts.connections, id="p", grant=READER, channels=["x"], start=start)


@pytest.mark.usefixtures("poison")
async def test_a_poll_is_answered_with_all_but_the_lost_event(parts, publish_three):
    await publish_three()
    answer = await poll(parts, 0).ask(10)
    assert told_in(map(json.loads, answer.envelopes)) == EXPECTED
    assert answer.cursor == "0.e.3"


@pytest.mark.usefixtures("poison")
async def test_a_poll_that_waits_is_answered_with_the_gap(nursery, parts):
    answers = []

    async def ask():
        answers.append(await poll(parts, 0).ask(10))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    await parts.publish("x", "poison")
    await wait_all_tasks_blocked()
    (answer,) = answers
    assert told_in(map(json.loads, answer.envelopes)) == [("gap", "0.e.1")]
    assert answer.cursor == "0.e.1"


async def test_a_poll_that_the_server_fails_is_to_be_asked_again(nursery, parts):
    question = poll(parts, 0)

    async def ask():
        with pytest.raises(Unavailable) as caught:
            await question.ask(10)
        assert caught.value.temporary

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    question.fail()
    await wait_all_tasks_blocked()
    assert parts.hub.subscribers() == ()
