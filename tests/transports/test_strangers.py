"""Who without a token gives way to whom, without any connection."""

import attrs
import pytest
import trio

from triocast.errors import EndReason, TooManyConnections
from triocast.transports.strangers import STRANGER_SECONDS, Strangers

MOST = 4


@attrs.define(eq=False)
class Client:
    """A connection that leaves the strangers when it is ended, as all do."""

    strangers: Strangers
    address: str | None
    reason: EndReason | None = None

    def end(self, reason):
        self.reason = reason
        self.strangers.discard(self)


@pytest.fixture
def strangers(autojump_clock):
    return Strangers(MOST)


def come(strangers, *addresses):
    clients = []
    for address in addresses:
        strangers.make_room(address)
        clients.append(Client(strangers, address))
        strangers.add(clients[-1])
        assert len(strangers) <= MOST
    return clients


async def test_as_long_as_there_is_room_nobody_gives_way(strangers):
    clients = come(strangers, *["192.0.2.1"] * MOST)
    assert {client.reason for client in clients} == {None}
    with pytest.raises(TooManyConnections):
        strangers.make_room("192.0.2.1")


async def test_the_first_gives_way_once_it_had_its_time(strangers, autojump_clock):
    clients = come(strangers, *["192.0.2.1"] * MOST)
    await trio.sleep(STRANGER_SECONDS - 0.01)
    with pytest.raises(TooManyConnections):
        strangers.make_room("192.0.2.1")
    await trio.sleep(0.01)
    come(strangers, "192.0.2.1")
    assert [client.reason for client in clients] == [EndReason.PEER_LOST, None, None, None]
    come(strangers, *["192.0.2.1"] * 3)  # in the places of the others, who had theirs, too
    assert {client.reason for client in clients} == {EndReason.PEER_LOST}
    with pytest.raises(TooManyConnections):
        strangers.make_room("192.0.2.1")


async def test_one_of_many_gives_way_at_once_to_one_of_few(strangers):
    clients = come(strangers, "192.0.2.2", *[f"2001:db8::{n}" for n in range(3)])
    come(strangers, "192.0.2.3")
    assert [client.reason for client in clients] == [None, EndReason.PEER_LOST, None, None]
    # Two of one address and one of another: nobody would be better off.
    with pytest.raises(TooManyConnections):
        strangers.make_room("192.0.2.2")


async def test_who_is_known_or_has_gone_belongs_to_no_crowd(strangers):
    crowd = come(strangers, *["192.0.2.1"] * 3)
    for client in crowd[:2]:
        strangers.discard(client)
    come(strangers, "192.0.2.2", "192.0.2.3", None)
    for address in ("192.0.2.4", None, "192.0.2.1"):  # each is from elsewhere now
        with pytest.raises(TooManyConnections):
            strangers.make_room(address)
    assert crowd[2].reason is None


async def test_who_goes_twice_takes_nobody_along(strangers):
    crowd = come(strangers, *["192.0.2.1"] * MOST)
    for _ in range(2):
        strangers.discard(crowd[0])
    come(strangers, "192.0.2.2", "192.0.2.2")
    assert [client.reason for client in crowd] == [None, EndReason.PEER_LOST, None, None]


async def test_nothing_is_remembered_of_who_has_gone(strangers):
    for client in come(strangers, "192.0.2.1", "192.0.2.2", "2001:db8::1", None):
        strangers.discard(client)
    assert len(strangers) == 0
    assert not strangers._crowds  # addresses come without end
