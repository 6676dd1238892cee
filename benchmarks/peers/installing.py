"""Gets peers from their registries, by the registries' own clients, into ``.build``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.compiling import BUILD

INSTALL_SECONDS = 900.0
ASK_SECONDS = 30.0
HINT = "run `python -m benchmarks comparison --install-peers`"

_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


class InstallFailed(Exception):
    """A peer could not be had from its registry."""


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallFailed(f"`{' '.join(command)}`: {error}") from error
    if done.returncode:
        # Not part of the reason, which a report shows: it may be long, and tell of this machine.
        print(done.stdout.strip()[-2000:], file=sys.stderr)
        raise InstallFailed(f"`{' '.join(command)}` ended with {done.returncode}")


def ask(command: Sequence[str]) -> str | None:
    """Return what a command prints, None if it cannot tell."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@attrs.frozen
class PythonPackages:
    """Packages in a virtual environment of their own, so that they take nothing from ours."""

    folder: Path
    packages: Sequence[str]
    """As pip takes them."""
    measured: Sequence[str]
    """Those whose versions count."""

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def _versions(self) -> dict[str, str] | None:
        said = ask([str(self.python), "-c", _VERSIONS, *self.measured])
        return None if said is None else json.loads(said)

    def missing(self) -> str | None:
        names = ", ".join(self.measured)
        return None if self._versions() else f"{names} are not in {self.folder.name}: {HINT}"

    def version(self, *packages: str) -> str:
        versions = self._versions() or {}
        return ", ".join(f"{name} {versions[name]}" for name in packages)

    def install(self) -> None:
        _run([sys.executable, "-m", "venv", "--clear", str(self.folder)], BUILD)
        _run([str(self.python), "-m", "pip", "install", "-q", *self.packages], BUILD)


def _name_and_version(package: str) -> tuple[str, str]:
    # The name of one in a scope begins with the sign, too.
    name, _, version = package[1:].partition("@")
    return package[0] + name, version


@attrs.frozen
class NodePackages:
    folder: Path
    packages: Sequence[str]
    """Names, with a version where it matters: ``name@1.2.3``."""
    hint: str = HINT
    """How to get them."""

    @property
    def modules(self) -> Path:
        return self.folder / "node_modules"

    def missing(self) -> str | None:
        if shutil.which("node") is None:
            return "there is no `node`: apt-get install nodejs npm"
        absent = [package for package in self.packages if not self._has(package)]
        return f"{', '.join(absent)} not in {self.folder.name}: {self.hint}" if absent else None

    def _has(self, package: str) -> bool:
        name, wanted = _name_and_version(package)
        return self._manifest(name).exists() and wanted in ("", self._version_of(name))

    def _manifest(self, name: str) -> Path:
        return self.modules / name / "package.json"

    def _version_of(self, name: str) -> str:
        return str(json.loads(self._manifest(name).read_text())["version"])

    def version(self) -> str:
        names = [_name_and_version(package)[0] for package in self.packages]
        versions = [f"{name} {self._version_of(name)}" for name in names]
        return ", ".join([*versions, f"node {ask(['node', '--version'])}"])

    def install(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Without a manifest here npm would look for one in the folders above.
        (self.folder / "package.json").write_text('{"private": true}\n')
        options = ["--no-audit", "--no-fund", "--no-progress", "--loglevel=error"]
        _run(["npm", "install", *options, *self.packages], self.folder)


@attrs.frozen
class GoProgram:
    """A program on PATH, or built from its Go module."""

    name: str
    package: str
    """The import path of its main package."""
    module: str
    """The module that has the package, with the version to take."""
    tags: str = ""

    @property
    def _built(self) -> Path:
        return BUILD / "go" / "bin" / self.name

    def find(self) -> str | None:
        if found := shutil.which(self.name):
            return found
        return str(self._built) if self._built.exists() else None

    def missing(self) -> str | None:
        if self.find():
            return None
        if shutil.which("go"):
            return f"there is no `{self.name}` on PATH, and none is built: {HINT}"
        return f"there is no `{self.name}` on PATH, and no `go` to build it"

    def install(self) -> None:
        """Build it as a dependency of an empty module.

        `go install PACKAGE@VERSION` refuses modules with replacements in their go.mod.
        """
        if self.find():
            return
        source = BUILD / "go" / self.name
        shutil.rmtree(source, ignore_errors=True)
        _run(["go", "mod", "init", "peer"], source)
        _run(["go", "get", self.module], source)
        tags = ["-tags", self.tags] if self.tags else []
        build = ["go", "build", "-mod=mod", *tags, "-o", str(self._built), self.package]
        _run(build, source, {"CGO_ENABLED": "0"})
