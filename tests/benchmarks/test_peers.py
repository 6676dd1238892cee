"""A small comparison with each peer that is here, and what is said of one that is not."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from pathlib import Path

import jwt
import pytest
from benchmarks import comparison
from benchmarks.figures import problems_of
from benchmarks.loading import Load, run_load
from benchmarks.peers import PEERS, centrifugo, mercure
from benchmarks.peers.installing import GoProgram, InstallFailed, NodePackages, PythonPackages
from benchmarks.peers.peer import Peer
from benchmarks.results import Result
from benchmarks.servers import Paths, Running, ServerFailed
from benchmarks.turns import Contestant, Turns

from .conftest import need
from .faulty_server import faulty_server
from .greeting_server import greeting_server, text_frame

TINY = ["--clients", "10", "--burst-clients", "10", "--runs", "1", "--events", "20"]
TINY += ["--open-rate", "100", "--stall-ms", "5000", "--settle-ms", "50"]


@pytest.fixture(scope="module")
def compared() -> dict[str, Result]:
    """The results, by transport, of all peers that are here next to Triocast."""
    compiled = comparison.find_compiler() is not None
    client = [] if compiled else ["--python-client"]
    return {
        transport: comparison.measure([*TINY, *client, "--transports", transport])
        for transport in ("sse", "websocket")
    }


@pytest.mark.parametrize(
    ("peer", "transport"),
    [
        pytest.param(peer, transport, id=f"{peer.name}-{transport}")
        for peer in PEERS
        for transport in peer.transports
    ],
)
def test_a_peer_delivers_everything_and_is_in_the_tables(
    peer: Peer, transport: str, compared: dict[str, Result]
) -> None:
    why = peer.missing()
    if peer.name == "Nchan":
        need(why is None, str(why))
    if why is not None:
        pytest.skip(why)
    result = compared[transport]
    reports = [each["report"] for each in result.raw if each["server"] == peer.name]
    assert len(reports) == 1
    assert problems_of(reports[0]) == []
    assert [phase["name"] for phase in reports[0]["phases"]] == ["single", "burst", "open"]
    assert all(phase["deliveries"] == 20 * 10 for phase in reports[0]["phases"])
    assert reports[0]["connect"]["rss_kb_after"] is not None
    cast, *tables = result.tables
    assert any(row[0] == peer.name and "missing" not in row[2] for row in cast.rows)
    for table in tables:
        assert peer.name in {row[2] for row in table.rows}, table.title


def test_triocast_is_compared_with_nchan_and_the_loop_run_by_run(
    compared: dict[str, Result], compiler: str
) -> None:
    nchan = next(peer for peer in PEERS if peer.name == "Nchan")
    need(nchan.missing() is None, str(nchan.missing()))
    for result in compared.values():
        assert result.problems == []
        rates = next(table for table in result.tables if table.title.startswith("Single events"))
        ratios = {row[2]: row[3] for row in rates.rows if "÷" in row[2]}
        assert list(ratios) == ["**Triocast ÷ Nchan**", "**Triocast ÷ C loop**"]
        figures = {each["server"]: each["figures"] for each in result.raw}
        rate = "single.deliveries_per_second"
        wanted = figures["Triocast"][rate] / figures["Nchan"][rate]
        assert ratios["**Triocast ÷ Nchan**"] == f"{wanted:.2f}"
        assert {chart.name for chart in result.charts} == {
            f"comparison-{name}"
            for name in ("single-rate", "burst-rate", "clock-p99", "accept-rate", "memory")
        }


def _absent(install=None) -> Peer:
    def never(_most: int) -> contextlib.AbstractContextManager[Running]:
        raise AssertionError("a missing peer is not started")

    return Peer(
        name="Absent",
        transports=("sse",),
        paths=Paths(),
        missing=lambda: "there is no `absent`: apt-get install absent",
        version=lambda: "1",
        serve=never,
        install=install,
    )


@pytest.mark.parametrize("options", [[], ["--install-peers"]])
def test_a_missing_peer_is_named_with_what_to_do(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise InstallFailed("`get absent` ended with 1")

    monkeypatch.setattr(comparison, "PEERS", [_absent(refuse)])
    monkeypatch.setattr(comparison, "NAMES", ["Absent"])
    arguments = [*TINY, "--python-client", "--transports", "sse", "--phases", "single"]
    result = comparison.measure([*arguments, *options])
    why = "`get absent` ended with 1" if options else "there is no `absent`"
    assert any(each.startswith(f"Absent: {why}") for each in result.missing)
    assert result.tables[0].rows[0][2].startswith(f"missing: {why}")
    assert result.problems == []
    assert {each["server"] for each in result.raw} == {"Triocast"}


def _contestant(name: str, port: int, is_peer: bool) -> Contestant:
    running = Running("127.0.0.1", port, None)
    return Contestant(name, lambda: contextlib.nullcontext(running), is_peer=is_peer)


LOAD = Load(
    None,
    clients=3,
    transport="sse",
    phases=["single"],
    events=10,
    publishers=1,
    stall_ms=2000,
    settle_ms=10,
)


def test_servers_take_turns_and_a_peers_fault_is_only_told() -> None:
    turns = Turns()
    with faulty_server("none") as good, faulty_server("drop") as bad:
        contestants = [_contestant("good", good.port, False), _contestant("bad", bad.port, True)]
        case = turns.take(contestants, LOAD, 2)
    assert [each["server"] for each in turns.raw] == ["good", "bad", "good", "bad"]
    assert turns.problems == []
    assert "bad, 3 sse, run 1: 1 lost" in turns.remarks
    assert all(case.servers["good"])
    # It strikes in the first run only; what it lost is not compared, but keeps its place.
    assert [bool(figures) for figures in case.servers["bad"]] == [False, True]


def test_a_fault_of_what_is_no_peer_is_a_problem() -> None:
    turns = Turns()
    with faulty_server("drop") as bad:
        case = turns.take([_contestant("bad", bad.port, False)], LOAD, 1)
    assert "bad, 3 sse, run 1: 1 lost" in turns.problems
    assert turns.remarks == []
    assert case.servers["bad"][0]


@pytest.mark.parametrize("is_peer", [True, False])
def test_only_a_peer_may_fail_to_start(is_peer: bool) -> None:
    def fail() -> contextlib.AbstractContextManager[Running]:
        raise ServerFailed("no such file")

    turns = Turns()
    contestant = Contestant("bad", fail, is_peer=is_peer)
    if not is_peer:
        with pytest.raises(ServerFailed):
            turns.take([contestant], LOAD, 1)
        return
    assert turns.take([contestant], LOAD, 1).servers["bad"] == [{}]
    assert turns.remarks == ["bad, 3 sse, run 1: could not be measured"]


# What these say to their clients, so that their side of the load client is tried without them.
GREETINGS = {
    ("Centrifugo", "sse"): b'\r\ndata: {"connect":{"client":"a","subs":{"bench":{}}}}\n\n',
    ("Centrifugo", "websocket"): text_frame(b'{"connect":{"client":"a","subs":{"bench":{}}}}'),
    ("Mercure", "sse"): b":\n",
    ("Socket.IO", "websocket"): text_frame(b'0{"sid":"a"}') + text_frame(b'40{"sid":"b"}'),
}


@pytest.mark.parametrize(("name", "transport"), GREETINGS)
def test_the_load_client_gets_along_with_a_peers_greeting(
    name: str, transport: str, load_program: Path | None
) -> None:
    paths = next(peer.paths for peer in PEERS if peer.name == name)
    said = "".join(paths.messages(transport)).encode()
    load = Load(load_program, 3, transport, phases=["single"], events=10, settle_ms=10)
    with greeting_server(GREETINGS[name, transport], said) as server:
        report = run_load(load, Running("127.0.0.1", server.port, None), paths)
    assert problems_of(report) == []
    assert report["phases"][0]["deliveries"] == 30
    for line in paths.publish_headers:
        header, _, value = line.partition(": ")
        assert all(headers[header.lower()] == value for headers, _ in server.posts)


def test_tokens_are_for_the_one_channel_and_by_the_configured_keys() -> None:
    token = json.loads(centrifugo.CONNECT)["token"]
    claims = jwt.decode(token, centrifugo.SECRET, ["HS256"])
    assert claims["channels"] == ["bench"]
    assert centrifugo._configuration(1)["client"] == {
        "token": {"hmac_secret_key": centrifugo.SECRET}
    }
    claims = jwt.decode(mercure.TOKEN, mercure.SECRET, ["HS256"])
    assert claims["mercure"] == {"publish": ["*"]}
    assert f'publisher_jwt "{mercure.SECRET}"' in mercure.CONFIGURATION.format(
        port=1, secret=mercure.SECRET
    )


def test_packages_that_are_not_installed_are_missing(tmp_path: Path) -> None:
    absent = PythonPackages(tmp_path / "python", ("starlette",), ("starlette",))
    assert "--install-peers" in str(absent.missing())
    if shutil.which("node"):
        assert "--install-peers" in str(NodePackages(tmp_path, ("socket.io",)).missing())


def test_a_program_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = GoProgram("a-hub", "example.com/a-hub", "example.com/a-hub@latest")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.missing() == "there is no `a-hub` on PATH, and no `go` to build it"
    (tmp_path / "a-hub").write_text("#!/bin/sh\n")
    (tmp_path / "a-hub").chmod(0o755)
    assert program.missing() is None
    assert program.find() == str(tmp_path / "a-hub")


def _module_proxy(folder: Path) -> None:
    """Lay out one module as the Go tools ask for it."""
    versions = folder / "example.com" / "a-hub" / "@v"
    versions.mkdir(parents=True)
    # With a replacement, which `go install` would refuse.
    manifest = "module example.com/a-hub\n\ngo 1.19\n\nreplace example.com/b => ./b\n"
    (versions / "list").write_text("v1.2.3\n")
    (versions / "v1.2.3.info").write_text('{"Version":"v1.2.3","Time":"2026-01-01T00:00:00Z"}')
    (versions / "v1.2.3.mod").write_text(manifest)
    with zipfile.ZipFile(versions / "v1.2.3.zip", "w") as archive:
        archive.writestr("example.com/a-hub@v1.2.3/go.mod", manifest)
        program = 'package main\n\nfunc main() { println("v1.2.3") }\n'
        archive.writestr("example.com/a-hub@v1.2.3/cmd/hub/main.go", program)


def test_a_program_is_built_from_its_go_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("go") is None:
        pytest.skip("no Go: apt-get install golang-go")
    _module_proxy(tmp_path / "proxy")
    settings = {
        "GOPROXY": (tmp_path / "proxy").as_uri(),
        "GOFLAGS": "-modcacherw",
        "GONOSUMDB": "*",
        "GOMODCACHE": str(tmp_path / "modules"),
        "GOTOOLCHAIN": "local",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("benchmarks.peers.installing.BUILD", tmp_path / "build")
    program = GoProgram("a-hub", "example.com/a-hub/cmd/hub", "example.com/a-hub@latest")
    assert "none is built" in str(program.missing())
    program.install()
    assert program.missing() is None
    assert program.find() == str(tmp_path / "build" / "go" / "bin" / "a-hub")


def test_a_failed_install_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "npm"
    tool.write_text("#!/bin/sh\necho a long story\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(InstallFailed, match=r"socket\.io.* ended with 3"):
        NodePackages(tmp_path / "node", ("socket.io",)).install()
