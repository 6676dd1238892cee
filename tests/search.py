"""Search for counterexamples at random, for a time: ``tox -e search -- --minutes 30``.

The ordinary run of the property tests derives its examples from the tests themselves, so that it
is the same every time. This one plays rounds with ever new seeds until the time is over (exit code
0) or a test fails (exit code 1); then it prints the example and a command that finds it again.
Whatever is found becomes an explicit ``@example`` of its test.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_FAILED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description="Search for counterexamples at random.",
        epilog="Further arguments go to pytest, such as -k websocket or tests/interleavings.",
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long to search (10)")
    parser.add_argument("--examples", type=int, default=1_000, help="of a test in a round (1000)")
    parser.add_argument("--seed", type=int, help="seed of the first round; random if not given")
    return parser.parse_known_args(arguments)


def play(command: Sequence[str], environment: dict[str, str], seconds: float) -> tuple[int, str]:
    """Run pytest; return its exit code and output, or 0 if the time was over before it ended."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return 0, ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    options, others = parse(arguments)
    environment = os.environ | {"TRIOCAST_TEST_EXAMPLES": str(options.examples)}
    profile = ["-m", "hypothesis", "--hypothesis-profile=search"]
    deadline = time.monotonic() + options.minutes * 60
    seed = secrets.randbits(32) if options.seed is None else options.seed
    rounds = 0
    while (left := deadline - time.monotonic()) > 0:
        print(f"round {rounds + 1}, seed {seed}, {left / 60:.1f} minutes left", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "auto", *profile]
        code, output = play([*command, f"--hypothesis-seed={seed}", *others], environment, left)
        if code:
            print(output)
            for test in _FAILED.findall(output):
                found = ["python", "-m", "pytest", test, *profile, f"--hypothesis-seed={seed}"]
                print("To find it again:")
                print(f"  TRIOCAST_TEST_EXAMPLES={options.examples} {shlex.join(found)}")
            return 1
        rounds += 1
        seed += 1
    print(f"nothing found in {rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
