"""From the load client's counts to figures: rates, costs per delivery, medians, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs

BUSY = 0.9
"""From this share of a core on, a process counts as what limited a measurement."""

NOISE = 0.25
"""What other processes may use, in cores, before they count as what limited a measurement."""

Figures = dict[str, float]


def _per(value: float | None, count: float) -> float | None:
    return None if value is None or not count else value / count


def figures_of(report: dict[str, Any]) -> Figures:
    """Return the figures of one measurement, named ``phase.figure``; unknown ones are left out."""
    found: dict[str, float | None] = {}
    connect, clients = report["connect"], report["clients"]
    found["connect.accepts_per_second"] = clients / connect["seconds"]
    cpu = connect["server_cpu_seconds"]
    found["connect.accepts_per_cpu_second"] = clients / cpu if cpu else None
    if connect["rss_kb_before"] is not None:
        grown = connect["rss_kb_after"] - connect["rss_kb_before"]
        found["connect.kb_per_connection"] = grown / clients
    for phase in report["phases"]:
        name, deliveries = phase["name"], phase["deliveries"]
        cpu = phase["server_cpu_seconds"]
        found |= {
            f"{name}.deliveries_per_second": deliveries / phase["seconds"],
            f"{name}.fan_out_per_second": _per(deliveries - phase["events"], phase["span_seconds"]),
            f"{name}.p50_ms": phase["p50_ms"],
            f"{name}.p99_ms": phase["p99_ms"],
            f"{name}.events_per_read": _per(deliveries, phase["reads_with_events"]),
            f"{name}.events_per_write": _per(deliveries, phase["segments"]),
            f"{name}.bytes_per_delivery": _per(phase["bytes"], deliveries),
            f"{name}.server_us_per_delivery": None if cpu is None else _per(cpu * 1e6, deliveries),
            f"{name}.server_share": _per(cpu, phase["seconds"]),
            f"{name}.client_share": _per(phase["client_cpu_seconds"], phase["seconds"]),
        }
    return {name: value for name, value in found.items() if value is not None}


def problems_of(report: dict[str, Any]) -> list[str]:
    """Say what makes a measurement invalid: loss, disorder, joined single events, a gap."""
    problems = [f"{count} {name}" for name, count in report["faults"].items() if count]
    problems += [f"{name} was not measured" for name in report["not_measured"]]
    if not report["ok"] and not problems:
        problems.append("the load client reported a fault")
    for phase in report["phases"]:
        most = phase["most_events_in_a_read"]
        if phase["name"] == "single" and most != 1:
            problems.append(f"{most} single events in one read")
    return problems


@attrs.frozen
class Spread:
    """The median of some runs, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def show(spread: Spread | None, form: str) -> str:
    """Return the median, and behind it the least and the most if they differ."""
    if spread is None:
        return "-"
    median, least, most = (
        form.format(value) for value in (spread.median, spread.least, spread.most)
    )
    return median if least == most else f"{median} ({least}-{most})"


def spread_of(runs: Sequence[Figures], name: str) -> Spread | None:
    values = [run[name] for run in runs if name in run]
    return Spread.of(values) if values else None


def ratios_of(runs: Sequence[Figures], peers: Sequence[Figures], name: str) -> Spread | None:
    """Return run over peer, each run with the one measured right after it."""
    pairs = zip(runs, peers, strict=False)
    values = [run[name] / peer[name] for run, peer in pairs if name in run and peer.get(name)]
    return Spread.of(values) if values else None


def limit_of(runs: Sequence[Figures], phase: str, cores: int) -> str:
    """Say what a phase could not outrun."""
    server = spread_of(runs, f"{phase}.server_share")
    client = spread_of(runs, f"{phase}.client_share")
    if server is None or client is None:
        return "not known"
    shares = f"(server {server.median:.0%}, client {client.median:.0%} of a core)"
    others = spread_of(runs, "others.cores")
    if others is not None and others.median > NOISE:
        return f"other processes, with {others.median:.0%} of a core {shares}"
    if server.median >= BUSY:
        return f"server CPU {shares}"
    if client.median >= BUSY:
        return f"load client {shares}"
    if server.median + client.median >= BUSY * cores:
        return f"all cores {shares}"
    return f"waiting for each other {shares}"
