"""Triocast next to what its users might pick instead, all measured in one run, in turn.

Every measurement has a server of its own: Triocast, the C loop, then each peer that there is, and
the same again for the next run. A peer that is missing is named in the report, with what to do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.arguments import NO_COMPILER, add_load_options, choices, load_note, load_of, numbers
from benchmarks.cases import charts_of, limits_of, tables_of
from benchmarks.compiling import compile_program, find_compiler
from benchmarks.fan_out import LOOP, loop_next_to
from benchmarks.peers import PEERS
from benchmarks.peers.installing import InstallFailed
from benchmarks.peers.peer import Peer
from benchmarks.results import Result, Table
from benchmarks.servers import SPARE_DESCRIPTORS, need_descriptors, serve_triocast
from benchmarks.turns import Contestant, Turns

ABOUT = "Triocast next to other realtime servers, in one run"
TRIOCAST = "Triocast"
RATIOS = ("Nchan", LOOP)
NAMES = tuple(peer.name for peer in PEERS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks comparison", description=__doc__)
    add = parser.add_argument
    add("--clients", type=numbers, default=[1000, 5000], help="[1000,5000]")
    add("--burst-clients", type=numbers, default=[1000], help="numbers that get bursts [1000]")
    add("--peers", type=choices(NAMES), default=list(NAMES), help=f"[{','.join(NAMES)}]")
    add("--install-peers", action="store_true", help="get those that are missing, where possible")
    add_load_options(parser)
    return parser


def _install(peer: Peer) -> str | None:
    """Install a peer that is missing; return why it still is."""
    why = peer.missing()
    if why is None or peer.install is None:
        return why
    print(f"installing {peer.name}", file=sys.stderr, flush=True)
    try:
        peer.install()
    except InstallFailed as error:
        return str(error)
    return peer.missing()


def _cast(absent: Mapping[str, str], peers: Sequence[Peer]) -> Table:
    """Return the table of who took part."""
    rows = [
        [
            peer.name,
            ", ".join(peer.transports),
            f"missing: {absent[peer.name]}" if peer.name in absent else peer.version(),
        ]
        for peer in peers
    ]
    return Table("Compared with", ["server", "transports", "version"], rows)


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    most = max(options.clients) + SPARE_DESCRIPTORS
    need_descriptors(most)
    compiler = None if options.python_client else find_compiler()
    load_program = compile_program("load", compiler) if compiler else None
    loop_program = compile_program("baseline", compiler) if compiler else None
    chosen = [peer for peer in PEERS if peer.name in options.peers]
    reasons = {
        peer.name: _install(peer) if options.install_peers else peer.missing() for peer in chosen
    }
    absent = {name: why for name, why in reasons.items() if why is not None}

    subject = Contestant(TRIOCAST, lambda: serve_triocast(most))
    rivals = [
        (peer, Contestant(peer.name, partial(peer.serve, most), peer.paths, is_peer=True))
        for peer in chosen
        if peer.name not in absent
    ]
    turns = Turns()
    cases = []
    for transport in options.transports:
        contestants = [subject]
        if loop_program is not None:
            contestants.append(loop_next_to(subject, loop_program, transport, options.data_bytes))
        contestants += [rival for peer, rival in rivals if transport in peer.transports]
        for clients in options.clients:
            bursts = clients in options.burst_clients
            phases = [phase for phase in options.phases if phase != "burst" or bursts]
            load = load_of(options, load_program, clients, transport, phases)
            cases.append(turns.take(contestants, load, options.runs))
    missing = [f"{name}: {why}" for name, why in absent.items()]
    if not compiler:
        missing.append("a C compiler, so the C load client and the C loop")
    return Result(
        title="Next to other servers",
        tables=[_cast(absent, chosen), *tables_of(cases, TRIOCAST, RATIOS), limits_of(cases)],
        charts=charts_of("comparison", cases),
        notes=[load_note(options), *([] if compiler else [NO_COMPILER]), *turns.remarks],
        problems=turns.problems,
        missing=missing,
        raw=turns.raw,
    )
