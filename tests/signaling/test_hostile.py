"""Whatever a client says: an error that it is told, or what the reference has for it."""

import json

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from triocast.signaling import errors
from triocast.signaling.errors import SignalingError, TurnUnavailable
from triocast.signaling.ice import IceServers
from triocast.signaling.limits import Admission
from triocast.signaling.messages import MessageError, parse
from triocast.signaling.notices import encode, refusal

from .table import Table

CODES = {
    error.code
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, SignalingError)
}


# Each code has its way.


def refused(text):
    with pytest.raises(MessageError) as caught:
        parse(text, Table().rooms.limits.sizes)
    return [json.loads(encode(refusal(caught.value)))]


def seated(**limits):
    table = Table(relay_data=True, **limits)
    return table, table.pair()


def unsupported_version():
    return [Table().join("alice", version=2)]


def already_joined():
    return [seated()[0].join("bob")]


def forbidden():
    return Table().say("alice", type="join", room="r", peer="me")


def room_not_found():
    return Table().say("alice", Admission(may_create=False), type="join", room="r")


def room_full():
    return [seated(peers_per_room=2)[0].join("carol")]


def room_locked():
    table, _ = seated()
    table.rooms.lock("r")
    return [table.join("carol")]


def too_many_joins():
    table, _ = seated(peers_per_room=3)
    carol = Admission(subject="c", is_known=True)
    for n in range(6):
        table.say(f"c{n}", carol, type="join", room="r")
        table.say(f"c{n}", type="leave")
    return table.say("c6", carol, type="join", room="r")


def peer_id_taken():
    table, _ = seated()
    mallory = Admission(subject="mallory", may_claim=True, is_known=True)
    return table.say("mallory", mallory, type="join", room="r", peer="alice")


def peer_not_found():
    table, session = seated()
    return table.signal("bob", "offer", "x", session)


def peer_unreachable():
    table, _ = seated()
    table.join("carol", can=[])
    table.take("bob")
    return table.say("bob", type="data", to="carol", payload=1)


def not_initiator():
    table, session = seated()
    return table.signal("alice", "offer", "bob", session)


def stale_session():
    table, session = seated()
    return table.signal("alice", "offer", "bob", session - 1)


def queue_full():
    table, session = seated(queue_messages=1)
    table.lose("alice")
    return table.signal("bob", "offer", "alice", session) + table.signal(
        "bob", "candidate", "alice", session
    )


def expired():
    table, session = seated()
    table.lose("alice")
    table.signal("bob", "offer", "alice", session)
    table.wait(20)
    return table.take("bob")


def resume_failed():
    table, _ = seated()
    table.tokens["alice"] = "guess"
    return table.resume("x", "alice", 0)


def turn_unavailable():
    def ice_servers(peer, seconds):
        if asked.append(peer) or len(asked) > 1:
            raise TurnUnavailable("not now")
        return IceServers()

    asked = []
    table = Table(ice_servers)
    table.join("alice")
    return table.say("alice", type="get-ice-servers")


def kicked():
    table, _ = seated()
    table.carry_out(table.rooms.kick("r", "bob", table.now))
    return table.take("bob")


def replaced():
    table, _ = seated()
    table.resume("alice2", "alice", 1)
    return table.take("alice")


def room_closed():
    table, _ = seated()
    table.carry_out(table.rooms.close_room("r", table.now))
    return table.take("bob")


WAYS = {
    "bad-json": lambda: refused("{"),
    "bad-message": lambda: refused('{"type":"join"}'),
    "unknown-type": lambda: refused('{"type":"dance"}'),
    "bad-description": lambda: refused(
        '{"type":"offer","to":"b","session":1,"description":{"type":"offer","sdp":"o"}}'
    ),
    "message-too-large": lambda: refused(json.dumps("x" * 3_000)),
    "not-joined": lambda: Table().say("alice", type="leave"),
} | {
    way.__name__.replace("_", "-"): way
    for way in (
        unsupported_version, already_joined, forbidden, room_not_found, room_full,
        room_locked, too_many_joins, peer_id_taken, peer_not_found, peer_unreachable,
        not_initiator, stale_session, queue_full, expired, resume_failed, turn_unavailable,
        kicked, replaced, room_closed,
    )
}  # fmt: skip


def test_all_codes_have_their_way():
    # What only the endpoint tells is tested there.
    assert WAYS.keys() | {"unauthorized", "internal"} == CODES


@pytest.mark.parametrize("code", WAYS)
def test_a_code_is_told(code):
    told = [item for item in WAYS[code]() if isinstance(item, dict) and "code" in item]
    assert [item["code"] for item in told] == [code]
    assert told[0]["fatal"] is (code in ("kicked", "replaced", "room-closed"))
    assert told[0]["temporary"] is (
        code in ("room-full", "too-many-joins", "queue-full", "expired", "turn-unavailable")
    )


# Arbitrary texts.

TEXTS = ["join", "leave", "offer", "answer", "r", "s", "", "a b", "alice", "bob", "mallory", "v=0"]
ODD = [
    "NaN", "-Infinity", "1e999", "-0", "1e-999", "0.5", "9" * 400, "9" * 1_001, str(2**53),
    str(2**64), "-1", "01", '"\\ud800"', '"\\udc00\\ud800"', '"\ud800"', '"\\u0000"', '"\x00"',
    '"\\x"', '"', "[", "[" * 100, "[" * 15 + "]" * 15, "[" * 500 + "]" * 500,
    '{"a":' * 100 + "1" + "}" * 100, '{"__proto__":{"x":1}}', '{"a":1,"a":2}', "{1:2}", "undefined",
    '"' + "x" * 1_000 + '"', "/* */1", "\ufeff1", '"\u2028"', "\n1\n",
]  # fmt: skip
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
).map(json.dumps)  # fmt: skip
NEEDED = {
    "join": ["room"],
    "leave": [],
    "get-ice-servers": [],
    "pong": ["t"],
    "offer": ["to", "session", "description"],
    "answer": ["to", "session", "description"],
    "candidate": ["to", "session", "candidate"],
    "end-of-candidates": ["to", "session"],
    "renegotiate": ["to", "session"],
    "data": ["payload", "to"],
}
RIGHT = {
    "type": list(NEEDED),
    "id": [1, "q"],
    "room": ["r", "s", "a:b/c", "__proto__"],
    "token": ["t"],
    "peer": ["alice", "mallory", "__proto__"],
    "version": [1],
    "metadata": [{}, {"__proto__": 1}],
    "capabilities": [[], ["rollback", "data-relay"]],
    "resume": [{"token": "token1", "lastSeq": 0}, {"token": "token9", "lastSeq": 9}],
    "to": ["alice", "bob", "nobody", "mallory"],
    "session": [1001, 2001, 3001, 3002],
    "seq": [1, 2, 2**53 - 1],
    "offerId": [0],
    "description": [{"type": "offer", "sdp": "v=0"}, {"type": "answer", "sdp": "v=0"}],
    "candidate": [{"candidate": ""}],
    "usernameFragment": ["u", None],
    "iceRestart": [True],
    "reason": ["gap"],
    "payload": [None, [1]],
    "t": [1.5],
}


def right(name):
    return st.tuples(st.just(name), st.sampled_from(RIGHT[name]).map(json.dumps))


FIELD = st.sampled_from(sorted(RIGHT)).flatmap(
    lambda name: st.one_of(
        right(name), st.tuples(st.just(name), PLAIN), st.tuples(st.just(name), st.sampled_from(ODD))
    )
)


def write(kind, fields):
    """Also with a key twice, which a dict could not have."""
    parts = [f'"type":"{kind}"', *(f'"{name}":{value}' for name, value in fields)]
    return "{" + ",".join(parts) + "}"


WHOLE = st.sampled_from(list(NEEDED)).flatmap(
    lambda kind: st.builds(
        write, st.just(kind), st.tuples(*(right(name) for name in NEEDED[kind])).map(list)
    )
)
ALMOST = st.sampled_from(list(NEEDED)).flatmap(
    lambda kind: st.builds(
        lambda whole, extra: write(kind, whole + extra),
        st.tuples(*(right(name) for name in NEEDED[kind])).map(list),
        st.lists(FIELD, min_size=1, max_size=2),
    )
)
FRAMES = st.one_of(
    WHOLE,
    WHOLE,
    ALMOST,
    ALMOST,
    ALMOST.map(lambda text: text.encode(errors="surrogatepass")),
    PLAIN,
    st.sampled_from(ODD),
    st.text(max_size=20),
    st.binary(max_size=20),
)


def shape(table):
    """What is known of the rooms, but for what is kept for Mallory."""
    registry = table.rooms._registry
    return {
        name: (
            room.is_locked,
            [
                (
                    peer.id, peer.connection, peer.subject, peer.role, peer.metadata,
                    peer.token_digest, peer.suspended_at, sorted(peer.told_suspended),
                    peer.mailbox.seq if peer.subject != "mallory" else None,
                    {other: repr(pair) for other, pair in peer.pairs.items()},
                )
                for peer in room.peers.values()
            ],
        )
        for name, room in registry.rooms.items()
    }  # fmt: skip


def names_of_mallory(table):
    rooms = table.rooms._registry.rooms.values()
    return {peer.id for room in rooms for peer in room.peers.values() if peer.subject == "mallory"}


@settings(max_examples=settings.default.max_examples * 4)
@given(st.lists(FRAMES, max_size=12), st.sampled_from([None, "r", "s"]), st.booleans())
@example([b""], None, True)
@example(['{"type":"offer","to":"alice","session":2001,"seq":1}'] * 2, "r", True)
@example(
    [
        '{"type":"join","room":"r","peer":"__proto__"}',
        '{"type":"candidate","to":"alice","session":2001,"candidate":{"candidate":""}}',
        '{"type":"candidate","to":"alice","session":1001,"candidate":{"candidate":""}}',
    ],
    None,
    True,
).via("found by random search")
def test_whatever_mallory_says_is_told_to_be_wrong_and_changes_nothing(frames, room, is_on):
    table = Table(relay_data=is_on)
    table.pair()
    if room is not None:
        table.join("mallory", room=room)
        table.told.clear()
    names = {None}
    mallory = Admission(subject="mallory", may_claim=True, may_send_data=True, is_known=True)
    for frame in frames:
        before = shape(table)
        try:
            message = parse(frame, table.rooms.limits.sizes)
        except MessageError as error:
            told = [json.loads(encode(refusal(error)))]
        else:
            told = table.say_what_was_read("mallory", message, mallory)
        codes = [item["code"] for item in told if "code" in item]
        event(codes[0] if codes else message.__struct_config__.tag)
        assert set(codes) <= CODES - {"internal"}
        if codes:
            assert len(told) == 1
            assert told[0]["message"]
            assert shape(table) == before
            assert not table.told
        names |= names_of_mallory(table)
        for texts in table.told.values():
            assert all(item.get("from") in names for item in texts)
        table.told.clear()
    # The others go on.
    session = table.rooms._registry.rooms["r"].peers["bob"].pairs["alice"].session
    table.take("alice")
    assert table.signal("bob", "renegotiate", "alice", session) == []
    assert table.take_types("alice") == ["renegotiate"]
