"""All roles of this machine at once: what is refused, where their addresses are found, and a whole ring up and down."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import run_qunetlab
from held_up import held

from lab.runs.here import roles_here
from lab.runs.testbeds.folder import (
    DEFAULT_TESTBED,
    FolderError,
    create_folder,
    find_testbed,
    template_path,
)
from lab.testbed import load_testbed
from orchestrator.durable import destroy_folder

if TYPE_CHECKING:
    from tests.lab.conftest import Command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return create_folder(tmp_path / "bench", template_path(DEFAULT_TESTBED)).parent


def test_addresses_in_use_are_found_while_the_roles_run_and_not_after(home: Path) -> None:
    running = home / "running.toml"
    running.write_text((home / "testbed.toml").read_text())
    with held(home):
        assert find_testbed(home) == find_testbed(home / "testbed.toml") == running
    assert find_testbed(home) == home / "testbed.toml"


def test_a_second_up_says_it_runs_and_how_to_end_it(qunetlab: Command, home: Path) -> None:
    with held(home):
        for command in (("up", str(home)), ("up", str(home), "--detach")):
            said = qunetlab(*command)
            assert said.returncode == 2
            assert f"run already, started by process {os.getpid()}" in said.stderr
            assert f"`qunetlab down {home}`" in said.stderr


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_testbed_without_secrets_says_what_to_do(qunetlab: Command, tmp_path: Path, command: str) -> None:
    alone = tmp_path / "alone.toml"
    alone.write_text(template_path(DEFAULT_TESTBED).read_text())
    assert f"qunetlab init FOLDER --template {alone}" in qunetlab(command, str(alone)).stderr
    assert "qunetlab init FOLDER" in qunetlab(command, DEFAULT_TESTBED).stderr


def test_down_without_up_has_nothing_to_end(qunetlab: Command, home: Path) -> None:
    said = qunetlab("down", str(home))
    assert (said.returncode, "nothing to end" in said.stderr) == (2, True)


def test_only_roles_whose_secrets_are_here_are_of_this_machine(home: Path) -> None:
    testbed = load_testbed(home / "testbed.toml")
    for role in ("orchestrator", "bob", "carol"):
        destroy_folder(home / "secrets" / role)
    assert roles_here(home, testbed) == ["relay", "alice", "dave"]
    for role in ("relay", "alice", "dave"):
        destroy_folder(home / "secrets" / role)
    with pytest.raises(FolderError, match="no role has its secrets"):
        roles_here(home, testbed)


def hold_pages(home: Path) -> None:
    """Every process is where Prometheus is told, alive and ready, and shows itself."""
    found = json.loads((home / "state" / "up" / "targets.json").read_text())
    names = [each["labels"]["process"] for each in found]
    assert names == ["alice", "bob", "carol", "dave", "orchestrator", "relay", "simulate"]
    for each in found:
        place = f"http://{each['targets'][0]}"
        for path, said in (
            ("healthz", b"alive"),
            ("readyz", b'"ready": true'),
            ("metrics", b"process_open_fds "),
        ):
            with urllib.request.urlopen(f"{place}/{path}", timeout=10) as answer:
                assert said in answer.read(), f"{each} {path}"


@pytest.mark.long
def test_a_ring_goes_up_and_down_and_says_what_was_made_safe(home: Path) -> None:
    up = run_qunetlab("up", str(home), "--detach", timeout_s=300)
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("ready: simulate, orchestrator, relay, alice, bob, carol, dave")
    try:
        assert run_qunetlab("status", str(home), "--check").stdout.startswith("IDLE")
        listed = run_qunetlab("instruments", str(home), "--owner", "relay").stdout
        assert "IN USE" in listed
        assert "NOT REACHED" not in listed
        hold_pages(home)
    finally:
        down = run_qunetlab("down", str(home))
    assert down.returncode == 0, down.stderr
    assert "read back: " in down.stdout
    assert "laser, launch" in down.stdout
    assert "sensors_alice of alice, station out of the ring" in down.stdout
    assert "Ended: simulate, orchestrator, relay, alice, bob, carol, dave." in down.stdout
    assert down.stdout.endswith("The simulator saw every instrument in its safe state.\n")
    assert not (home / "running.toml").exists()
