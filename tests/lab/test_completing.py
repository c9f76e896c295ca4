"""What a shell offers: names of the testbed that the command line names so far, or of the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from click.shell_completion import ShellComplete
from command_line import run_qunetlab

from lab.cli.main import app
from lab.runs.testbeds.folder import template_path

USERS = ["alice", "bob", "carol", "dave"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "testbed.toml").write_text(template_path("simulated-four-node").read_text())
    return tmp_path


def offered(line: str) -> list[str]:
    """As a shell asks: the words behind the command's name, the last of them incomplete."""
    *words, incomplete = line.split(" ")[1:]
    shell = ShellComplete(typer.main.get_command(app), {}, "qunetlab", "_QUNETLAB_COMPLETE")
    return [each.value for each in shell.get_completions(words, incomplete)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("qunetlab stop . ", ["relay", *USERS]),
        ("qunetlab monitor simulated-four-node --role r", ["relay"]),
        ("qunetlab node ", USERS),
        ("qunetlab keygen a", ["alice", "alice-bob", "alice-carol", "alice-dave"]),
        ("qunetlab calibrate --pair c", ["carol-dave"]),
        ("qunetlab keyrate --testbed simulated-four-node --pair b", ["bob-carol", "bob-dave"]),
        ("qunetlab keys meet b", ["bob-carol", "bob-dave"]),
    ],
)
def test_names_of_the_testbed_in_reach_are_offered(
    line: str, found: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    assert offered(line) == found


@pytest.mark.parametrize("content", [None, "no TOML", "users = 3", 'users = [{ nam = "x" }]'])
def test_without_a_testbed_that_can_be_read_nothing_is_offered(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "testbed.toml").write_text(content)
    assert offered("qunetlab calibrate --pair a") == []


def test_the_version_is_one_line() -> None:
    said = run_qunetlab("--version")
    assert said.returncode == 0
    assert said.stdout.startswith("qunetlab 0.")
    assert len(said.stdout.splitlines()) == 1
