"""What the server says is written as the reference has it, and leaves out what is not known."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from triocast.signaling.errors import BadMessage, Kicked, QueueFull
from triocast.signaling.ice import IceServer
from triocast.signaling.messages import Description, IceCandidate, MessageError
from triocast.signaling.notices import (
    AnswerFrom,
    CandidateFrom,
    DataFrom,
    EndOfCandidatesFrom,
    ErrorMessage,
    Heartbeat,
    IceServersMessage,
    Joined,
    LimitsTold,
    OfferFrom,
    PeerInfo,
    PeerJoined,
    PeerLeft,
    PeerState,
    Ping,
    RenegotiateFrom,
    ResumeTold,
    encode,
    error_message,
    optional,
    refusal,
)

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "signaling.md"
TURN = IceServer(("turn:a",), username="1:p", credential="s3cr3t")
RESUME = ResumeTold("t0k3n", 30, resumed=True, gap=False, seq=4, received=2)
PEER = {
    "peer": "p",
    "role": "host",
    "capabilities": ("trickle",),
    "metadata": msgspec.Raw(b'{"name":"P"}'),
    "session": 1001,
    "initiator": True,
    "polite": False,
    "strict": True,
    "state": "suspended",
}
JOINED = Joined(
    room="r",
    peer="p",
    role="peer",
    ice_servers=(TURN,),
    ice_servers_ttl=60,
    token_ttl=None,
    heartbeat=Heartbeat(10, 20),
    limits=LimitsTold(2_000, None),
    resume=RESUME,
)
DESCRIPTION = Description("offer", "v=0")


MESSAGES = [
    (
        JOINED,
        {
            "type": "joined",
            "room": "r",
            "peer": "p",
            "role": "peer",
            "iceServers": [{"urls": ["turn:a"], "username": "1:p", "credential": "s3cr3t"}],
            "iceServersTtl": 60,
            "tokenTtl": None,
            "heartbeat": {"interval": 10, "timeout": 20},
            "limits": {"maxMessageBytes": 2_000, "rate": None},
            "resume": {
                "token": "t0k3n",
                "ttl": 30,
                "resumed": True,
                "gap": False,
                "seq": 4,
                "received": 2,
            },
        },
    ),
    (PeerInfo(**PEER), {**PEER, "capabilities": ["trickle"], "metadata": {"name": "P"}}),
    (
        PeerJoined(**PEER | {"metadata": None}),
        {"type": "peer-joined", **PEER, "capabilities": ["trickle"], "metadata": None},
    ),
    (PeerLeft(peer="p", reason="left"), {"type": "peer-left", "peer": "p", "reason": "left"}),
    (
        PeerState(peer="p", state="connected"),
        {"type": "peer-state", "peer": "p", "state": "connected"},
    ),
    (
        OfferFrom(sender="p", session=1, description=DESCRIPTION),
        {
            "type": "offer",
            "from": "p",
            "session": 1,
            "description": {"type": "offer", "sdp": "v=0"},
        },
    ),
    (
        AnswerFrom(sender="p", session=1, description=DESCRIPTION, offer_id=0),
        {
            "type": "answer",
            "from": "p",
            "session": 1,
            "description": {"type": "offer", "sdp": "v=0"},
            "offerId": 0,
        },
    ),
    (
        CandidateFrom(sender="p", session=1, candidate=IceCandidate("c")),
        {"type": "candidate", "from": "p", "session": 1, "candidate": {"candidate": "c"}},
    ),
    (
        EndOfCandidatesFrom(sender="p", session=1, username_fragment=None),
        {"type": "end-of-candidates", "from": "p", "session": 1, "usernameFragment": None},
    ),
    (
        RenegotiateFrom(sender="p", session=1, ice_restart=False),
        {"type": "renegotiate", "from": "p", "session": 1, "iceRestart": False},
    ),
    (
        DataFrom(sender="p", payload=msgspec.Raw(b"[1]")),
        {"type": "data", "from": "p", "payload": [1]},
    ),
    (
        IceServersMessage(re="q", ice_servers=(), ice_servers_ttl=None),
        {"type": "ice-servers", "re": "q", "iceServers": [], "iceServersTtl": None},
    ),
    (Ping(t=1.5), {"type": "ping", "t": 1.5}),
    (Ping(t=1.5, received=3), {"type": "ping", "t": 1.5, "received": 3}),
    (
        ErrorMessage(code="c", message="m", temporary=True, fatal=False),
        {"type": "error", "code": "c", "message": "m", "temporary": True, "fatal": False},
    ),
]


@pytest.mark.parametrize(("message", "written"), MESSAGES)
def test_a_message_is_written_with_its_type_and_what_is_known(message, written):
    assert json.loads(encode(message)) == written
    numbered = msgspec.structs.replace(message, seq=7)
    assert json.loads(encode(numbered)) == {**written, "seq": 7}


def test_the_reference_lists_what_the_server_sends():
    types = {written["type"] for _, written in MESSAGES if "type" in written}
    section = REFERENCE.read_text().split("## What clients are told")[1].split("\n## ")[0]
    first_column = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert set(re.findall(r"`([a-z-]+)`", first_column)) - {"type"} == types


@pytest.mark.parametrize("text", ["ü", "\u2028", "\n", '"', "\x00"])
def test_a_message_is_one_frame_of_utf8(text):
    data = encode(PeerState(peer=text, state="connected"))
    assert json.loads(data.decode())["peer"] == text
    assert b"\n" not in data


@pytest.mark.parametrize("value", [0, 1, "", "q"])
def test_a_field_is_left_out_only_where_there_is_nothing_to_say(value):
    assert optional(value) == value
    assert optional(None) is UNSET


@given(
    st.none() | st.integers() | st.text(max_size=5),
    st.none() | st.text(max_size=5),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
)
def test_an_error_says_what_it_is_about_as_far_as_that_is_known(re_, to, session, wait):
    error = error_message(QueueFull("full", wait=wait), re=re_, to=to, session=session)
    about = {"re": re_, "to": to, "session": session, "retryAfter": wait}
    assert json.loads(encode(error)) == {
        "type": "error",
        "code": "queue-full",
        "message": "full",
        "temporary": True,
        "fatal": False,
    } | {name: value for name, value in about.items() if value is not None}


def test_an_error_says_whether_the_connection_is_closed_next():
    assert error_message(Kicked("go")).fatal
    assert not error_message(BadMessage("no")).fatal


def test_a_message_that_could_not_be_read_is_refused_under_its_id():
    told = refusal(MessageError(BadMessage("no"), re=7, to="b"))
    assert (told.code, told.message, told.re, told.to) == ("bad-message", "no", 7, "b")
    told = refusal(MessageError(BadMessage("no")))
    assert (told.re, told.to) == (UNSET, UNSET)


def test_secrets_are_not_shown():
    assert "t0k3n" not in repr(JOINED)
    assert "s3cr3t" not in repr(JOINED)
