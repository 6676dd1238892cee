"""``python -m triocast`` is the command ``triocast``."""

import runpy
import sys

import pytest

from triocast.cli import main


def run_module(monkeypatch, *arguments):
    """Run the package as ``python -m`` does; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["triocast", *arguments])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("triocast", run_name="__main__")
    return exit.value.code


def test_help_names_every_command(monkeypatch, capsys):
    assert run_module(monkeypatch, "--help") == 0
    listed = capsys.readouterr().out.partition("\nCommands:\n")[2].splitlines()
    assert {line.split()[0] for line in listed if line.startswith("  ")} >= set(main.commands)


def test_a_wrong_command_fails_with_the_status_of_the_command_line(monkeypatch, capsys):
    assert run_module(monkeypatch, "no-such-command") == 2
    assert "no-such-command" in capsys.readouterr().err
