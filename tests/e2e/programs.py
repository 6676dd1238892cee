"""What tests do with other people's programs: miss them, wait for them, end them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

_STOP_SECONDS = 10.0


def missing(what: str) -> NoReturn:
    """Skip a test whose program is not here, saying what to install; in CI, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def starts(process: subprocess.Popen[Any], is_ready: Callable[[], bool], seconds: float) -> bool:
    """Wait for a program that has been started; false if it ends instead, or is not ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_ready():
            return True
        try:
            process.wait(0.02)  # between two looks; ends at once if the process does
        except subprocess.TimeoutExpired:
            continue
        return False
    return False


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a program to end, and see to it that it does."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
