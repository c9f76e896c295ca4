"""The command line in this process, for whoever asks only what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner

from lab.cli.errors import explain
from lab.cli.main import app


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Command(Protocol):
    """``qunetlab ARGUMENTS``; ``data`` is the data folder of that call."""

    def __call__(self, *arguments: str, data: Path | None = None) -> Said: ...


@pytest.fixture(scope="session")
def qunetlab() -> Command:
    """Errors are told as :func:`lab.cli.main.main` does."""

    def call(*arguments: str, data: Path | None = None) -> Said:
        result = CliRunner(env={"QUNETLAB_DATA": str(data)} if data else None).invoke(app, arguments)
        if result.exception is None or isinstance(result.exception, SystemExit):
            return Said(result.exit_code, result.stdout, result.stderr)
        code, text = explain(result.exception)
        return Said(code, result.stdout, f"{result.stderr}{text}\n")

    return call


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out but not drawn: half a second less for every page."""
    monkeypatch.setattr("lab.cli.curves.png_of", lambda figure: b"")
