"""Each module has tests of its own, at the path that mirrors its own."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "triocast"

ELSEWHERE: dict[str, str] = {}
"""Modules without a file of their own, with the reason."""


def mirror(module: Path) -> Path:
    """Return where the tests of a module belong."""
    folder, name = module.relative_to(SOURCE).parent, module.stem.strip("_")
    return TESTS / folder / f"test_{name}.py"


def test_each_module_has_tests_of_its_own():
    modules = {path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"}
    assert modules
    alone = {str(path.relative_to(SOURCE)) for path in modules if not mirror(path).exists()}
    assert alone == ELSEWHERE.keys()
