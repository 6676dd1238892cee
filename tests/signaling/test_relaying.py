"""What one peer says to another arrives, or its sender is told why not."""

import itertools

import pytest

from triocast.signaling.limits import Admission

from .table import Table


@pytest.fixture
def table():
    return Table(relay_data=True)


@pytest.fixture
def session(table):
    return table.pair()


def test_signals_arrive_in_order_from_whom_the_server_says(table, session):
    for kind in ("offer", "candidate", "end-of-candidates", "renegotiate"):
        assert table.signal("bob", kind, "alice", session, **{"from": "mallory"}) == []
    told = table.take("alice")
    assert [item["type"] for item in told] == [
        "offer",
        "candidate",
        "end-of-candidates",
        "renegotiate",
    ]
    assert [item["seq"] for item in told] == [2, 3, 4, 5]
    assert {item["from"] for item in told} == {"bob"}
    assert {item["session"] for item in told} == {session}
    assert not any("id" in item or "to" in item for item in told)


@pytest.mark.parametrize("to", ["nobody", "bob"])
def test_an_unknown_peer_is_an_error_at_once(table, session, to):
    [error] = table.signal("bob", "offer", to, session)
    assert error | {"message": "", "seq": 0} == {
        "type": "error",
        "seq": 0,
        "code": "peer-not-found",
        "message": "",
        "temporary": False,
        "fatal": False,
        "re": "q",
        "to": to,
        "session": session,
    }


def test_a_peer_of_another_room_is_unknown(table, session):
    table.join("carol", room="other")
    assert table.signal("bob", "offer", "carol", session)[0]["code"] == "peer-not-found"


def test_an_error_comes_again_after_a_break(table, session):
    table.signal("bob", "offer", "nobody", session)
    table.lose("bob")
    assert [item["type"] for item in table.resume("bob2", "bob", 0)] == ["joined", "error"]


def test_the_first_offer_is_the_initiators(table, session):
    [error] = table.signal("alice", "offer", "bob", session)
    assert (error["code"], error["to"], error["session"]) == ("not-initiator", "bob", session)
    table.signal("bob", "offer", "alice", session)
    assert table.signal("alice", "offer", "bob", session)[-1]["code"] == "not-initiator"
    table.signal("alice", "answer", "bob", session)
    table.take("bob")
    assert table.signal("alice", "offer", "bob", session) == []
    assert table.take_types("bob") == ["offer"]


def test_in_a_strict_pair_the_initiator_alone_offers():
    table = Table()
    table.join("alice", can=[])
    session = table.join("bob", can=[])["peers"][0]["session"]
    table.signal("bob", "offer", "alice", session)
    table.signal("alice", "answer", "bob", session)
    table.take("alice")
    assert table.signal("alice", "offer", "bob", session)[0]["code"] == "not-initiator"
    assert table.signal("alice", "renegotiate", "bob", session) == []
    assert table.take("bob")[-1]["iceRestart"] is False


@pytest.mark.parametrize("kind", ["offer", "answer", "candidate", "renegotiate"])
def test_another_session_is_stale(table, session, kind):
    [error] = table.signal("alice", kind, "bob", session + 1)
    assert (error["code"], error["session"]) == ("stale-session", session + 1)
    assert table.take("bob") == []


def test_the_initiator_begins_the_next_session(table, session):
    table.signal("bob", "offer", "alice", session)
    table.signal("alice", "answer", "bob", session)
    table.take("alice")
    assert table.signal("bob", "offer", "alice", session + 1)[1:] == []
    assert table.take("alice")[0]["session"] == session + 1
    assert table.signal("alice", "candidate", "bob", session)[-1]["code"] == "stale-session"
    table.signal("alice", "candidate", "bob", session + 1)
    assert table.take("bob")[-1]["session"] == session + 1
    assert table.join("carol")["peers"][0]["session"] > session + 1


def test_what_is_sent_twice_is_passed_on_once(table, session):
    for seq in (1, 2, 2, 1, 5):
        table.signal("bob", "candidate", "alice", session, seq=seq)
    assert table.take_types("alice") == ["candidate"] * 3
    assert table.rooms.received("bob") == 5
    table.lose("bob")
    assert table.rooms.received("bob") is None
    assert table.resume("bob2", "bob", 0)[0]["resume"]["received"] == 5


def test_what_was_refused_has_come_through(table):
    table.join("alice")
    [error] = table.signal("alice", "offer", "nobody", 1, seq=1)
    assert error["code"] == "peer-not-found"
    assert table.signal("alice", "offer", "nobody", 1, seq=1) == []
    assert table.rooms.received("alice") == 1


def test_a_pair_made_anew_is_beyond_all_sessions_of_the_one_before():
    table = Table()
    table.join("alice")
    bob = Admission(subject="b", may_claim=True, is_known=True)
    join = {"type": "join", "room": "r", "peer": "me"}
    session = table.say("bob", bob, **join)[0]["peers"][0]["session"]
    for number in range(1, 1_100):
        assert table.signal("bob", "offer", "alice", session + number) == []
        table.take("alice")
    table.say("bob", type="leave")
    again = table.say("bob2", bob, **join)[0]["peers"][0]["session"]
    assert again > session + 1_100


def test_a_suspended_peers_queue_is_bounded_and_its_sender_is_told(table, session):
    table.lose("alice")
    for number in range(8):
        assert table.signal("bob", "candidate", "alice", session, id=number) == []
    state, error = table.signal("bob", "candidate", "alice", session, id="last")
    assert (state["type"], state["state"]) == ("peer-state", "suspended")
    assert (error["code"], error["re"], error["to"]) == ("queue-full", "last", "alice")
    assert error["temporary"] is True
    assert [item["type"] for item in table.resume("alice2", "alice", 1)[1:]] == ["candidate"] * 8
    assert table.take_types("bob") == ["peer-state"]


def test_a_suspended_peers_queue_is_bounded_in_bytes(table, session):
    table.lose("alice")
    sdp = {"type": "offer", "sdp": "v=0" + "x" * 1_700}
    offer = {"type": "offer", "to": "alice", "session": session, "description": sdp}
    assert table.say("bob", **offer) == []
    assert table.say("bob", **offer) == []
    assert table.say("bob", **offer)[-1]["code"] == "queue-full"


def test_what_waited_too_long_is_told_to_its_sender_and_a_gap(table, session):
    table.lose("alice")
    table.signal("bob", "offer", "alice", session, id="o")
    table.wait(19)
    assert table.take_types("bob") == ["peer-state"]
    assert table.signal("bob", "candidate", "alice", session, id="c") == []
    table.wait(1)
    told = table.take("bob")
    assert [(item["code"], item["re"]) for item in told] == [("expired", "o"), ("expired", "c")]
    assert table.signal("bob", "candidate", "alice", session)[0]["code"] == "queue-full"
    [joined] = table.resume("alice2", "alice", 1)
    assert joined["resume"]["gap"] is True
    assert table.take_types("bob") == ["peer-state"]


def test_notices_that_find_no_room_make_a_gap_and_tell_the_senders(table, session):
    table.lose("alice")
    for _ in range(8):
        table.signal("bob", "candidate", "alice", session)
    table.join("carol")
    told = table.take("bob")
    assert [item.get("code") for item in told].count("queue-full") == 8
    [joined] = table.resume("alice2", "alice", 1)
    assert joined["resume"]["gap"] is True
    assert [peer["peer"] for peer in joined["peers"]] == ["bob", "carol"]


def test_two_suspended_peers_with_full_queues_come_to_an_end(table, session):
    table.lose("alice")
    for _ in range(8):
        table.signal("bob", "candidate", "alice", session)
    table.lose("bob")
    table.join("carol")
    table.wait(25)
    for name in ("alice", "bob"):
        assert table.resume(f"{name}2", name, 1)[0]["resume"]["gap"] is True
    assert all(peer.queued_messages <= 8 for peer in table.rooms.view("r"))


def test_a_crowd_of_suspended_peers_with_full_queues_comes_to_an_end():
    table = Table(peers_per_room=400, queue_messages=1, queue_seconds=5)
    crowd = [f"p{number}" for number in range(400)]
    sessions = {name: table.join(name)["peers"][-1:] for name in crowd}
    for one, other in itertools.pairwise(crowd):
        table.lose(one)
        [pair] = sessions[other]
        table.signal(other, "renegotiate", one, pair["session"])
    table.lose(crowd[-1])
    table.wait(5)
    assert all(peer.queued_messages <= 1 for peer in table.rooms.view("r"))


def test_what_waits_for_a_peer_that_never_returns_goes_with_it(table, session):
    table.lose("alice")
    table.signal("bob", "offer", "alice", session)
    table.wait(30)
    assert table.take("bob")[-1]["reason"] == "timeout"
    assert table.signal("bob", "offer", "alice", session)[0]["code"] == "peer-not-found"


def test_data_go_to_one_or_to_all_that_take_them(table, session):
    table.join("carol", can=[])
    table.join("dave")
    for name in ("alice", "bob"):
        table.take(name)
    assert table.say("bob", type="data", to="alice", payload={"a": 1}) == []
    assert table.take("alice") == [{"type": "data", "seq": 4, "from": "bob", "payload": {"a": 1}}]
    assert table.say("bob", type="data", payload=2) == []
    assert table.take_types("alice") == table.take_types("dave") == ["data"]
    assert table.take_types("carol") == ["peer-joined"]
    assert table.say("bob", type="data", to="carol", payload=2)[0]["code"] == "peer-unreachable"
    assert table.say("bob", type="data", to="x", payload=2)[0]["code"] == "peer-not-found"


def test_data_are_off_unless_the_server_and_the_grant_say_so(table, session):
    error = Table()
    error.pair()
    assert error.say("bob", type="data", to="alice", payload=1)[0]["code"] == "forbidden"
    table.say("carol", Admission(), type="join", room="r")
    assert table.say("carol", type="data", to="alice", payload=1)[0]["code"] == "forbidden"
