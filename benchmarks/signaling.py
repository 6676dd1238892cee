"""WebRTC signaling: the time until two browsers are connected, messages passed on, idle peers.

Triocast's own protocol and its PeerJS endpoint, next to the PeerJS server from npm.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from benchmarks.__main__ import main
from benchmarks.arguments import choices, numbers
from benchmarks.figures import Figures, Spread, ratios_of, show, spread_of
from benchmarks.peers.installing import InstallFailed
from benchmarks.peers.peerjs import CLIENT, SERVER, client_script, serve_peerjs
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import (
    SPARE_DESCRIPTORS,
    Running,
    ServerFailed,
    need_descriptors,
    serve_triocast,
)
from benchmarks.webrtc import idling, pairing
from benchmarks.webrtc.dialects import Dialect, Native, PeerJS
from benchmarks.webrtc.relaying import pairs, relay
from benchmarks.wire import Wrong

ABOUT = "WebRTC signaling, next to the PeerJS server from npm"

PARTS = ("open", "relay", "idle")
NATIVE = "Triocast"
ENDPOINT = "Triocast's /peerjs"
NPM = "npm PeerJS server"

MOST_MESSAGES = 300
"""Of one client in one phase: above its rate, 200 per second, Triocast lets a burst of 400 pass."""

_WARM_MESSAGES = 30
_NPM_BOUND = 5000
"""Peers that the npm server lets in by default."""

Runs = dict[str, list[Figures]]


@attrs.frozen
class Contestant:
    """A server, and the protocol that raw clients speak with it."""

    name: str
    dialect: Dialect
    serve: Callable[[int, str], contextlib.AbstractContextManager[Running]]
    """For so many connections, and pages of this origin."""


@attrs.define
class _Found:
    tables: list[Table] = attrs.field(factory=list)
    charts: list[Chart] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    missing: list[str] = attrs.field(factory=list)
    raw: dict[str, object] = attrs.field(factory=dict)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks signaling", description=__doc__)
    add = parser.add_argument
    add("--only", type=choices(PARTS), default=list(PARTS), help=f"some of {','.join(PARTS)} [all]")
    add("--install-peers", action="store_true", help="get PeerJS from npm first")
    add("--opened", type=int, default=100, help="pairs in the browser, of each kind and run [100]")
    add("--pairs", type=int, default=100, help="pairs of raw clients that send messages [100]")
    add("--messages", type=int, default=100, help="that each client sends [100]")
    add("--windows", type=numbers, default=[1, 8], help="messages under way [1,8]")
    add("--rooms", type=int, default=500, help="rooms of idle peers [500]")
    add("--per-room", type=int, default=4, help="peers of each [4]")
    add("--idle-seconds", type=float, default=27.0, help="of looking at them [27]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _serve_triocast(connections: int, origin: str) -> contextlib.AbstractContextManager[Running]:
    origins = ("--allowed-origins", origin) if origin else ()
    return serve_triocast(connections, *origins)


def _contestants(found: _Found) -> list[Contestant]:
    there = [
        Contestant(NATIVE, Native(), _serve_triocast),
        Contestant(ENDPOINT, PeerJS(), _serve_triocast),
    ]
    if why := SERVER.missing():
        found.missing.append(f"{NPM}: {why}")
    else:
        there.append(Contestant(NPM, PeerJS(), lambda _most, _origin: serve_peerjs()))
    return there


def _versions() -> str:
    there = [package.version() for package in (SERVER, CLIENT) if package.missing() is None]
    return f"versions from npm: {'; '.join(there) or 'none'}"


def _ratio(runs: Runs, name: str, figure: str) -> str:
    """Say what a run's figure is of the npm server's."""
    return show(ratios_of(runs[name], runs.get(NPM, ()), figure), "{:.2f}")


# Until the channel is open.


@contextlib.contextmanager
def _ways(contestants: Sequence[Contestant], origin: str) -> Iterator[list[pairing.Way]]:
    with contextlib.ExitStack() as stack:
        ways = []
        for each in contestants:
            server = stack.enter_context(each.serve(100, origin))
            function = pairing.SDK if each.name == NATIVE else pairing.PEERJS
            ways.append(pairing.Way(each.name, function, server))
        yield ways


def _open(options: argparse.Namespace, contestants: list[Contestant], found: _Found) -> None:
    why = pairing.missing() or CLIENT.missing()
    if why is not None:
        found.missing.append(why)
        return
    runs: Runs = {each.name: [] for each in contestants}
    for run in range(options.runs):
        with (
            pairing.site(client_script()) as origin,
            _ways(contestants, origin) as ways,
            pairing.browser(origin) as pair,
        ):
            try:
                figures = pairing.measure_pairs(pair, ways, options.opened)
            except Wrong as error:
                found.problems.append(f"channels, run {run + 1}: {error}")
                continue
        for name, each in figures.items():
            runs[name].append(each)
    clients = {NATIVE: "its SDK", ENDPOINT: "peerjs, unchanged", NPM: "peerjs, unchanged"}
    figures_shown = ("joined_ms", "p50", "p99", "most")
    rows = [
        [
            name,
            clients[name],
            *(show(spread_of(each, figure), "{:.1f}") for figure in figures_shown),
            *(_ratio(runs, name, figure) for figure in ("p50", "p99")),
        ]
        for name, each in runs.items()
    ]
    columns = [
        "server", "client", "until in, p50 ms", "until open, p50 ms", "p99 ms", "most ms",
        "p50 ÷ npm", "p99 ÷ npm",
    ]  # fmt: skip
    about = (
        f"{options.opened} pairs of each kind and run, one after the other, servers in turn, in"
        " Chromium. One peer is there; the clock runs from the call with which the other begins to"
        " come in until its data channel is open."
    )
    found.tables.append(Table("Until the data channel is open", columns, rows, about))
    _chart(found, "signaling-open", "Until the data channel is open", "ms", runs, ("p50", "p99"))
    found.raw["open"] = runs


def _chart(
    found: _Found, name: str, title: str, unit: str, runs: Runs, figures: Sequence[str]
) -> None:
    bars: dict[str, dict[str, Spread]] = {}
    for figure in figures:
        spreads = {who: spread_of(each, figure) for who, each in runs.items()}
        bars[figure] = {who: spread for who, spread in spreads.items() if spread is not None}
    if all(bars.values()):
        found.charts.append(Chart(name, title, unit, bars))


# Messages passed on.


def _relay_once(options: argparse.Namespace, contestant: Contestant) -> Mapping[int, Figures]:
    """Return the figures by window. Raises Wrong."""
    dialect = contestant.dialect
    with (
        contestant.serve(options.pairs * 2 + SPARE_DESCRIPTORS, "") as server,
        pairs(dialect, server, options.pairs) as senders,
    ):
        warm = min(_WARM_MESSAGES, options.messages)
        relay(dialect, server, senders, warm, 1)
        return {
            window: relay(dialect, server, senders, options.messages, window)
            for window in options.windows
        }


def _relay(options: argparse.Namespace, contestants: list[Contestant], found: _Found) -> None:
    need_descriptors(options.pairs * 2 + SPARE_DESCRIPTORS)
    by_window: dict[int, Runs] = {
        window: {each.name: [] for each in contestants} for window in options.windows
    }
    for run in range(options.runs):
        for each in contestants:
            try:
                figures = _relay_once(options, each)
            except (Wrong, OSError) as error:
                found.problems.append(f"messages, {each.name}, run {run + 1}: {error}")
                continue
            for window, its in figures.items():
                by_window[window][each.name].append(its)
    rows = [
        [
            str(window),
            name,
            show(spread_of(each, "rate"), "{:.0f}"),
            _ratio(runs, name, "rate"),
            show(spread_of(each, "us"), "{:.1f}"),
            _ratio(runs, name, "us"),
            show(spread_of(each, "server_share"), "{:.0%}"),
            show(spread_of(each, "client_share"), "{:.0%}"),
        ]
        for window, runs in by_window.items()
        for name, each in runs.items()
    ]
    columns = [
        "under way", "server", "messages/s", "÷ npm", "server CPU µs per message", "÷ npm",
        "server, of a core", "clients, of a core",
    ]  # fmt: skip
    about = (
        f"{options.pairs} pairs, in rooms of two. Each client sends its partner {options.messages}"
        " candidates, the next when one has arrived, with so many under way. All must come, in"
        " their order."
    )
    found.tables.append(Table("Messages passed on", columns, rows, about))
    per_message = {
        f"{window} under way": {
            name: Spread.of([run["us"] for run in each]) for name, each in runs.items() if each
        }
        for window, runs in by_window.items()
    }
    found.charts.append(Chart("signaling-relay", "Server CPU per message", "µs", per_message))
    found.raw["relay"] = by_window


# Idle peers.


def _idle(options: argparse.Namespace, contestants: list[Contestant], found: _Found) -> None:
    peers = options.rooms * options.per_room
    there = [each for each in contestants if each.name != NPM or peers <= _NPM_BOUND]
    if len(there) < len(contestants):
        found.missing.append(f"{NPM}: it lets {_NPM_BOUND} peers in, not {peers}")
    most = peers + SPARE_DESCRIPTORS
    need_descriptors(peers * len(there) + SPARE_DESCRIPTORS)
    runs: Runs = {each.name: [] for each in there}
    for run in range(options.runs):
        try:
            with contextlib.ExitStack() as stack:
                # All of them before the first peer, whose heartbeat would have to wait.
                servers = [stack.enter_context(each.serve(most, "")) for each in there]
                crowds = []
                for each, server in zip(there, servers, strict=True):
                    come = idling.idlers(
                        each.name, each.dialect, server, options.rooms, options.per_room
                    )
                    crowds.append(stack.enter_context(come))
                idling.idle(crowds, options.idle_seconds)
        except (Wrong, OSError) as error:
            found.problems.append(f"idle peers, run {run + 1}: {error}")
            continue
        for crowd in crowds:
            runs[crowd.name].append(crowd.figures)
    forms = {"kb": "{:.1f}", "kb_later": "{:.1f}", "join_us": "{:.0f}", "share": "{:.1%}"}
    rows = [
        [
            str(peers),
            str(options.rooms) if name == NATIVE else "-",
            name,
            *(
                cell
                for figure, form in forms.items()
                for cell in (show(spread_of(each, figure), form), _ratio(runs, name, figure))
            ),
        ]
        for name, each in runs.items()
    ]
    columns = [
        "peers", "rooms", "server", "kB per peer", "÷ npm", "kB later", "÷ npm",
        "server CPU µs per join", "÷ npm", "idle, of a core", "÷ npm",
    ]  # fmt: skip
    about = (
        f"What resident memory grew by when {peers} peers had come in, and after"
        f" {options.idle_seconds:g} s of heartbeats. PeerJS' clients send one every"
        f" {idling.HEARTBEAT_SECONDS:g} s, Triocast pings."
    )
    found.tables.append(Table("Idle peers", columns, rows, about))
    _chart(found, "signaling-memory", "Memory of an idle peer", "kB", runs, ("kb", "kb_later"))
    found.raw["idle"] = runs


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    if options.messages > MOST_MESSAGES:
        raise ServerFailed(f"--messages is at most {MOST_MESSAGES}: clients have a rate")
    found = _Found()
    if options.install_peers:
        for package in (SERVER, CLIENT):
            try:
                package.install()
            except InstallFailed as error:
                found.missing.append(str(error))
    contestants = _contestants(found)
    measure_part = {"open": _open, "relay": _relay, "idle": _idle}
    for part in PARTS:
        if part in options.only:
            measure_part[part](options, contestants, found)
    return Result(
        title="WebRTC signaling",
        tables=found.tables,
        charts=found.charts,
        notes=[f"{options.runs} runs each, medians (least-most)", _versions()],
        problems=found.problems,
        missing=found.missing,
        raw=found.raw,
    )


if __name__ == "__main__":
    sys.exit(main(["signaling", *sys.argv[1:]]))
