"""A client is let into a room under the limits, or refused without a trace."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling.bans import Bans
from triocast.signaling.budget import Budget
from triocast.signaling.delivery import Delivery
from triocast.signaling.errors import (
    AlreadyJoined,
    JoinForbidden,
    PeerIdTaken,
    ResumeFailed,
    RoomFull,
    RoomLocked,
    RoomNotFound,
    SignalingError,
    TooManyJoins,
    TurnUnavailable,
    UnsupportedVersion,
)
from triocast.signaling.ice import IceServer, IceServers
from triocast.signaling.joining import Door
from triocast.signaling.limits import Admission, Fresh, Limits
from triocast.signaling.messages import Join, Resume
from triocast.signaling.registry import Registry

from .factories import told

ANN = Admission(subject="ann", is_known=True, may_claim=True)
BOB = Admission(subject="bob", is_known=True, may_claim=True)


class Entrance:
    """A door and what is behind it; connections are c1, c2 and so on, as are tokens and ids."""

    def __init__(self, ice_servers=lambda peer, seconds: IceServers(), **limits):
        self.limits = Limits(**limits)
        self.registry = Registry()
        self.bans = Bans(self.limits.bans)
        self.budget = Budget(self.limits.kept_bytes)
        self.door = Door(self.limits, self.registry, self.bans, self.budget, ice_servers)
        self.now = 100.0
        self.numbers = itertools.count(1)
        self.delivery = self.new_delivery()

    def new_delivery(self):
        self.delivery = Delivery(self.now, self.budget)
        return self.delivery

    def join(self, room="r", admission=None, *, connection=None, **fields):
        """Join, and return the peer. Raises SignalingError."""
        number = next(self.numbers)
        connection = connection or f"c{number}"
        admission = Admission() if admission is None else admission
        fresh = Fresh(f"p{number}", f"t{number}")
        join = Join(room=room, id="q", **fields)
        self.door.let_in(connection, join, admission, fresh, self.new_delivery())
        return self.registry.connections[connection]

    def resume(self, token, room="r", admission=None, last_seq=0):
        return self.join(room, admission, resume=Resume(token=token, last_seq=last_seq))

    def suspend(self, peer, seconds=0.0):
        """Suspend a peer since so many seconds."""
        self.registry.suspend(peer.connection, self.now - seconds)

    def snapshot(self):
        """All that is remembered."""
        peers = [peer for room in self.registry.rooms.values() for peer in room.peers.values()]
        return (
            {
                name: (list(room.peers), len(room.comings))
                for name, room in self.registry.rooms.items()
            },
            {connection: peer.id for connection, peer in self.registry.connections.items()},
            {token: peer.id for token, peer in self.registry.tokens.items()},
            [peer.id for peer in self.registry.suspended],
            [
                (peer.role, peer.may_send_data, peer.grant_ends_at, peer.mailbox.seq)
                for peer in peers
            ],
            [sorted(peer.told_suspended) for peer in peers],
            len(self.bans),
            self.budget.used,
        )


def joined(entrance):
    """The answer to the last join."""
    return told(entrance.delivery)[0][1]


# What is refused. Each of these makes an entrance ready, and returns it with the join to refuse.


def another_version():
    return Entrance(), {"version": 2}


def a_connection_that_has_joined():
    entrance = Entrance()
    return entrance, {"room": "s", "connection": entrance.join().connection}


def a_banned_subject():
    entrance = Entrance()
    entrance.bans.add("r", "ann", until=101, now=100)
    return entrance, {"admission": ANN}


def a_banned_subject_that_comes_back():
    entrance = Entrance()
    entrance.suspend(entrance.join(admission=ANN))
    entrance.bans.add("r", "ann", until=101, now=100)
    return entrance, {"admission": ANN, "resume": Resume("t1", 0)}


def a_claim_without_the_right():
    return Entrance(), {"peer": "me"}


def a_claim_of_another_users_id():
    entrance = Entrance()
    entrance.join(admission=ANN, peer="me")
    return entrance, {"admission": BOB, "peer": "me"}


def a_claim_of_an_id_at_ones_own_address():
    entrance = Entrance()
    somebody = Admission(subject="address:192.0.2.1", may_claim=True)
    entrance.join(admission=somebody, peer="me")
    return entrance, {"admission": somebody, "peer": "me"}


def a_room_that_is_not_there():
    return Entrance(), {"admission": Admission(may_create=False)}


def a_room_too_many():
    entrance = Entrance(rooms=1)
    entrance.join()
    return entrance, {"room": "s"}


def a_full_room():
    entrance = Entrance(peers_per_room=1)
    entrance.suspend(entrance.join(), seconds=10)
    return entrance, {}


def a_locked_room():
    entrance = Entrance()
    entrance.join().room.is_locked = True
    return entrance, {}


def a_peer_too_many():
    entrance = Entrance(peers=2)
    entrance.join()
    entrance.suspend(entrance.join("s"), seconds=1.9)
    return entrance, {"room": "s"}


def a_user_that_comes_and_goes():
    entrance = Entrance(peers_per_room=1)
    for _ in range(2):
        entrance.join(admission=ANN, peer="me")
    return entrance, {"admission": ANN, "peer": "me"}


def a_token_that_was_never_given():
    entrance = Entrance()
    entrance.suspend(entrance.join())
    return entrance, {"resume": Resume("guess", 0)}


def a_token_of_another_room():
    entrance = Entrance()
    entrance.suspend(entrance.join())
    return entrance, {"room": "s", "resume": Resume("t1", 0)}


def a_token_of_somebody_else():
    entrance = Entrance()
    entrance.suspend(entrance.join(admission=ANN))
    return entrance, {"admission": BOB, "resume": Resume("t1", 0)}


def a_token_of_another_role():
    entrance = Entrance()
    entrance.suspend(entrance.join(admission=ANN))
    host = Admission(subject="ann", role="host", may_send_data=True)
    return entrance, {"admission": host, "resume": Resume("t1", 0)}


@pytest.mark.parametrize(
    ("make_ready", "error", "wait"),
    [
        (another_version, UnsupportedVersion, None),
        (a_connection_that_has_joined, AlreadyJoined, None),
        (a_banned_subject, JoinForbidden, 1),
        (a_banned_subject_that_comes_back, JoinForbidden, 1),
        (a_claim_without_the_right, JoinForbidden, None),
        (a_claim_of_another_users_id, PeerIdTaken, None),
        (a_claim_of_an_id_at_ones_own_address, PeerIdTaken, None),
        (a_room_that_is_not_there, RoomNotFound, None),
        (a_room_too_many, RoomFull, 5),
        (a_full_room, RoomFull, 5),
        (a_locked_room, RoomLocked, None),
        (a_peer_too_many, RoomFull, 5),
        (a_user_that_comes_and_goes, TooManyJoins, 0.5),
        (a_token_that_was_never_given, ResumeFailed, None),
        (a_token_of_another_room, ResumeFailed, None),
        (a_token_of_somebody_else, ResumeFailed, None),
        (a_token_of_another_role, ResumeFailed, None),
    ],
)
def test_a_refused_join_changes_nothing(make_ready, error, wait):
    entrance, join = make_ready()
    before = entrance.snapshot()
    with pytest.raises(error) as caught:
        entrance.join(**join)
    assert caught.value.wait == wait
    assert entrance.snapshot() == before
    assert entrance.delivery.effects == []


# Who is let in.


def test_a_peer_is_what_was_found_out_about_its_client():
    entrance = Entrance()
    admission = Admission(
        subject="ann", role="host", may_send_data=True, may_claim=True, seconds=60
    )
    metadata = msgspec.Raw(b'{"name":"Ann"}')
    peer = entrance.join(admission=admission, peer="me", metadata=metadata)
    assert (peer.id, peer.subject, peer.role, peer.may_send_data) == ("me", "ann", "host", True)
    assert peer.metadata == b'{"name":"Ann"}'
    assert peer.grant_seconds(entrance.now) == joined(entrance)["tokenTtl"] == 60


def test_whoever_claims_no_id_gets_a_fresh_one():
    entrance = Entrance()
    assert [entrance.join(admission=admission).id for admission in (ANN, Admission())] == [
        "p1",
        "p2",
    ]


def test_what_a_client_can_do_is_kept_as_far_as_it_is_known():
    entrance = Entrance()
    one = entrance.join(capabilities=["trickle", "x", "rollback"])
    other = entrance.join(capabilities=["rollback", "trickle", "rollback"])
    assert one.capabilities == {"trickle", "rollback"}
    assert one.capabilities is other.capabilities  # most peers have the same, and it is kept once


def test_a_ban_of_nobody_keeps_no_anonymous_client_out():
    entrance = Entrance()
    entrance.bans.add("r", "ann", until=200, now=100)
    peer = entrance.join()
    assert peer.subject is None
    assert peer.grant_seconds(entrance.now) is None


def test_a_user_takes_the_place_of_its_earlier_self_in_a_full_and_locked_room():
    entrance = Entrance(peers_per_room=1, peers=1, rooms=1)
    earlier = entrance.join(admission=ANN, peer="me")
    earlier.room.is_locked = True
    later = entrance.join(admission=ANN, peer="me")
    assert later is not earlier
    assert later.room.peers == {"me": later}
    assert [name for name, _ in told(entrance.delivery)] == ["c1", "c1", "c2"]


def test_a_newcomer_knows_who_is_suspended_and_will_be_told_of_the_return():
    entrance = Entrance()
    alice = entrance.join()
    entrance.suspend(alice)
    bob = entrance.join()
    assert [peer["state"] for peer in joined(entrance)["peers"]] == ["suspended"]
    assert alice.told_suspended == {bob.id}
    entrance.resume("t1")
    assert ("c2", "peer-state") in [(name, said["type"]) for name, said in told(entrance.delivery)]
    assert alice.told_suspended == set()


def test_the_place_of_whoever_is_away_for_longest_goes_to_a_newcomer():
    entrance = Entrance(peers=2)
    for room in "rs":
        entrance.suspend(entrance.join(room), seconds=2)
    newcomer = entrance.join("r")
    assert list(entrance.registry.rooms) == ["s", "r"]
    assert newcomer.room.peers == {newcomer.id: newcomer}
    assert len(entrance.registry.tokens) == 2


def test_a_newcomer_is_told_of_turn_servers_or_that_there_are_none_now():
    asked = []

    def ice_servers(peer, seconds):
        asked.append((peer, seconds))
        if len(asked) > 1:
            raise TurnUnavailable("not now")
        return IceServers((IceServer(("stun:a",)),), 60)

    entrance = Entrance(ice_servers)
    entrance.join(admission=Admission(seconds=20))
    assert joined(entrance)["iceServers"] == [{"urls": ["stun:a"]}]
    entrance.join("s")
    (_, answer), (connection, error) = told(entrance.delivery)
    assert (answer["type"], answer["iceServers"]) == ("joined", [])
    assert (connection, error["code"]) == ("c2", "turn-unavailable")
    assert "re" not in error
    assert asked == [("p1", 20), ("p2", None)]


# Coming back.


def test_a_return_renews_the_grant_but_not_the_peer():
    entrance = Entrance()
    earlier = entrance.join(admission=Admission(subject="ann", may_send_data=True, seconds=60))
    entrance.suspend(earlier)
    entrance.now += 30
    peer = entrance.resume("t1", admission=Admission(subject="ann", seconds=90))
    assert peer is earlier
    assert not peer.may_send_data
    assert peer.grant_seconds(entrance.now) == 90
    assert entrance.registry.suspended == {}


def test_a_return_is_let_into_a_full_and_locked_room_and_costs_no_join():
    entrance = Entrance(peers_per_room=1, peers=1, rooms=1)
    peer = entrance.join(admission=ANN)
    peer.room.is_locked = True
    for _ in range(10):
        entrance.suspend(peer)
        assert entrance.resume("t1", admission=ANN) is peer


def test_a_return_gets_exactly_what_it_missed_and_no_list():
    entrance = Entrance()
    alice = entrance.join()
    entrance.join()
    entrance.suspend(alice)
    entrance.join()
    entrance.resume("t1", last_seq=1)
    answer, missed = [said for name, said in told(entrance.delivery) if name == "c4"]
    assert "peers" not in answer
    assert (answer["resume"]["gap"], answer["resume"]["seq"]) == (False, 1)
    assert (missed["type"], missed["seq"], missed["peer"]) == ("peer-joined", 2, "p3")


def test_a_return_with_a_gap_gets_the_list_and_goes_on_from_there():
    entrance = Entrance(queue_messages=1)
    alice = entrance.join()
    entrance.suspend(alice)
    bob, carol = entrance.join(), entrance.join()
    entrance.suspend(carol)
    entrance.resume("t1")
    answer = joined(entrance)
    assert (answer["resume"]["resumed"], answer["resume"]["gap"]) == (True, True)
    assert answer["resume"]["seq"] == alice.mailbox.seq
    assert [(peer["peer"], peer["state"]) for peer in answer["peers"]] == [
        (bob.id, "connected"),
        (carol.id, "suspended"),
    ]
    assert carol.told_suspended == {alice.id}
    assert not alice.mailbox.broken


# Whatever happens.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "claim", "resume", "leave", "suspend", "wait"]),
        st.sampled_from("rst"),
        st.sampled_from(["ann", "bob", "eve", None]),
        st.integers(1, 12),
    ),
    max_size=50,
)


@given(STEPS)
def test_no_limit_is_ever_exceeded_and_refusals_change_nothing(steps):
    entrance = Entrance(peers_per_room=3, rooms=2, peers=4, blip_seconds=2)
    for step, room, subject, number in steps:
        admission = Admission(subject=subject, is_known=True, may_claim=True)
        peers = list(entrance.registry.connections.values())
        peer = peers[number % len(peers)] if peers else None
        before = entrance.snapshot()
        try:
            match step:
                case "join":
                    entrance.join(room, admission)
                case "claim":
                    entrance.join(room, admission, peer="me")
                case "resume":
                    entrance.resume(f"t{number}", room, admission)
                case "leave" if peer is not None:
                    entrance.registry.remove(peer, "left", entrance.new_delivery())
                case "suspend" if peer is not None:
                    entrance.suspend(peer)
                case "wait":
                    entrance.now += number / 4
        except SignalingError:
            assert entrance.snapshot() == before
            assert entrance.delivery.effects == []
        rooms = entrance.registry.rooms.values()
        assert len(rooms) <= 2
        assert len(entrance.registry.tokens) == sum(len(room.peers) for room in rooms) <= 4
        assert all(0 < len(room.peers) <= 3 for room in rooms)
