"""Terminals that cannot move their cursor, and pipes, get lines; narrow ones get tables that fit."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import pytest
from command_line import run_qunetlab

from lab.runs.following import terminal
from lab.runs.following.view import table

if TYPE_CHECKING:
    from pathlib import Path


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_cannot_be_redrawn_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.can_redraw(Screen())
    assert not terminal.can_redraw(io.StringIO())
    for name in ("dumb", "unknown"):
        monkeypatch.setenv("TERM", name)
        assert not terminal.can_redraw(Screen())


def test_changes_are_printed_as_they_come_on_a_dumb_terminal(
    observed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.cli.status import show_changes

    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "dumb")
    going_on = iter([True, False])
    show_changes(observed(), False, lambda: next(going_on))
    assert screen.getvalue().startswith("NO ANSWER")
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize("width", [60, 100, 200])
def test_names_of_pairs_stay_whole(width: int) -> None:
    rows = [("alice-carol", "word " * 40, "x" * 30)]
    lines = table(("pair", "why", "more"), rows, width)
    assert max(map(len, lines)) <= width
    assert any("alice-carol" in line for line in lines)


def test_a_letter_that_a_terminal_lacks_is_escaped(tmp_path: Path) -> None:
    env = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"}
    said = run_qunetlab("check", str(tmp_path / "Göteborg.toml"), env=env)
    assert said.returncode == 2
    assert "G\\u00f6teborg.toml" in said.stderr


@pytest.mark.parametrize("width", ["60", "100"])
def test_tables_of_commands_fit(qunetlab: Any, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for command in ("keyrate --testbed simulated-four-node --pair alice-bob", "doctor"):
        said = qunetlab(*command.split())
        assert said.stdout, said.stderr
        assert max(map(len, said.stdout.splitlines())) <= int(width)


def test_every_help_page_fits_sixty_columns(qunetlab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.cli.examples import commands_of
    from lab.cli.main import app

    monkeypatch.setenv("COLUMNS", "60")
    for path, _ in commands_of(app):
        said = qunetlab(*path.split(), "--help")
        assert max(map(len, said.stdout.splitlines())) <= 60, path
