"""The results as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.figures import Figures, Spread, limit_of, ratios_of, spread_of


@attrs.frozen
class Case:
    """All runs of one number of clients on one transport, of a server and of its peer."""

    clients: int
    transport: str
    runs: list[Figures] = attrs.field(factory=list)
    peers: list[Figures] = attrs.field(factory=list)


@attrs.frozen
class Column:
    title: str
    figure: str
    format: str = "{:.0f}"
    ratio: bool = True


TABLES: Mapping[str, tuple[str, tuple[Column, ...]]] = {
    "single": (
        "Single events: the next one only after the last client has the one before",
        (
            Column("deliveries/s", "deliveries_per_second"),
            Column("deliveries/s, first to last client", "fan_out_per_second"),
            Column("p50 ms", "p50_ms", "{:.2f}", ratio=False),
            Column("p99 ms", "p99_ms", "{:.2f}", ratio=False),
            Column("server CPU µs per delivery", "server_us_per_delivery", "{:.2f}"),
            Column("events per write", "events_per_write", "{:.2f}", ratio=False),
            Column("events per read", "events_per_read", "{:.2f}", ratio=False),
            Column("bytes per delivery", "bytes_per_delivery", ratio=False),
        ),
    ),
    "burst": (
        "Bursts: events all the time, a bounded number of them not yet everywhere",
        (
            Column("deliveries/s", "deliveries_per_second"),
            Column("server CPU µs per delivery", "server_us_per_delivery", "{:.2f}"),
            Column("events per write", "events_per_write", "{:.1f}", ratio=False),
            Column("events per read", "events_per_read", "{:.1f}", ratio=False),
        ),
    ),
    "open": (
        "Events by the clock, latency from when each was due",
        (
            Column("p50 ms", "p50_ms", "{:.2f}"),
            Column("p99 ms", "p99_ms", "{:.2f}"),
        ),
    ),
    "connect": (
        "Connections",
        (
            Column("accepted/s", "accepts_per_second"),
            Column("accepted per server CPU second", "accepts_per_cpu_second"),
            Column("kB per idle connection", "kb_per_connection", "{:.1f}", ratio=False),
        ),
    ),
}


def _show(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    median, least, most = (
        form.format(value) for value in (spread.median, spread.least, spread.most)
    )
    return median if least == most else f"{median} ({least}-{most})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(name: str, server: str, cases: Sequence[Case]) -> Iterator[str]:
    title, columns = TABLES[name]
    if not any(spread_of(case.runs, f"{name}.{columns[0].figure}") for case in cases):
        return
    heads = ["clients", "transport", "server", *(column.title for column in columns)]
    yield from ("", f"### {title}", "", _row(heads), _row(["---"] * len(heads)))
    for case in cases:
        where = [str(case.clients), case.transport]
        for who, runs in ((server, case.runs), ("C loop", case.peers)):
            if not runs:
                continue
            shown = (
                _show(spread_of(runs, f"{name}.{column.figure}"), column.format)
                for column in columns
            )
            yield _row([*where, who, *shown])
        if case.peers:
            ratios = (
                _show(ratios_of(case.runs, case.peers, f"{name}.{column.figure}"), "{:.2f}")
                if column.ratio
                else ""
                for column in columns
            )
            yield _row([*where, f"**{server} ÷ C loop**", *ratios])


def _limits(server: str, cases: Sequence[Case], cores: int) -> Iterator[str]:
    yield from ("", "### What limited it", "")
    for case in cases:
        for who, runs in ((server, case.runs), ("C loop", case.peers)):
            if not runs:
                continue
            limits = "; ".join(
                f"{phase}: {limit_of(runs, phase, cores)}"
                for phase in ("single", "burst")
                if spread_of(runs, f"{phase}.deliveries_per_second")
            )
            if limits:
                yield f"- {case.clients} {case.transport}, {who}: {limits}"


def render(
    machine: Mapping[str, str], notes: Sequence[str], server: str, cases: Sequence[Case]
) -> str:
    """Return the whole report; figures are medians, with least and most of the runs."""
    lines = ["## Fan-out", ""]
    lines += (f"- {name}: {value}" for name, value in machine.items())
    lines += (f"- {note}" for note in notes)
    for name in TABLES:
        lines += _table(name, server, cases)
    lines += _limits(server, cases, int(machine["cores"]))
    return "\n".join(lines)
