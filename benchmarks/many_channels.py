"""Many channels: what a delivery costs the server where everybody listens to something else.

The same events are published twice, into channels that somebody listens to and into ones that
nobody does, in turn. What the second costs is publishing; the difference is the fan-out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import sys
from collections.abc import Iterator, Sequence

import attrs

from benchmarks.__main__ import main
from benchmarks.crowding import Crowd, crowd, need_all, need_compiler, record
from benchmarks.figures import Spread, show
from benchmarks.processor_time import processor_seconds
from benchmarks.results import Chart, Result, Table
from benchmarks.servers import SPARE_DESCRIPTORS, Running, need_descriptors, serve_triocast
from benchmarks.wire import (
    WebSocket,
    Wrong,
    connect,
    frame,
    get_json,
    publish_singly,
    publish_stream,
    websocket,
)

ABOUT = "10 000 channels next to one: CPU per delivery, and of subscribing"

MOST_RATIO = 1.5
MOST_PATTERN_RATIO = 1.1
POST, NDJSON = "single POSTs", "NDJSON"
_PATIENCE = 30.0
_BLOCKS = {POST: 50, NDJSON: 20}
"""Into so many parts a measurement is cut; see `_measure_way`."""

_LEAST_BLOCK = {POST: 2, NDJSON: 50}
"""Events of such a part at the least: of fewer a stream would be one request after the other."""

_CHURN = 50
"""Subscriptions that come and go together, so that a connection's own number hardly changes."""


@attrs.frozen
class _Case:
    """So many channels, each with so many subscribers among the clients."""

    name: str
    channels: int
    subscribers: int
    clients: int
    patterns: int = 0
    base: str | None = None
    """The case that it is compared with, and may cost `most` times of."""
    most: float = MOST_RATIO


@attrs.frozen
class _State:
    """A server that clients ask for channels: how many it has, how many of them are the asker's."""

    name: str
    channels: int
    own: int = 0


@attrs.frozen
class _Cost:
    per_delivery: float
    per_publish: float
    records_per_read: float


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks many_channels", description=__doc__)
    add = parser.add_argument
    add("--channels", type=int, default=10_000, help="[10000]")
    add("--subscribers", type=int, default=5, help="of each channel [5]")
    add("--clients", type=int, default=1000, help="WebSockets that share the channels [1000]")
    add("--own-channels", type=int, default=1000, help="channels of the one with many [1000]")
    add("--patterns", type=int, default=1000, help="patterns that match nothing [1000]")
    add("--posts", type=int, default=5000, help="single POSTs [5000]")
    add("--streamed", type=int, default=50_000, help="events by NDJSON [50000]")
    add("--requests", type=int, default=5000, help="to subscribe, and to unsubscribe [5000]")
    add("--runs", type=int, default=3, help="[3]")
    return parser


def _cases(options: argparse.Namespace) -> list[_Case]:
    many, each, clients = options.channels, options.subscribers, options.clients
    one = f"1 channel, {each} clients"
    all_of_them = f"{many} channels, {each} clients each"
    own, single = f"1 client, {options.own_channels} channels", "1 client, 1 channel"
    return [
        _Case(one, 1, each, clients),
        _Case(f"1 channel, {clients} clients", 1, clients, clients),
        _Case(all_of_them, many, each, clients, base=one),
        _Case(
            f"{all_of_them}, {options.patterns} patterns",
            many, each, clients, options.patterns, base=all_of_them, most=MOST_PATTERN_RATIO,
        ),
        _Case(single, 1, 1, 1),
        _Case(own, options.own_channels, 1, 1, base=single),
    ]  # fmt: skip


def _subscribe(case: _Case, comers: Crowd, server: Running) -> None:
    """Deal the channels out to the clients, as evenly as can be. Raises Wrong."""
    names: list[list[str]] = [[] for _ in range(case.clients)]
    for place in range(case.channels * case.subscribers):
        names[place % case.clients].append(f"loud:{place // case.subscribers:05}")
    asked = 0
    for client, channels in enumerate(names):
        if channels:
            asked += 1
            request = {"type": "subscribe", "id": client, "channels": channels}
            comers.say(client, json.dumps(request, separators=(",", ":")))
    counts = comers.wait("messages", case.clients + asked, _PATIENCE)
    if counts["messages"] != case.clients + asked:
        raise Wrong(f"{asked} subscribed, and {counts['messages'] - case.clients} were answered")
    found = get_json(server, "/realtime/stats")["channel_count"]
    if not case.channels <= found <= case.channels + 1:  # and the one for broadcasts
        raise Wrong(f"{case.channels} channels were subscribed to, the server knows {found}")


def _bodies(kind: str, channels: int, events: int) -> list[bytes]:
    """Return events for all channels in turn, in an order that is always the same."""
    order = list(range(channels))
    random.Random(channels).shuffle(order)
    rest = f'"type":"bench","data":{json.dumps({"n": record(), "pad": "x" * 80})}}}'
    return [
        f'{{"channel":"{kind}:{order[number % channels]:05}",{rest}'.encode()
        for number in range(events)
    ]


def _publish(stream: socket.socket, way: str, bodies: Sequence[bytes]) -> None:
    if way == POST:
        publish_singly(stream, bodies)
    else:
        publish_stream(stream, b"\n".join(bodies) + b"\n", len(bodies))


def _block(case: _Case, way: str, options: argparse.Namespace) -> int:
    """Return how many events of a part make about as many deliveries as with few subscribers."""
    wanted = options.posts if way == POST else options.streamed
    shared = max(case.subscribers // options.subscribers, 1)
    return max(wanted // shared // _BLOCKS[way], _LEAST_BLOCK[way])


def _measure_way(case: _Case, way: str, size: int, server: Running, comers: Crowd) -> _Cost:
    """Publish in small blocks, in turn to nobody and to somebody. Raises Wrong.

    What fan-out adds to a POST is little next to the POST itself, and to what else goes on on a
    machine; so each block is compared with the one right before it, and the median pair counts.
    """
    events = size * _BLOCKS[way]
    mute, loud = (_bodies(kind, case.channels, events) for kind in ("mute", "loud"))
    apart, added = [], []
    comers.reset()
    due, counts = 0, {"records": 0, "reads": 0}
    for start in range(0, len(mute), size):
        used = []
        with connect(server) as stream:
            for bodies, subscribers in ((mute, 0), (loud, case.subscribers)):
                block = bodies[start : start + size]
                due += len(block) * subscribers
                before = processor_seconds(server.pid)
                _publish(stream, way, block)
                counts = comers.wait("records", due, _PATIENCE)
                used.append(processor_seconds(server.pid) - before)
        apart.append(used[0] / size)
        added.append((used[1] - used[0]) / (size * case.subscribers))
    if (came := comers.rest(0.1)["records"]) != due:  # also what should not come
        raise Wrong(f"{case.name}, {way}: {due} deliveries were due, {came} came")
    return _Cost(
        statistics.median(added) * 1e6,
        statistics.median(apart) * 1e6,
        counts["records"] / max(counts["reads"], 1),
    )


def _measure_case(case: _Case, options: argparse.Namespace) -> Iterator[tuple[str, _Cost]]:
    with (
        serve_triocast(options.clients + SPARE_DESCRIPTORS) as server,
        crowd(server, case.clients, "websocket") as comers,
        websocket(server) as other,
    ):
        need_all(comers)
        _subscribe(case, comers, server)
        if case.patterns:
            # Of many lengths: a pattern is found by the beginnings of a channel's name.
            names = [f"quiet{'z' * (n % 20)}:{n:04}*" for n in range(case.patterns)]
            other.ask({"type": "subscribe", "id": 1, "channels": names})
        with connect(server) as stream:  # what the first event of a channel costs is not it
            for kind in ("loud", "mute"):
                _publish(stream, NDJSON, _bodies(kind, case.channels, case.channels))
        comers.wait("records", case.channels * case.subscribers, _PATIENCE)
        for way in (POST, NDJSON):
            yield way, _measure_way(case, way, _block(case, way, options), server, comers)


@contextlib.contextmanager
def _asking(state: _State, options: argparse.Namespace) -> Iterator[tuple[Running, WebSocket]]:
    """Bring a server into a state; give it, and a client that has its own channels."""
    case = _Case("", state.channels, options.subscribers, options.clients)
    with (
        serve_triocast(options.clients + SPARE_DESCRIPTORS) as server,
        crowd(server, case.clients, "websocket") as comers,
        websocket(server) as client,
    ):
        need_all(comers)
        _subscribe(case, comers, server)
        if state.own:
            names = [f"own:{number:05}" for number in range(state.own)]
            client.ask({"type": "subscribe", "id": 1, "channels": names})
        yield server, client


def _ask(kind: str, server: Running, client: WebSocket) -> float:
    """Return the CPU in µs of a request, of one channel each. Raises Wrong."""
    requests = [{"type": kind, "id": name, "channel": f"churn:{name:05}"} for name in range(_CHURN)]
    frames = b"".join(frame(json.dumps(each).encode()) for each in requests)
    before = processor_seconds(server.pid)
    client.stream.sendall(frames)
    found = [answer["id"] for answer in client.answers(_CHURN)]
    if found != list(range(_CHURN)):
        raise Wrong(f"requests to {kind} were answered in the order {found}")
    return (processor_seconds(server.pid) - before) / _CHURN * 1e6


def _measure_requests(
    states: Sequence[_State], options: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Return the CPU of subscribing and unsubscribing, of all states in turn. Raises Wrong."""
    used: dict[str, list[tuple[float, float]]] = {state.name: [] for state in states}
    with contextlib.ExitStack() as stack:
        asked = {state.name: stack.enter_context(_asking(state, options)) for state in states}
        for number in range(max(options.requests // _CHURN, 1) + 1):
            for name, (server, client) in asked.items():
                pair = (_ask("subscribe", server, client), _ask("unsubscribe", server, client))
                if number:  # the first round warms up
                    used[name].append(pair)
    return {
        name: (statistics.median(a for a, _ in found), statistics.median(b for _, b in found))
        for name, found in used.items()
    }


Costs = dict[tuple[str, str], list[_Cost]]
"""By case and way, run by run."""

Requests = dict[str, list[tuple[float, float]]]
"""By state of the server, run by run: CPU in µs of subscribing and unsubscribing."""


def _ratio(costs: Sequence[float], bases: Sequence[float]) -> Spread:
    # A difference of nothing would be a wrong measurement, not a reason to end without a table.
    return Spread.of([c / b if b > 0 else float("nan") for c, b in zip(costs, bases, strict=True)])


def _fan_out_table(cases: Sequence[_Case], costs: Costs) -> Table:
    columns = [
        "case", "published by", "server CPU µs per delivery", "compared with", "ratio", "target",
        "deliveries per read", "server CPU µs per publish",
    ]  # fmt: skip
    rows = []
    for way in (POST, NDJSON):
        for case in cases:
            found = costs[case.name, way]
            mine = [cost.per_delivery for cost in found]
            ratio = target = ""
            if case.base is not None:
                bases = [cost.per_delivery for cost in costs[case.base, way]]
                ratio, target = show(_ratio(mine, bases), "{:.2f}"), f"≤ {case.most}"
            rows.append(
                [
                    case.name,
                    way,
                    show(Spread.of(mine), "{:.2f}"),
                    case.base or "",
                    ratio,
                    target,
                    show(Spread.of([cost.records_per_read for cost in found]), "{:.1f}"),
                    show(Spread.of([cost.per_publish for cost in found]), "{:.1f}"),
                ]
            )
    about = (
        "What publishing costs is measured apart, with channels that nobody listens to, and taken"
        " off. Where several deliveries come in one read the server joined them."
    )
    return Table("Fan-out", columns, rows, about)


def _requests_table(requests: Requests) -> Table:
    columns = ["server", "subscribe, CPU µs", "ratio", "unsubscribe, CPU µs", "ratio", "target"]
    first = next(iter(requests.values()))
    rows = []
    for state, found in requests.items():
        cells: list[str] = []
        for place in (0, 1):
            costs = [run[place] for run in found]
            ratio = _ratio(costs, [run[place] for run in first])
            shown = "" if found is first else show(ratio, "{:.2f}")
            cells += [show(Spread.of(costs), "{:.1f}"), shown]
        rows.append([state, *cells, "" if found is first else f"≤ {MOST_RATIO}"])
    about = f"One channel in each request, {_CHURN} requests in one segment."
    return Table("Subscribing and unsubscribing", columns, rows, about)


def measure(arguments: list[str]) -> Result:
    options = _parser().parse_args(arguments)
    need_compiler()
    need_descriptors(options.clients + SPARE_DESCRIPTORS)
    cases = _cases(options)
    few = max(options.channels // 1000, 1)
    own = max(options.own_channels - 2 * _CHURN, 0)
    states = [
        _State(f"{few} channel{'s' * (few > 1)}", few),
        _State(f"{options.channels} channels", options.channels),
        _State(f"{options.channels} channels, {own} the asker's own", options.channels, own),
    ]
    costs: Costs = {(case.name, way): [] for case in cases for way in (POST, NDJSON)}
    requests: Requests = {state.name: [] for state in states}
    problems = []
    for run in range(options.runs):
        try:
            found = {
                (case.name, way): cost
                for case in cases
                for way, cost in _measure_case(case, options)
            }
            asked = _measure_requests(states, options)
        except Wrong as wrong:
            problems.append(f"run {run + 1}: {wrong}")
            continue
        for key, cost in found.items():
            costs[key].append(cost)
        for state, pair in asked.items():
            requests[state].append(pair)
    complete = any(requests.values())
    bars = {
        case.name: {way: Spread.of([c.per_delivery for c in costs[case.name, way]])
                    for way in (POST, NDJSON)}
        for case in cases if complete
    }  # fmt: skip
    return Result(
        title="Many channels",
        tables=[_fan_out_table(cases, costs), _requests_table(requests)] if complete else [],
        charts=[Chart("many-channels", "Server CPU of one delivery", "µs", bars)],
        notes=[
            f"{options.runs} runs each, medians (least-most); {options.posts} POSTs and"
            f" {options.streamed} events by NDJSON, fewer where all {options.clients} clients get"
            f" each; {options.requests} requests of a kind"
        ],
        problems=problems,
        raw={
            "costs": [
                {"case": name, "way": way, "runs": [attrs.asdict(cost) for cost in found]}
                for (name, way), found in costs.items()
            ],
            "requests": requests,
        },
    )


if __name__ == "__main__":
    sys.exit(main(["many_channels", *sys.argv[1:]]))
