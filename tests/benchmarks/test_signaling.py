"""Small runs of the benchmark of signaling: each part fills its table, and sees a loss."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
from collections.abc import Iterator

import pytest
from benchmarks import signaling
from benchmarks.peers.installing import NodePackages
from benchmarks.peers.peerjs import CLIENT, SERVER
from benchmarks.results import Result, Table
from benchmarks.servers import Running, serve_triocast
from benchmarks.webrtc import idling, pairing, relaying
from benchmarks.webrtc.dialects import FIRST, Client, Native, PeerJS, number_of
from benchmarks.wire import WebSocket, Wrong, frame

from .conftest import need

RELAY = ["--only", "relay", "--pairs", "3", "--messages", "20", "--runs", "1"]
IDLE = ["--only", "idle", "--rooms", "5", "--idle-seconds", "0.3", "--runs", "1"]
OPEN = ["--only", "open", "--opened", "2", "--runs", "1"]

HERE = [signaling.NATIVE, signaling.ENDPOINT]
ALL = HERE if SERVER.missing() else [*HERE, signaling.NPM]


def column(table: Table, title: str) -> list[float]:
    index = list(table.columns).index(title)
    return [float(re.split(r"[ %]", row[index])[0]) for row in table.rows]


def only_what_is_absent(result: Result) -> None:
    """Nothing went wrong, and nothing is missing but what npm has not brought."""
    assert result.problems == []
    assert all("npm" in each or "peerjs" in each for each in result.missing), result.missing


@pytest.mark.skipif(CLIENT.missing() is not None, reason=str(CLIENT.missing()))
def test_pairs_open_a_channel_by_each_way() -> None:
    need(pairing.missing() is None, str(pairing.missing()))
    result = signaling.measure(OPEN)
    only_what_is_absent(result)
    (table,) = result.tables
    assert [row[0] for row in table.rows] == ALL
    titles = ("until in, p50 ms", "until open, p50 ms", "p99 ms", "most ms")
    assert [len(column(table, each)) for each in titles] == [len(ALL)] * 4


def test_candidates_are_passed_on_by_each_server() -> None:
    result = signaling.measure(RELAY)
    only_what_is_absent(result)
    (table,) = result.tables
    assert [row[:2] for row in table.rows] == [[window, who] for window in "18" for who in ALL]
    for title in ("messages/s", "server CPU µs per message"):
        assert len(column(table, title)) == 2 * len(ALL)


@pytest.mark.parametrize("dialect", [Native(), PeerJS()], ids=["native", "PeerJS"])
def test_candidates_have_the_size_of_real_ones(dialect: Native | PeerJS) -> None:
    with (
        serve_triocast(10) as server,
        relaying.pairs(dialect, server, 1) as (sender, back),
    ):
        sent = sender.candidates.frames(range(FIRST, FIRST + 2))
        assert sent[4:8] == bytes(4)  # the mask, so that what follows can be read
        messages = [sent[8 : len(sent) // 2], sent[len(sent) // 2 + 8 :]]
        assert [number_of(each) for each in messages] == [FIRST, FIRST + 1]
        assert all(200 < len(each) < 300 for each in messages)
        assert len(messages[0]) == sender.candidates.size
        assert json.loads(messages[0]) != json.loads(messages[1])
        assert back.received_by is sender.client


def _altered(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Make one candidate of everybody go wrong on its way, after those before it counts."""
    whole = relaying.Candidates.frames

    def frames(self: relaying.Candidates, numbers: range) -> bytes:
        chosen = list(numbers)
        at = FIRST + 25
        if at in chosen:
            if fault == "lost":
                chosen.remove(at)
            elif fault == "twice":
                chosen.insert(chosen.index(at), at - 1)
        return b"".join(whole(self, range(each, each + 1)) for each in chosen)

    monkeypatch.setattr(relaying.Candidates, "frames", frames)


@pytest.mark.parametrize("fault", ["lost", "twice"])
def test_what_is_not_passed_on_once_is_a_problem(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _altered(monkeypatch, fault)
    monkeypatch.setattr(relaying, "PATIENCE", 0.5)
    monkeypatch.setattr(signaling, "SERVER", NodePackages(SERVER.folder, ("absent",)))
    result = signaling.measure([*RELAY, "--windows", "8"])
    # Triocast drops itself what has the number of one that came before.
    wrong = HERE if fault == "lost" else [signaling.ENDPOINT]
    assert [problem.split(",")[1].strip() for problem in result.problems] == wrong
    assert all("is due, not" in problem for problem in result.problems)


def test_idle_peers_are_measured() -> None:
    result = signaling.measure(IDLE)
    only_what_is_absent(result)
    (table,) = result.tables
    assert [row[:3] for row in table.rows] == [
        ["20", "5" if who == signaling.NATIVE else "-", who] for who in ALL
    ]
    for title in ("server CPU µs per join", "idle, of a core"):
        assert len(column(table, title)) == len(ALL)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come in and look fast, so that heartbeats may follow each other fast."""
    monkeypatch.setattr(idling, "_WARM", 4)
    monkeypatch.setattr(idling, "_REST", 0.05)


@pytest.mark.usefixtures("soon")
def test_pings_are_answered() -> None:
    """Whoever does not is sent away."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serve_triocast(300, "--heartbeat-seconds", "1"))
        crowds = []
        for name, dialect in (("native", Native()), ("PeerJS", PeerJS())):
            come = idling.idlers(name, dialect, server, rooms=2, per_room=2)
            crowds.append(stack.enter_context(come))
        idling.idle(crowds, 3.5)
        assert all("share" in crowd.figures for crowd in crowds)
        # The first of each room was told of the other.
        assert [client.last_seq for client in crowds[0].clients] == [1, 0, 1, 0]


def test_each_client_sends_its_heartbeat_once_in_an_interval() -> None:
    with contextlib.ExitStack() as stack:
        sockets = [tuple(map(stack.enter_context, socket.socketpair())) for _ in range(7)]
        clients = [Client(WebSocket(ours), "a") for ours, _ in sockets]
        crowd = idling.Idlers("PeerJS", PeerJS(), Running("", 0, None), clients)
        times = [idling.HEARTBEAT_SECONDS * step / 30 for step in range(31)]
        for since, until in itertools.pairwise(times):
            idling._beat(crowd, since, until)
        for _, theirs in sockets:
            theirs.settimeout(5)
            assert theirs.recv(1000)[6:] == b'{"type":"HEARTBEAT"}'


@pytest.mark.usefixtures("soon")
def test_a_peer_that_is_sent_away_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Native, "hear", lambda *_: None)  # nothing answers the pings

    @contextlib.contextmanager
    def hurried(connections: int, origin: str) -> Iterator[Running]:
        with serve_triocast(connections, "--heartbeat-seconds", "1") as server:
            yield server

    monkeypatch.setattr(signaling, "_serve_triocast", hurried)
    result = signaling.measure([*IDLE, "--idle-seconds", "3.5"])
    (problem,) = result.problems
    assert problem.startswith("idle peers, run 1:")


def test_what_npm_has_not_brought_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = NodePackages(SERVER.folder, ("absent@1.2.3",), "do this")
    monkeypatch.setattr(signaling, "SERVER", absent)
    result = signaling.measure(RELAY)
    assert [row[1] for row in result.tables[0].rows] == HERE * 2
    if "node" not in str(absent.missing()):
        assert result.missing == [
            f"{signaling.NPM}: absent@1.2.3 not in {SERVER.folder.name}: do this"
        ]


@pytest.mark.parametrize("wanted", ["a@1.0.0", "a@1.0.1", "@b/c@2.0.0", "a", "@b/c"])
def test_a_package_of_another_version_is_missing(
    tmp_path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    for name, version in (("a", "1.0.0"), ("@b/c", "2.0.0")):
        folder = tmp_path / "node_modules" / name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"version": version}))
    missing = NodePackages(tmp_path, (wanted,)).missing()
    assert (missing is not None) is (wanted == "a@1.0.1")


def test_frames_are_read_in_whatever_pieces_they_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = Client(WebSocket(ours), "a")
        texts = [b"x" * size for size in (1, 125, 126, 300, 70_000)]
        # A server's frames have no mask.
        whole = b"".join(_unmasked(text) for text in texts) + b"\x89\x01p"
        got = []
        for start in range(0, len(whole), 997):
            theirs.sendall(whole[start : start + 997])
            got += client.line.arrived()
        assert got == texts
        assert theirs.recv(100) == frame(b"p", 10)
        theirs.sendall(b"\x88\x00")
        with pytest.raises(Wrong, match="kind 8"):
            client.line.arrived()


def _unmasked(text: bytes) -> bytes:
    masked = frame(text)
    head = masked[: -len(text) - 4]
    return head[:1] + bytes((head[1] & 0x7F,)) + head[2:] + text
