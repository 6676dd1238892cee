"""The accept loop: errors that pass, those that do not, and no descriptors left."""

import errno
import os
import socket

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triocast.server.accepting import (
    CHECK_SECONDS,
    MAX_PAUSE_SECONDS,
    Acceptor,
    ListenerLost,
    SpareDescriptors,
)


@attrs.define(eq=False)
class Accepted:
    closed: bool = False

    def setblocking(self, flag):
        assert flag is False

    def close(self):
        self.closed = True


@attrs.define(eq=False)
class Listener:
    """A listening socket whose `accept` does what a test says: an error for ever, or clients."""

    error: int | None = None
    waiting: int = 0
    listens: bool = True
    calls: int = 0

    def accept(self):
        self.calls += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        if not self.waiting:
            raise BlockingIOError
        self.waiting -= 1
        return Accepted(), ("127.0.0.1", 1)

    def getsockopt(self, level, option):
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if self.listens is None:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return int(self.listens)


class NoSpares:
    def accept(self, listener):
        return None

    def refill(self):
        pass


@attrs.define(eq=False)
class World:
    listener: Listener = attrs.field(factory=Listener)
    spares: object = attrs.field(factory=NoSpares)
    served: list = attrs.field(factory=list)
    refused: list = attrs.field(factory=list)
    go_on: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, accepted):
        self.served.append(accepted)

    async def refuse(self, accepted):
        self.refused.append(accepted)
        await self.go_on.wait()

    async def run(self):
        await Acceptor(self.serve, self.refuse, self.spares).run(self.listener)


@pytest.fixture
async def world(monkeypatch):
    async def wait_readable(listener):
        while not listener.waiting:  # noqa: ASYNC110  # as tests set it
            await trio.sleep(0.01)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
    return World()


PASSING = [
    errno.EPERM,
    errno.EINVAL,
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EHOSTUNREACH,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOBUFS,
]


@pytest.mark.parametrize("error", PASSING)
async def test_an_error_that_lasts_costs_nothing_and_keeps_nobody_waiting(
    nursery, autojump_clock, world, caplog, error
):
    world.listener.error = error
    nursery.start_soon(world.run)
    seconds = 5
    await trio.sleep(seconds)
    assert 1 < world.listener.calls < 2 * seconds / MAX_PAUSE_SECONDS
    assert len(caplog.records) == 1
    assert os.strerror(error) in caplog.text
    world.listener.error, world.listener.waiting = None, 3
    await trio.sleep(MAX_PAUSE_SECONDS)
    assert len(world.served) == 3


async def test_one_error_costs_the_others_next_to_nothing(nursery, autojump_clock, world):
    world.listener.error = errno.ECONNABORTED
    nursery.start_soon(world.run)
    await wait_all_tasks_blocked()
    world.listener.error, world.listener.waiting = None, 1
    await trio.sleep(MAX_PAUSE_SECONDS / 10)
    assert len(world.served) == 1


@pytest.mark.parametrize("listens", [False, None])
@pytest.mark.parametrize("error", [None, errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EMFILE])
async def test_a_socket_that_does_not_listen_any_more_ends_the_loop(
    autojump_clock, world, error, listens
):
    world.listener.error, world.listener.listens = error, listens
    lost = False
    try:
        await world.run()
    except* ListenerLost:
        lost = True
    assert lost


async def test_one_that_ends_silently_while_nobody_comes_is_noticed(nursery, autojump_clock, world):
    lost = trio.Event()

    async def run():
        try:
            await world.run()
        except* ListenerLost:
            lost.set()

    nursery.start_soon(run)
    await trio.sleep(10)
    world.listener.listens = None
    with trio.fail_after(2 * CHECK_SECONDS):
        await lost.wait()


async def test_others_have_their_turn_while_a_crowd_comes(nursery, autojump_clock, world):
    world.listener.waiting = 1_000
    nursery.start_soon(world.run)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert len(world.served) < 100


# Without descriptors.


@pytest.fixture
def spares():
    spares = SpareDescriptors(2)
    yield spares
    spares.close()


class FullListener(Listener):
    """There is no descriptor, unless the spare ones are one fewer than they were."""

    def __init__(self, spares):
        super().__init__()
        self.spares = spares
        self.used = 0

    def accept(self):
        self.calls += 1
        if self.used + len(self.spares._held) >= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        if not self.waiting:
            raise BlockingIOError
        self.waiting -= 1
        self.used += 1
        return Accepted(), ("127.0.0.1", 1)


async def test_clients_without_a_descriptor_are_refused_in_the_place_of_a_spare_one(
    nursery, autojump_clock, world, spares
):
    listener = world.listener = FullListener(spares)
    world.spares, listener.waiting = spares, 5
    nursery.start_soon(world.run)
    await trio.sleep(1)
    # As many at one time as there are spare ones.
    assert (len(world.refused), len(world.served), listener.waiting) == (2, 0, 3)
    assert not any(accepted.closed for accepted in world.refused)
    listener.used = 0
    world.go_on.set()
    await trio.sleep(0.05)
    listener.used = 0
    await trio.sleep(1)
    assert all(accepted.closed for accepted in world.refused[:2])
    assert len(world.refused) > 2
    assert world.served == []


def test_spare_descriptors_are_open_and_taken_back(spares):
    held = list(spares._held)
    for descriptor in held:
        os.fstat(descriptor)
    listener = Listener(waiting=1)
    assert spares.accept(listener) is not None
    assert len(spares._held) == 1
    assert spares.accept(listener) is None  # Nobody is there: it is taken back.
    assert len(spares._held) == 2
    spares.close()
    for descriptor in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert spares.accept(Listener(waiting=1)) is None


def test_where_there_are_none_to_take_back_that_is_for_later(spares, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    assert spares.accept(Listener(waiting=1)) is not None
    monkeypatch.setattr(os, "open", fail)
    spares.refill()
    assert len(spares._held) == 1
    monkeypatch.undo()
    spares.refill()
    assert len(spares._held) == 2
