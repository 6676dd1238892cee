"""The modules of the browser SDK in Node, with a world that is played: no server, no packages."""

from __future__ import annotations

import pytest

from e2e.npm import SCRIPTS, run_tests

pytestmark = pytest.mark.once

RUN_SECONDS = 60.0


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("sdk/*.test.mjs")))
def test_in_node(script: str) -> None:
    run_tests(f"sdk/{script}", limit=RUN_SECONDS)
