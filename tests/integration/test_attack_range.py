"""Every attack on a whole ring that `qunetlab up` started: what is promised against it happens, and the ring is honest afterwards."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run_qunetlab

from lab.runs.testbeds.folder import DEFAULT_TESTBED, create_folder, template_path
from sim_backends.bench_addresses import free_port_range

pytestmark = pytest.mark.long
PATIENCE_S = 400.0


class Ring:
    """A ring at work, asked as an operator asks it."""

    def __init__(self, home: Path) -> None:
        self.home = str(home)
        self.seen = 0

    def ask(self, *words: str, timeout_s: float = 200.0) -> str:
        said = run_qunetlab(*words, timeout_s=timeout_s)
        assert said.returncode == 0, (words, said.stdout, said.stderr)
        return said.stdout

    def blocks(self) -> list[dict[str, Any]]:
        said = run_qunetlab("runs", "list", "--testbed", self.home, "--kind", "block", "--json")
        rows: list[dict[str, Any]] = json.loads(said.stdout)
        return rows

    def wait_for_block(self, *, ok: bool, why: str = "") -> dict[str, Any]:
        """The first block with this end that is not forgotten."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            found = self.blocks()[self.seen :]
            for row in found:
                if row["ok"] == ok and why in row["result"]:
                    return row
            if time.monotonic() > give_up:
                history = self.ask("queue", "history", "--testbed", self.home, "--limit", "30")
                raise AssertionError(f"no block that {'gave' if ok else 'gave no'} key {why}\n{history}")
            time.sleep(1.0)

    def forget(self) -> None:
        """Blocks so far are not looked at any more."""
        self.seen = len(self.blocks())


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    folder = tmp_path_factory.mktemp("range") / "bench"
    create_folder(
        folder, template_path(DEFAULT_TESTBED), host="127.0.0.1", port=free_port_range(7, random.Random())
    )
    up = run_qunetlab("up", str(folder), "--detach", timeout_s=300)
    assert up.returncode == 0, up.stderr
    ring = Ring(folder)
    try:
        ring.ask("queue", "add", "key", "alice-bob", "--bits", "50M", "--testbed", ring.home)
        ring.wait_for_block(ok=True)
        yield ring
    finally:
        down = run_qunetlab("down", str(folder), timeout_s=120)
    assert "every instrument in its safe state" in down.stdout


@pytest.mark.parametrize(
    ("name", "strength", "why"),
    [
        ("tap", 30.0, "announced clicks do not fit the calibrated channel"),
        ("intercept-resend", 20.0, "error rate"),
        ("bright-light", 3.0, "announced clicks do not fit the calibrated channel"),
        ("lying-relay", 20.0, "error rate"),
        ("tampering-hub", 5.0, "block aborted"),
    ],
)
def test_blocks_under_attack_give_no_key_and_say_why_and_then_there_is_key_again(
    ring: Ring, name: str, strength: float, why: str
) -> None:
    begun = ring.ask("attack", ring.home, name, "--strength", str(strength))
    assert ": on" in begun
    try:
        assert json.loads(ring.ask("attack", ring.home, "--json"))["on"]["name"] == name
        ring.forget()
        refused = ring.wait_for_block(ok=False, why=why)
        assert refused["result"].startswith("no key")
    finally:
        ended = ring.ask("attack", ring.home, "--stop")
    assert "honest again" in ended
    assert json.loads(ring.ask("attack", ring.home, "--json"))["on"] is None
    ring.forget()
    ring.wait_for_block(ok=True)


def test_no_client_takes_part_in_a_run_with_two_lists(ring: Ring, tmp_path: Path) -> None:
    ring.ask("attack", ring.home, "two-list-server")
    try:
        run = (
            "train",
            "digits",
            "--testbed",
            ring.home,
            "--live",
            "--rounds",
            "1",
            "--out",
            str(tmp_path / "run"),
        )
        trained = run_qunetlab(*run, timeout_s=300)
    finally:
        ring.ask("attack", ring.home, "--stop")
    assert trained.returncode != 0
    assert "leaves out dave: a sum without one tells" in trained.stderr
    assert "no round was completed" in trained.stderr
