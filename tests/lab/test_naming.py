"""One way to name a testbed everywhere, and words in another order than the help page has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import run_qunetlab

from lab.cli.naming import known_testbeds
from lab.runs.testbeds.folder import DEFAULT_TESTBED, create_folder, template_path

if TYPE_CHECKING:
    from tests.lab.conftest import Command

pytestmark = pytest.mark.early


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("naming")
    create_folder(folder / "bench", template_path(DEFAULT_TESTBED))
    (folder / "plain.toml").write_text(template_path(DEFAULT_TESTBED).read_text())
    return folder


@pytest.mark.parametrize("name", [DEFAULT_TESTBED, "bench", "bench/testbed.toml", "plain.toml", "./bench/"])
@pytest.mark.parametrize(
    "command", ["check {}", "keyrate --testbed {} --pair bob-alice", "keyrate --testbed {} --pair alice,bob"]
)
def test_every_name_is_taken_by_every_command(
    qunetlab: Command, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    monkeypatch.chdir(home)
    said = qunetlab(*command.format(name).split())
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("check simulated-for-node", "is simulated-four-node meant?"),
        ("check bemch", "is bench meant?"),
        ("check plan.toml", "is plain.toml meant?"),
        ("keyrate --testbed simulated-referenc --pair alice-bob", "is simulated-reference meant?"),
        ("train digits --testbed simulated-four-nod --live", "is simulated-four-node meant?"),
        ("keygen --testbed bensh alice bob", "is bench meant?"),
        ("keygen simulated-reference alice", "alice is no pair of this testbed; pairs are alice-bob"),
        ("keygen alice bob carol", "name the two users of one pair"),
        ("keygen bench plain.toml alice bob", "at most one testbed"),
        ("keygen plain.toml mallory alice", "mallory:alice is no pair of this testbed; pairs are alice-bob"),
        ("status simulated-four-node", "qunetlab init FOLDER --template simulated-four-node"),
        ("relay simulated-four-node", "qunetlab init FOLDER"),
        ("node alice simulated-reference", "qunetlab init FOLDER --template simulated-reference"),
        ("stop physical-ring-example", "qunetlab init FOLDER --template physical-ring-example"),
        ("keys simulated-four-node", "without secrets or state of its own"),
        ("calibrate --testbed simulated-four-node", "without secrets or state of its own"),
        ("queue list --testbed simulated-four-node", "without secrets or state of its own"),
    ],
)
def test_what_was_meant_is_said(
    qunetlab: Command, home: Path, monkeypatch: pytest.MonkeyPatch, command: str, told: str
) -> None:
    monkeypatch.chdir(home)
    said = qunetlab(*command.split())
    assert said.returncode == 2
    assert told in said.stderr
    assert "Traceback" not in said.stderr


def test_a_folder_that_bears_a_bundled_name_is_pointed_at(
    qunetlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_folder(tmp_path / DEFAULT_TESTBED, template_path(DEFAULT_TESTBED))
    monkeypatch.chdir(tmp_path)
    assert f"./{DEFAULT_TESTBED}" in qunetlab("stop", DEFAULT_TESTBED).stderr
    dark = qunetlab("stop", f"./{DEFAULT_TESTBED}")
    assert "has no state folder here" in dark.stdout


@pytest.mark.parametrize("command", ["stop alice bench", "stop bench alice", "acknowledge alice bench"])
def test_role_and_testbed_come_in_either_order(
    qunetlab: Command, home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(home)
    said = qunetlab(*command.split())
    assert said.stdout.startswith("alice has no state folder here")


@pytest.mark.parametrize("command", ["fl client bench alice", "fl client alice bench"])
def test_client_and_testbed_come_in_either_order(
    qunetlab: Command, home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(home)
    assert "users.alice.delivery is 'auto'" in qunetlab(*command.split()).stderr


def test_a_shell_offers_what_lies_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    assert known_testbeds("simulated-f") == ["simulated-four-node", "simulated-full-bench"]
    assert known_testbeds("") == [*known_testbeds("sim"), "physical-ring-example", "bench", "plain.toml"]
    assert known_testbeds(f"{home}/b") == [f"{home}/bench"]


@pytest.mark.parametrize("columns", ["60", "200"])
@pytest.mark.parametrize(
    "terminal", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}]
)
def test_help_and_errors_fit_any_terminal(columns: str, terminal: dict[str, str]) -> None:
    env = {**os.environ, "COLUMNS": columns, **terminal}
    said = run_qunetlab("stop", "--help", env=env)
    assert said.returncode == 0, said.stderr
    assert max(map(len, said.stdout.splitlines())) <= int(columns)
    assert "qunetlab stop bench relay" in said.stdout
    assert "\x1b[" not in said.stdout


def test_a_trace_is_shown_where_it_is_asked_for() -> None:
    plain, debug = (run_qunetlab("check", "nowhere", *more) for more in ((), ("--debug",)))
    assert plain.returncode == debug.returncode == 2
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert debug.stderr.endswith(plain.stderr)
