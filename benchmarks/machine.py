"""Names the machine and the versions that numbers belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import time
from pathlib import Path

PACKAGES = ("triocast", "trio", "hypercorn", "quart-trio", "quart", "msgspec", "websockets")


def describe_machine() -> dict[str, str]:
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "load before the run": f"{os.getloadavg()[0]:.2f}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class Neighbours:
    """How many cores everybody else uses, from the making of this object to `cores`.

    Counts what the machine did, less the server's share and that of this process's ended children.
    """

    def __init__(self, server_pid: int | None) -> None:
        self._pid = server_pid
        self._time = time.monotonic()
        self._busy = self._busy_seconds()

    def cores(self) -> float:
        busy = self._busy_seconds() - self._busy
        return max(busy / (time.monotonic() - self._time), 0.0)

    def _busy_seconds(self) -> float:
        # user, nice, system, idle, iowait, irq, softirq, steal
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        busy = sum(ticks) - ticks[3] - ticks[4]
        if self._pid is not None:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(") ")[2].split()
            busy -= int(fields[11]) + int(fields[12])
        ours = resource.getrusage(resource.RUSAGE_CHILDREN)
        return busy / os.sysconf("SC_CLK_TCK") - ours.ru_utime - ours.ru_stime
