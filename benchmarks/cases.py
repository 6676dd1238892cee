"""Servers measured in turn under the same loads: their tables, charts and limits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.figures import Figures, Spread, limit_of, ratios_of, show, spread_of
from benchmarks.results import Chart, Table


@attrs.frozen
class Case:
    """All runs of one number of clients on one transport: a list of figures for each server.

    Lists of different servers go together run by run; a run that was not valid is empty.
    """

    clients: int
    transport: str
    servers: dict[str, list[Figures]] = attrs.field(factory=dict)


@attrs.frozen
class _Column:
    title: str
    figure: str
    format: str = "{:.0f}"
    ratio: bool = True


_TABLES: Mapping[str, tuple[str, tuple[_Column, ...]]] = {
    "single": (
        "Single events: the next one only after the last client has the one before",
        (
            _Column("deliveries/s", "deliveries_per_second"),
            _Column("deliveries/s, first to last client", "fan_out_per_second"),
            _Column("p50 ms", "p50_ms", "{:.2f}", ratio=False),
            _Column("p99 ms", "p99_ms", "{:.2f}", ratio=False),
            _Column("server CPU µs per delivery", "server_us_per_delivery", "{:.2f}"),
            _Column("events per write", "events_per_write", "{:.2f}", ratio=False),
            _Column("events per read", "events_per_read", "{:.2f}", ratio=False),
            _Column("bytes per delivery", "bytes_per_delivery", ratio=False),
        ),
    ),
    "burst": (
        "Bursts: events all the time, a bounded number of them not yet everywhere",
        (
            _Column("deliveries/s", "deliveries_per_second"),
            _Column("server CPU µs per delivery", "server_us_per_delivery", "{:.2f}"),
            _Column("events per write", "events_per_write", "{:.1f}", ratio=False),
            _Column("events per read", "events_per_read", "{:.1f}", ratio=False),
        ),
    ),
    "open": (
        "Events by the clock, latency from when each was due",
        (
            _Column("p50 ms", "p50_ms", "{:.2f}"),
            _Column("p99 ms", "p99_ms", "{:.2f}"),
        ),
    ),
    "connect": (
        "Connections",
        (
            _Column("accepted/s", "accepts_per_second"),
            _Column("accepted per server CPU second", "accepts_per_cpu_second"),
            _Column("kB per idle connection", "kb_per_connection", "{:.1f}", ratio=False),
        ),
    ),
}

_CHARTS = (
    ("single-rate", "Single events", "deliveries/s", "single.deliveries_per_second"),
    ("burst-rate", "Bursts", "deliveries/s", "burst.deliveries_per_second"),
    ("clock-p99", "Events by the clock: 99 % of the deliveries within", "ms", "open.p99_ms"),
    ("accept-rate", "Connections accepted", "per second", "connect.accepts_per_second"),
    ("memory", "Memory of an idle connection", "kB", "connect.kb_per_connection"),
)
_ORDERS = 30
"""Where the most is this often the least, a linear axis shows nothing of the least."""


def _rows(
    phase: str, columns: Sequence[_Column], case: Case, subject: str, against: Sequence[str]
) -> Iterator[list[str]]:
    where = [str(case.clients), case.transport]
    for who, runs in case.servers.items():
        spreads = [spread_of(runs, f"{phase}.{column.figure}") for column in columns]
        if any(spreads):
            shown = (show(each, c.format) for each, c in zip(spreads, columns, strict=True))
            yield [*where, who, *shown]
    for peer in against:
        ratios = [
            ratios_of(
                case.servers.get(subject, ()), case.servers.get(peer, ()), f"{phase}.{c.figure}"
            )
            if c.ratio
            else None
            for c in columns
        ]
        if any(ratios):
            shown = (show(each, "{:.2f}") if each else "" for each in ratios)
            yield [*where, f"**{subject} ÷ {peer}**", *shown]


def tables_of(cases: Sequence[Case], subject: str, against: Sequence[str]) -> list[Table]:
    """Return a table for each phase that was measured.

    Ratios are those of `subject` to each of `against`, taken run by run.
    """
    tables = []
    for phase, (title, columns) in _TABLES.items():
        rows = [row for case in cases for row in _rows(phase, columns, case, subject, against)]
        if rows:
            heads = ["clients", "transport", "server", *(column.title for column in columns)]
            tables.append(Table(title, heads, rows))
    return tables


def limits_of(cases: Sequence[Case]) -> Table:
    cores = len(os.sched_getaffinity(0))
    rows = [
        [
            str(case.clients),
            case.transport,
            who,
            *(
                limit_of(runs, phase, cores)
                if spread_of(runs, f"{phase}.deliveries_per_second")
                else "-"
                for phase in ("single", "burst")
            ),
        ]
        for case in cases
        for who, runs in case.servers.items()
        if any(runs)
    ]
    heads = ["clients", "transport", "server", "single events", "bursts"]
    return Table("What limited it", heads, rows)


def charts_of(prefix: str, cases: Sequence[Case]) -> list[Chart]:
    """Return charts of what was measured, named ``prefix-…``."""
    charts = []
    for name, title, unit, figure in _CHARTS:
        bars: dict[str, dict[str, Spread]] = {}
        for case in cases:
            spreads = {who: spread_of(runs, figure) for who, runs in case.servers.items()}
            known = {who: spread for who, spread in spreads.items() if spread is not None}
            if known:
                bars[f"{case.clients} {case.transport}"] = known
        if bars:
            medians = [spread.median for group in bars.values() for spread in group.values()]
            logarithmic = min(medians) > 0 and max(medians) > _ORDERS * min(medians)
            charts.append(Chart(f"{prefix}-{name}", title, unit, bars, logarithmic))
    return charts
