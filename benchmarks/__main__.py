"""``python -m benchmarks NAME …`` runs one benchmark; each has its own ``--help``."""

import importlib
import signal
import sys
from types import FrameType

BENCHMARKS = {"fan_out": "one event to many clients, next to a C loop that only calls write()"}


def _end(signal_number: int, _frame: FrameType | None) -> None:
    # As an exception, so that the servers which a benchmark started are ended, too.
    sys.exit(128 + signal_number)


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        print("usage: python -m benchmarks NAME [options]\n")
        for name, about in BENCHMARKS.items():
            print(f"  {name:12} {about}")
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    benchmark = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    return benchmark.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
