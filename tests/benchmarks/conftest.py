"""The benchmarks are no installed package: they are imported from the repository's root."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def need(present: object, why: str) -> None:
    """Skip without what a test needs, but fail in CI."""
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture
def compiler() -> str:
    from benchmarks.compiling import find_compiler

    found = find_compiler()
    need(found, "no C compiler: install one (apt-get install gcc libc6-dev) or name it in CC")
    return str(found)


@pytest.fixture(params=["C", "Python"])
def load_program(request: pytest.FixtureRequest) -> Path | None:
    """The compiled load client; None stands for the one in Python."""
    from benchmarks.compiling import compile_program

    if request.param == "Python":
        return None
    return compile_program("load", request.getfixturevalue("compiler"))
