"""Coming, going, coming back, and being made to go."""

import json

import pytest

from triocast.signaling.errors import PeerNotFound, RoomNotFound, TurnUnavailable
from triocast.signaling.ice import IceServer, IceServers
from triocast.signaling.limits import INFO_BYTES, Admission

from .table import ALL, Table


def test_the_first_peer_is_told_everything_but_peers():
    servers = IceServers((IceServer(("stun:a",)),), 60)
    table = Table(lambda peer, seconds: servers, rate=50)
    assert table.join("alice") == {
        "type": "joined",
        "re": "q",
        "room": "r",
        "peer": "alice",
        "role": "peer",
        "peers": [],
        "iceServers": [{"urls": ["stun:a"]}],
        "iceServersTtl": 60,
        "tokenTtl": None,
        "heartbeat": {"interval": 10.0, "timeout": 20.0},
        "limits": {"maxMessageBytes": 2_000, "rate": 50},
        "resume": {
            "token": "token1",
            "ttl": 30,
            "resumed": False,
            "gap": False,
            "seq": 0,
            "received": 0,
        },
    }


def test_both_are_told_of_each_other_as_two_sides_of_one_pair():
    table = Table()
    table.join("alice", metadata={"name": "Alice"})
    [seen] = table.join("bob", can=["trickle", "x"])["peers"]
    [told] = table.take("alice")
    session = seen["session"]
    assert seen == {
        "peer": "alice",
        "role": "peer",
        "capabilities": ["data-relay", "ice-restart", "rollback", "trickle"],
        "metadata": {"name": "Alice"},
        "session": session,
        "initiator": True,
        "polite": False,
        "strict": False,
        "state": "connected",
    }
    assert told == {
        "type": "peer-joined",
        "seq": 1,
        "peer": "bob",
        "role": "peer",
        "capabilities": ["trickle"],
        "metadata": None,
        "session": session,
        "initiator": False,
        "polite": True,
        "strict": False,
        "state": "connected",
    }


def test_peers_are_listed_in_the_order_of_their_joins():
    table = Table()
    for name in ("c", "a", "b"):
        table.join(name)
    assert [peer["peer"] for peer in table.join("d")["peers"]] == ["c", "a", "b"]


def test_a_welcome_is_bounded():
    table = Table(peers_per_room=30)
    most = "x" * (table.rooms.limits.sizes.metadata_bytes - 2)
    for number in range(30):
        admission = Admission(role="\x01" * 64, may_claim=True, may_create=True)
        name = f"{number:x<64}"
        answer = table.say(
            name,
            admission,
            type="join",
            room="r" * 128,
            peer=name,
            metadata=most,
            capabilities=ALL,
        )[0]
    assert len(answer["peers"]) == 29
    tight = {"separators": (",", ":")}
    about = [len(json.dumps(peer | {"metadata": ""}, **tight)) for peer in answer["peers"]]
    assert INFO_BYTES / 2 < max(about) < INFO_BYTES
    limits = table.rooms.limits
    assert len(json.dumps(answer, **tight)) < limits.welcome_bytes - limits.queue_bytes


def test_rooms_are_apart_and_vanish_when_they_are_empty():
    table = Table()
    table.join("alice", room="one")
    assert table.join("bob", room="two")["peers"] == []
    table.say("alice", type="leave")
    assert table.rooms.rooms == ["two"]
    table.say("bob", type="leave")
    assert table.rooms.is_empty


def test_a_leave_is_answered_by_the_close_and_told_at_once():
    table = Table()
    table.pair()
    assert table.say("bob", type="leave") == [("close", 1000, "left")]
    assert table.take("alice") == [{"type": "peer-left", "seq": 2, "peer": "bob", "reason": "left"}]
    table.lose("bob")
    assert table.say("bob", type="leave")[0]["code"] == "not-joined"


def test_a_blip_is_not_told():
    table = Table()
    table.pair()
    table.lose("bob")
    table.wait(1.9)
    assert table.resume("bob2", "bob", 0)[0]["resume"]["resumed"]
    assert table.take("alice") == []


def test_a_longer_break_is_told_once_and_ends_with_the_grace():
    table = Table()
    table.pair()
    table.lose("bob")
    table.wait(2)
    table.wait(1)
    suspended = {"type": "peer-state", "seq": 2, "peer": "bob", "state": "suspended"}
    assert table.take("alice") == [suspended]
    table.wait(26.9)
    assert table.take("alice") == []
    table.wait(0.1)
    assert table.take("alice") == [
        {"type": "peer-left", "seq": 3, "peer": "bob", "reason": "timeout"}
    ]
    assert table.resume("bob2", "bob", 0)[0]["code"] == "resume-failed"
    assert table.join("bob2")["type"] == "joined"


def test_a_break_of_the_network_is_told_in_turns():
    """Everything else would stand still until a whole crowd has been told of a whole crowd."""
    table = Table(queue_messages=200, queue_bytes=100_000)
    names = [f"p{number}" for number in range(30)]
    for room in ("r", "s", "t"):
        for name in names:
            table.join(name + room, room=room)
            table.lose(name + room)
    at = table.now + 2
    turns = list(table.rooms.due_in_turns(at))
    assert 4 < len(turns) < 20
    assert all(len(effects) < 1_000 for effects in turns)
    assert sum(map(len, table.rooms.due_in_turns(at))) == 0
    table.now = at
    states = [item["type"] for item in table.resume("x", "p0r", 0)]
    assert states.count("peer-state") == 29
    turns = list(table.rooms.due_in_turns(table.now + 30))
    assert 4 < len(turns) < 20
    assert table.rooms.peer_count == 1


def test_who_was_told_of_the_break_is_told_of_its_end():
    table = Table()
    table.pair()
    table.lose("bob")
    table.wait(2)
    assert table.join("carol")["peers"][1]["state"] == "suspended"
    table.resume("bob2", "bob", 0)
    assert table.take("carol")[-1] | {"seq": 0} == {
        "type": "peer-state",
        "seq": 0,
        "peer": "bob",
        "state": "connected",
    }
    assert table.take_types("alice") == ["peer-state", "peer-joined", "peer-state"]


def test_every_long_break_is_told():
    table = Table()
    table.pair()
    for connection, following in (("bob", "bob2"), ("bob2", "bob3")):
        table.lose(connection)
        table.wait(2)
        table.resume(following, "bob", 0)
        states = [item["state"] for item in table.take("alice")]
        assert states == ["suspended", "connected"]


def test_a_newcomer_knows_who_is_suspended_even_in_a_blip():
    table = Table()
    table.pair()
    table.lose("bob")
    assert table.join("carol")["peers"][1]["state"] == "suspended"
    table.resume("bob2", "bob", 0)
    assert table.take_types("carol") == ["peer-state"]
    assert table.take_types("alice") == ["peer-joined"]


def test_a_return_gets_what_was_missed_and_no_list():
    table = Table()
    session = table.pair()
    table.lose("alice")
    table.signal("bob", "offer", "alice", session)
    table.signal("bob", "candidate", "alice", session)
    joined, *missed = table.resume("alice2", "alice", 1)
    assert "peers" not in joined
    assert joined["re"] == "q"
    assert joined["peer"] == "alice"
    assert joined["resume"] == {
        "token": table.tokens["alice"],
        "ttl": 30,
        "resumed": True,
        "gap": False,
        "seq": 1,
        "received": 0,
    }
    assert [(item["type"], item["seq"]) for item in missed] == [("offer", 2), ("candidate", 3)]


def test_a_return_gets_what_was_on_its_way_when_the_line_broke():
    table = Table()
    session = table.pair()
    table.signal("bob", "offer", "alice", session)
    table.lose("alice")
    assert [item["type"] for item in table.resume("alice2", "alice", 0)] == [
        "joined",
        "peer-joined",
        "offer",
    ]


@pytest.mark.parametrize("last_seq", [0, 50])
def test_what_cannot_be_given_is_a_gap_with_the_list(last_seq):
    table = Table(queue_messages=2)
    session = table.pair()
    for _ in range(3):
        table.signal("bob", "candidate", "alice", session)
    table.lose("alice")
    [joined] = table.resume("alice2", "alice", last_seq)
    assert joined["resume"]["gap"] is True
    assert joined["resume"]["seq"] == 4
    assert [peer["peer"] for peer in joined["peers"]] == ["bob"]
    assert joined["peers"][0]["session"] == session
    assert joined["peers"][0]["initiator"] is False
    table.signal("bob", "candidate", "alice", session)
    assert table.take("alice2")[0]["seq"] == 5


def test_what_the_peer_acknowledged_makes_room():
    table = Table(queue_messages=2)
    session = table.pair()
    table.signal("bob", "candidate", "alice", session)
    table.say("alice", type="pong", seq=2)
    assert table.rooms.view("r")[0].queued_messages == 0
    table.lose("alice")
    table.signal("bob", "candidate", "alice", session)
    table.signal("bob", "candidate", "alice", session)
    assert [item["type"] for item in table.resume("alice2", "alice", 2)][1:] == ["candidate"] * 2


def test_a_newer_connection_replaces_the_old_one():
    table = Table()
    session = table.pair()
    table.resume("alice2", "alice", 1)
    error, close = table.take("alice")
    assert (error["code"], error["fatal"]) == ("replaced", True)
    assert close == ("close", 4501, "replaced")
    table.lose("alice")
    table.signal("bob", "offer", "alice", session)
    assert table.take_types("alice2") == ["offer"]
    assert table.take("bob") == []
    assert table.signal("alice", "answer", "bob", session)[0]["code"] == "not-joined"


@pytest.mark.parametrize("wrong", ["token", "room", "subject"])
def test_only_the_right_token_resumes(wrong):
    table = Table()
    table.pair()
    table.lose("alice")
    if wrong == "token":
        table.tokens["alice"] = "guess"
    [error] = table.resume(
        "x",
        "alice",
        1,
        subject="mallory" if wrong == "subject" else None,
        room="other" if wrong == "room" else "r",
    )
    assert error["code"] == "resume-failed"
    assert error["re"] == "q"


def test_who_comes_back_may_what_its_token_says_now():
    table = Table(relay_data=True)
    table.pair()
    told = table.say("alice", type="data", payload=1, to="bob")
    table.lose("alice")
    assert table.resume("alice2", "alice", 1)[0]["resume"]["resumed"] is True
    [error] = table.say("alice2", type="data", payload=1, to="bob")
    assert (told, error["code"]) == ([], "forbidden")
    host = Admission(subject="bob", role="host")
    resume = {"token": table.tokens["bob"], "lastSeq": 0}
    [error] = table.say("bob2", host, type="join", room="r", resume=resume)
    assert error["code"] == "resume-failed"


def test_a_token_ends_with_its_peer():
    table = Table()
    table.pair()
    table.say("alice", type="leave")
    assert table.resume("x", "alice", 1)[0]["code"] == "resume-failed"


def test_a_connection_joins_once():
    table = Table()
    table.join("alice")
    assert table.join("alice", room="other")["code"] == "already-joined"
    assert table.rooms.rooms == ["r"]


@pytest.mark.parametrize("kind", ["leave", "get-ice-servers", "pong"])
def test_nothing_goes_before_a_join(kind):
    [error] = Table().say("alice", type=kind)
    assert (error["code"], error["re"]) == ("not-joined", "q")


def test_another_version_is_refused():
    assert Table().join("alice", version=2)["code"] == "unsupported-version"


def test_limits_on_peers_and_rooms():
    table = Table(peers_per_room=2, rooms=2, peers=3)
    table.pair()
    full = table.join("carol")
    assert (full["code"], full["temporary"], full["retryAfter"]) == ("room-full", True, 5)
    assert table.join("carol", room="s")["type"] == "joined"
    assert table.join("dave", room="s")["code"] == "room-full"
    table.say("bob", type="leave")
    assert table.join("dave", room="t")["code"] == "room-full"
    assert table.rooms.rooms == ["r", "s"]
    assert table.join("dave", room="r")["type"] == "joined"


def test_a_peer_is_told_how_long_its_token_lasts():
    table = Table()
    assert table.join("alice")["tokenTtl"] is None
    limited = Admission(subject="bob", seconds=60)
    joined = table.say("bob", limited, type="join", room="r")[0]
    assert joined["tokenTtl"] == 60
    table.tokens["bob"] = joined["resume"]["token"]
    again = {"token": table.tokens["bob"], "lastSeq": 0}
    renewed = Admission(subject="bob", seconds=90)
    assert table.say("bob2", renewed, type="join", room="r", resume=again)[0]["tokenTtl"] == 90


def test_a_suspended_peer_keeps_its_place():
    table = Table(peers_per_room=2)
    table.pair()
    table.lose("bob")
    assert table.join("carol")["code"] == "room-full"
    assert table.resume("bob2", "bob", 0)[0]["type"] == "joined"


def test_a_full_server_gives_up_whoever_is_away_for_longest():
    table = Table(peers=3)
    table.pair()
    table.join("carol", room="s")
    table.lose("bob")
    table.now += 1
    table.lose("carol")
    table.now += 0.5
    assert table.join("dave", room="s")["code"] == "room-full"  # it may be a blip
    table.now += 0.5
    assert table.join("dave", room="r")["type"] == "joined"
    left = [told for told in table.take("alice") if told["type"] == "peer-left"]
    assert [(told["peer"], told["reason"]) for told in left] == [("bob", "timeout")]
    assert table.resume("bob2", "bob", 0)[0]["code"] == "resume-failed"
    table.now += 1
    # Whoever was alone there takes its room along, even from one who may make none.
    assert table.join("erin", room="s")["peers"] == []
    assert table.rooms.rooms == ["r", "s"]


def test_a_room_that_must_be_there():
    table = Table()
    visitor = Admission(may_create=False)
    assert table.say("alice", visitor, type="join", room="r")[0]["code"] == "room-not-found"
    table.join("bob")
    assert table.say("alice", visitor, type="join", room="r")[0]["type"] == "joined"


CLAIM = {"type": "join", "room": "r", "peer": "me"}


def test_an_id_of_ones_own_needs_the_right():
    assert Table().say("alice", **CLAIM)[0]["code"] == "forbidden"
    table = Table()
    alice = Admission(subject="a", may_claim=True, role="host")
    [joined] = table.say("alice", alice, **CLAIM)
    assert (joined["peer"], joined["role"]) == ("me", "host")
    for other in (Admission(subject="b", may_claim=True), Admission(may_claim=True)):
        assert table.say("bob", other, **CLAIM)[0]["code"] == "peer-id-taken"


def test_who_shares_an_address_does_not_take_the_others_places():
    table = Table()
    anybody = Admission(subject="address:192.0.2.1", may_claim=True)
    table.tokens["me"] = table.say("alice", anybody, **CLAIM)[0]["resume"]["token"]
    for _ in range(2):
        assert table.say("mallory", anybody, **CLAIM)[0]["code"] == "peer-id-taken"
        table.lose("alice")
    back = table.resume("alice2", "me", 0, subject="address:192.0.2.1")
    assert back[0]["resume"]["resumed"] is True


def test_who_comes_and_goes_all_the_time_is_kept_from_it():
    table = Table(peers_per_room=2)
    table.join("bob")
    carol = Admission(subject="c", may_claim=True, is_known=True)
    codes = []
    for n in range(6):
        joined = table.say(f"c{n}", carol, **CLAIM)[0]
        codes.append(joined.get("code"))
        table.tokens.setdefault("me", joined.get("resume", {}).get("token"))
    assert codes == [None] * 4 + ["too-many-joins"] * 2
    assert joined["retryAfter"] == 0.5
    count = sum(told["type"] == "peer-joined" for told in table.take("bob"))
    assert count == 4
    # Who comes back begins nothing anew, and others have nothing to do with it.
    table.tokens["me"] = table.say("d", Admission(subject="d"), type="join", room="s")[0]["resume"][
        "token"
    ]
    for n in range(10):
        assert table.resume(f"d{n}", "me", 0, subject="d", room="s")[0]["resume"]["resumed"]
    table.wait(0.5)
    assert table.say("c6", carol, **CLAIM)[0]["type"] == "joined"
    # Of an address there may be many.
    anybody = Admission(subject="address:192.0.2.1")
    for n in range(10):
        assert table.say(f"x{n}", anybody, type="join", room="s")[0]["type"] == "joined"
        table.say(f"x{n}", type="leave")


def test_the_same_subject_takes_its_own_place_with_a_new_session():
    table = Table(peers_per_room=2)
    alice = Admission(subject="a", may_claim=True, is_known=True)
    table.say("alice", alice, **CLAIM)
    before = table.join("bob")["peers"][0]["session"]
    table.rooms.lock("r")
    [joined] = table.say("alice2", alice, **CLAIM)
    assert joined["peers"][0]["initiator"] is True
    assert joined["peers"][0]["session"] > before
    assert table.take("alice")[-1] == ("close", 4501, "replaced")
    left, came = table.take("bob")
    assert (left["type"], left["reason"]) == ("peer-left", "replaced")
    assert (came["type"], came["initiator"]) == ("peer-joined", False)


def test_the_last_of_a_room_takes_its_own_place():
    table = Table()
    alice = Admission(subject="a", may_claim=True, is_known=True)
    table.say("alice", alice, **CLAIM)
    table.say("alice2", alice, **CLAIM)
    assert [peer.id for peer in table.rooms.view("r")] == ["me"]
    table.say("alice2", type="leave")
    assert table.rooms.is_empty


def test_a_locked_room_lets_nobody_in_but_who_comes_back():
    table = Table()
    table.pair()
    table.rooms.lock("r")
    assert table.join("carol")["code"] == "room-locked"
    table.lose("bob")
    assert table.resume("bob2", "bob", 0)[0]["type"] == "joined"
    table.rooms.lock("r", False)
    assert table.join("carol")["type"] == "joined"


def test_a_kick():
    table = Table()
    table.pair()
    table.carry_out(table.rooms.kick("r", "bob", table.now))
    error, close = table.take("bob")
    assert (error["code"], error["fatal"]) == ("kicked", True)
    assert close == ("close", 4502, "kicked")
    assert table.take("alice")[0]["reason"] == "kicked"
    assert table.resume("bob2", "bob", 0)[0]["code"] == "resume-failed"
    assert table.join("bob3")["type"] == "joined"


def test_a_kick_with_a_ban_holds_for_all_connections_of_the_subject_and_over_an_empty_room():
    table = Table()
    villain = Admission(subject="villain")
    table.say("one", villain, type="join", room="r")
    table.say("two", villain, type="join", room="r")
    table.lose("two")
    table.carry_out(table.rooms.kick("r", "one", table.now, ban_seconds=60))
    assert table.rooms.rooms == []
    [error] = table.say("three", villain, type="join", room="r")
    assert (error["code"], error["retryAfter"]) == ("forbidden", 60)
    assert table.say("three", villain, type="join", room="s")[0]["type"] == "joined"
    table.wait(60)
    assert table.say("four", villain, type="join", room="r")[0]["type"] == "joined"


def test_a_ban_is_lifted_and_bans_are_bounded():
    table = Table(bans=2)
    for seconds, subject in ((9, "b"), (5, "a"), (7, "c")):
        table.carry_out(table.rooms.ban("r", subject, table.now, seconds=seconds))
    codes = {name: table.join(name).get("code") for name in ("a", "b", "c")}
    assert codes == {"a": None, "b": "forbidden", "c": "forbidden"}
    table.rooms.unban("r", "b")
    assert table.join("b")["type"] == "joined"


def test_closing_a_room():
    table = Table()
    table.pair()
    table.join("carol")
    table.lose("bob")
    table.take("bob")
    table.carry_out(table.rooms.close_room("r", table.now))
    for name in ("alice", "carol"):
        error, close = table.take(name)[-2:]
        assert (error["code"], error["fatal"]) == ("room-closed", True)
        assert close == ("close", 4503, "room-closed")
    assert table.take("bob") == []
    assert table.rooms.is_empty
    assert table.resume("bob2", "bob", 0)[0]["code"] == "resume-failed"


def test_administrators_are_told_what_is_not_there():
    table = Table()
    for act in (
        lambda: table.rooms.view("r"),
        lambda: table.rooms.lock("r"),
        lambda: table.rooms.close_room("r", 0),
        lambda: table.rooms.kick("r", "x", 0),
    ):
        with pytest.raises(RoomNotFound):
            act()
    table.join("alice")
    with pytest.raises(PeerNotFound):
        table.rooms.kick("r", "x", 0)


def test_a_grant_that_ends_lets_its_peer_leave():
    table = Table()
    table.pair()
    table.carry_out(table.rooms.end("bob", 4500, "grant_ended", table.now))
    assert table.take("bob") == [("close", 4500, "grant_ended")]
    assert table.take("alice")[0]["reason"] == "left"
    assert table.rooms.end("bob", 4500, "grant_ended", table.now) == []


def test_ice_servers_on_request():
    asked = []

    def ice_servers(peer, seconds):
        asked.append(peer)
        if len(asked) > 1:
            raise TurnUnavailable("no secret now")
        return IceServers(ttl=5)

    table = Table(ice_servers)
    assert table.join("alice")["iceServersTtl"] == 5
    [error] = table.say("alice", type="get-ice-servers")
    assert (error["code"], error["re"], error["temporary"]) == ("turn-unavailable", "q", True)
    joined, error = table.say("bob", type="join", room="r")
    assert (joined["iceServers"], error["code"]) == ([], "turn-unavailable")
    asked.clear()
    table.take("alice")
    [answer] = table.say("alice", type="get-ice-servers")
    assert answer == {"type": "ice-servers", "re": "q", "iceServers": [], "iceServersTtl": 5}
    assert asked == ["alice"]


def test_ice_servers_are_for_as_long_as_the_grant_holds():
    asked = []
    table = Table(lambda peer, seconds: asked.append(seconds) or IceServers())
    alice = Admission(subject="alice", seconds=20)
    joined = table.say("alice", alice, type="join", room="r")[0]
    table.tokens["alice"] = joined["resume"]["token"]
    table.wait(5)
    table.say("alice", type="get-ice-servers")
    again = {"token": table.tokens["alice"], "lastSeq": 0}
    renewed = Admission(subject="alice", seconds=100)
    table.say("alice2", renewed, type="join", room="r", resume=again)
    table.wait(10)
    table.say("alice2", type="get-ice-servers")
    table.say("bob", type="join", room="r")
    table.say("bob", type="get-ice-servers")
    assert asked == [20, 15, 100, 90, None, None]
