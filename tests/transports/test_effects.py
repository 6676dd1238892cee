"""How what signaling decides reaches connections: together where it can, and never late."""

import json

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast import turns
from triocast.auth import Grant, RoomRight
from triocast.errors import CloseCode, EndReason, Unauthorized
from triocast.signaling.delivery import Close, Deliver
from triocast.signaling.limits import Limits
from triocast.signaling.peerjs import Owner, PeerLimits
from triocast.signaling.rooms import Rooms
from triocast.transports.effects import Recipients
from triocast.transports.peerjs import PeerJS, PeerJSConnection
from triocast.transports.signaling import Signaling, SignalingConnection
from triocast.wire.websocket import frame

RATE = 200


# Recipients.


@attrs.define
class Noted:
    """A connection that keeps what is done to it, in one log with others."""

    id: str
    log: list
    fails_into: Recipients | None = None

    def tell(self, messages):
        self.log.append((self.id, messages))
        if self.fails_into is not None:
            self.fails_into.leave(self)
            self.fails_into.carry_out([Deliver("b", b"a failed")])

    def end(self, reason):
        self.log.append((self.id, reason))


@pytest.fixture(autouse=True)
def no_turn_is_over(monkeypatch):
    """What is written at once does not depend on how busy this machine is."""
    monkeypatch.setattr(turns, "now", lambda: 0.0)


@pytest.fixture
def log():
    return []


@pytest.fixture
def recipients(log):
    made = Recipients()
    for id in "abc":
        made.enter(Noted(id, log))
    return made


def test_a_connection_that_fails_is_ended_and_hurts_nobody(recipients, log, caplog):
    class Broken(Noted):
        def tell(self, messages):
            raise RuntimeError("injected")

    recipients.enter(Broken("a", log))
    recipients.carry_out([Deliver("a", b"1"), Deliver("b", b"2"), Close("c", CloseCode.KICKED, "")])
    assert log == [("a", EndReason.SERVER_ERROR), ("b", [b"2"]), ("c", EndReason.KICKED)]
    assert "injected" in caplog.text


def test_a_connection_that_cannot_even_be_ended_hurts_nobody(recipients, log, caplog):
    class Broken(Noted):
        def end(self, reason):
            raise RuntimeError("injected")

    recipients.enter(Broken("a", log))
    recipients.carry_out([Close("a", CloseCode.KICKED, ""), Deliver("b", b"2")])
    assert log == [("b", [b"2"])]
    assert "connection a could not be ended" in caplog.text


def test_what_is_for_one_is_sent_at_once(recipients, log):
    recipients.put_off([Deliver("a", b"1"), Deliver("b", b"2")])
    recipients.put_off([Deliver("a", b"3")])
    assert log == []
    recipients.carry_out([Deliver("a", b"4"), Deliver("gone", b"5")])
    assert log == [("a", [b"1", b"3", b"4"]), ("b", [b"2"])]
    recipients.carry_out()
    assert len(log) == 2


def test_an_end_comes_after_what_was_before_it_and_before_what_follows(recipients, log):
    recipients.put_off([Deliver("a", b"1"), Deliver("b", b"2"), Close("a", CloseCode.KICKED, "")])
    recipients.carry_out([Deliver("b", b"3"), Close("b", CloseCode.NORMAL, "")])
    assert log == [
        ("a", [b"1"]),
        ("b", [b"2"]),
        ("a", EndReason.KICKED),
        ("b", [b"3"]),
        ("b", EndReason.LEFT),
    ]


def test_what_a_failure_brings_about_comes_after_what_was_decided(log):
    recipients = Recipients()
    recipients.enter(Noted("a", log, fails_into=recipients))
    recipients.enter(Noted("b", log))
    recipients.carry_out([Deliver("a", b"1"), Deliver("b", b"2"), Deliver("a", b"3")])
    assert log == [("a", [b"1", b"3"]), ("b", [b"2"]), ("b", [b"a failed"])]


# Connections.


@attrs.define
class WritingLink:
    """A link that takes everything at once, and notes each write."""

    chunks: trio.MemoryReceiveChannel
    writes: list = attrs.field(factory=list)
    taken_over = True

    def write_now(self, data):
        self.writes.append(bytes(data))
        return len(data)

    async def send(self, frames):
        raise AssertionError("nothing ever waits")

    async def receive(self):
        return await self.chunks.receive()

    async def finish(self, farewell, *, abruptly=False):
        self.writes.extend(map(bytes, farewell))

    def close(self):
        """Nothing is open."""


@attrs.frozen
class Client:
    link: WritingLink
    chunks: trio.MemorySendChannel

    async def say(self, *messages):
        """Send messages in one go, and let the server do what it does without waiting."""
        await self.chunks.send(b"".join(masked(each) for each in messages))
        await wait_all_tasks_blocked()

    def take(self):
        """Return the texts of each write since the last call."""
        writes, self.link.writes = self.link.writes, []
        return [[json.loads(text) for text in texts_of(write)] for write in writes]


def masked(message):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    plain = frame(1, text)
    head = plain[: -len(text)]
    return head[:1] + bytes((head[1] | 0x80,)) + head[2:] + bytes(4) + text


def texts_of(write):
    texts = []
    while write:
        start, length = (4, int.from_bytes(write[2:4], "big")) if write[1] == 126 else (2, write[1])
        if write[0] == 0x81:
            texts.append(write[start : start + length])
        write = write[start + length :]
    return texts


def _no_token(_token):
    raise Unauthorized("no")


@pytest.fixture
def enter(parts, nursery):
    async def enter(connection):
        connection.use_frames(b"")
        send, receive = trio.open_memory_channel(10)
        link = WritingLink(receive)
        nursery.start_soon(connection.run, link)
        await wait_all_tasks_blocked()
        return Client(link, send)

    return enter


def candidate(number):
    return {"candidate": f"candidate:{number} 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0"}


@pytest.fixture(params=["native", "peerjs"])
async def pair(request, parts, enter, mock_clock):
    """Two clients, and what makes a candidate of the first for the second.

    No time ever passes here: what comes, comes at once.
    """
    if request.param == "native":
        signaling = Signaling(Rooms(Limits(rate=RATE)))
        grant = Grant(rooms=(RoomRight("*"),))
        clients = [
            await enter(
                SignalingConnection(
                    parts.connections,
                    signaling,
                    id=id,
                    grant=grant,
                    grant_of=_no_token,
                    address=None,
                )
            )
            for id in "ab"
        ]
        for client in clients:
            await client.say({"type": "join", "room": "r"})
        ((joined,),) = clients[1].take()
        other = {"to": joined["peer"], "session": joined["peers"][0]["session"]}
        clients[0].take()
        yield *clients, lambda n: {"type": "candidate", "candidate": candidate(n), **other}
        return
    peerjs = PeerJS(PeerLimits())
    clients = []
    for id in "ab":
        connection = PeerJSConnection(
            parts.connections, peerjs, id=id, grant=Grant(), address=None, owner=Owner(id, "s")
        )
        clients.append(await enter(connection))
        clients[-1].take()
    about = {"type": "data", "connectionId": "dc"}

    def made(n):
        payload = {"candidate": candidate(n), **about}
        return {"type": "CANDIDATE", "dst": "b", "payload": payload}

    yield *clients, made


def numbers(texts):
    """The numbers of candidates, as either protocol has them."""
    lines = [text.get("payload", text)["candidate"]["candidate"] for text in texts]
    return [int(line.split()[0].partition(":")[2]) for line in lines]


async def test_what_comes_in_one_go_goes_out_in_one_write(pair):
    ann, bob, made = pair
    await ann.say(*map(made, range(10)))
    (texts,) = bob.take()
    assert numbers(texts) == list(range(10))
    await ann.say(made(10))
    await ann.say(made(11))
    assert [numbers(texts) for texts in bob.take()] == [[10], [11]]


async def test_something_wrong_keeps_nothing_else_from_being_passed_on(pair):
    ann, bob, made = pair
    await ann.say(made(0), b"garbage", made(1))
    assert numbers(text for texts in bob.take() for text in texts) == [0, 1]
    # PeerJS has no answer that would not be the end of the line.
    assert {text["type"] for texts in ann.take() for text in texts} <= {"error"}


# PeerJS has no answers but one.
@pytest.mark.parametrize("pair", ["native"], indirect=True)
async def test_answers_come_in_the_order_of_what_they_answer(pair):
    ann, _, made = pair
    nobody = made(0) | {"to": "nobody"}
    await ann.say(nobody, b"garbage", nobody, {"type": "pong"}, nobody)
    codes = [text["code"] for texts in ann.take() for text in texts]
    assert codes == ["peer-not-found", "bad-json", "peer-not-found", "peer-not-found"]


async def test_who_is_too_fast_is_read_at_the_rate_and_nothing_waits_for_the_rest(pair, mock_clock):
    ann, bob, made = pair
    await ann.say(*map(made, range(3 * RATE)))
    first = numbers(text for texts in bob.take() for text in texts)
    assert 1.9 * RATE <= len(first) <= 2 * RATE + 2  # their bytes count a little, too
    for _ in range(10):
        mock_clock.jump(1 / RATE)
        await wait_all_tasks_blocked()
    later = numbers(text for texts in bob.take() for text in texts)
    assert 9 <= len(later) <= 11
    assert first + later == list(range(len(first) + len(later)))
