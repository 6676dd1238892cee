"""Compiles the C programs into ``.build``, once for each state of their sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / ".build"
FLAGS = ("-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra")


def find_compiler() -> str | None:
    """Return the C compiler: ``$CC``, else ``cc``; None if there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def compile_program(name: str, compiler: str) -> Path:
    """Return the program made of all C files in the folder ``name``."""
    sources = sorted((HERE / name).glob("*.c"))
    state = hashlib.sha256(repr((compiler, FLAGS)).encode())
    for source in [*sources, *sorted((HERE / name).glob("*.h"))]:
        state.update(source.read_bytes())
    program = BUILD / f"{name}-{state.hexdigest()[:16]}"
    if not program.exists():
        BUILD.mkdir(exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *FLAGS, "-o", unfinished, *sources], check=True)
        unfinished.replace(program)  # two runs at once never see half a program
    return program
