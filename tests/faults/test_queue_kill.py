"""``kill -9`` of the orchestrator in the middle of a queue of 20 entries: nothing is lost, nothing is done twice.

The orchestrator is a process of its own.  Relay and nodes are agents with the production rules of leases and reports;
what they made is counted by themselves, so it does not depend on what any orchestrator heard or wrote down.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from queue_ring import BLOCK_BITS, PAIRS, PARTIES, ROLES, Light, agent_at, parties

from lab.testbed import load_testbed, write_testbed
from orchestrator.events.status import Pair
from orchestrator.wire.control_socket import ControlError, ask
from orchestrator.wire.curve import CurveKeys, generate_keys, write_keys
from orchestrator.wire.messages import KEY, calibration
from orchestrator.wire.queue_control import (
    AddEntry,
    HoldQueue,
    QueueRequest,
    ResumeQueue,
    ShowHistory,
    ShowQueue,
)

pytestmark = pytest.mark.early

TEMPLATE = Path(__file__).parents[2] / "lab" / "testbeds" / "simulated-reference.toml"
PROCESS = """
import sys, threading
from pathlib import Path
from lab.testbed import load_testbed
from orchestrator.events.process import line_of
from orchestrator.processes.orchestrator_process import run_orchestrator

folder = Path(sys.argv[1])
run_orchestrator(load_testbed(folder / "testbed.toml"), folder / "orchestrator", folder / "state", threading.Event(),
                 lambda event: print(line_of(event), flush=True))
"""
STEPS = ("phase", "visibility")
PATIENCE_S = 60.0
PROCESSING_S = (0.1, 0.1, 4.0)
"""Some blocks are in post-processing from before the kill until the next orchestrator is at work."""


class Killed:
    """An orchestrator that is killed and started again at the same place."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.keys: dict[str, CurveKeys] = {role: generate_keys() for role in ROLES}
        self.keys["orchestrator"] = write_keys(folder / "orchestrator")
        self.data = tomllib.loads(TEMPLATE.read_text(encoding="utf-8"))
        self.data["keys"] = {role: pair.public for role, pair in self.keys.items()}
        (folder / "state").mkdir()
        self.start()
        stack.callback(lambda: self.kill())

    def start(self) -> None:
        write_testbed(self.data, self.folder / "testbed.toml")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROCESS, str(self.folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        told = json.loads(next(line for line in self.process.stdout if '"control"' in line))
        self.data["hub"] = {"control": told["control"], "bulk": told["bulk"]}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def ask(self, request: QueueRequest) -> Any:
        return ask(self.folder / "state", request)

    def open_entries(self) -> int:
        try:
            return sum(row.state in ("waiting", "running") for row in self.ask(ShowQueue()).entries)
        except ControlError:
            return -1


def twenty(rng: np.random.Generator) -> list[AddEntry]:
    """Orders of one to three blocks, two runs, two calibrations."""
    orders = [
        AddEntry(
            "olga",
            "key",
            (PAIRS[rng.integers(3)],),
            int(rng.integers(1, 4)) * BLOCK_BITS,
            priority=int(rng.integers(-2, 3)),
        )
        for _ in range(16)
    ]
    runs = [AddEntry("pete", "run", PAIRS, BLOCK_BITS) for _ in range(2)]
    steps = [AddEntry("olga", "calibration", (PAIRS[0],), steps=(step,)) for step in STEPS]
    entries: list[AddEntry] = [*orders, *runs, *steps]
    return [entries[index] for index in rng.permutation(len(entries))]


def wanted(entries: list[AddEntry]) -> Counter[Pair]:
    """Blocks by pair."""
    return Counter({pair: sum(e.bits for e in entries if pair in e.pairs) // BLOCK_BITS for pair in PAIRS})


def check_kills(folder: Path, seed: int, kills: int) -> None:
    rng = np.random.default_rng(seed)
    entries, light = twenty(rng), Light(processing_s=PROCESSING_S)
    total = sum(wanted(entries).values())
    with ExitStack() as stack:
        world = Killed(folder, stack)
        hub = world.data["hub"]
        purposes = (KEY, *map(calibration, STEPS))
        testbed = load_testbed(world.folder / "testbed.toml")
        agents = {
            role: agent_at(stack, role, world.keys, hub["control"], hub["bulk"], testbed) for role in PARTIES
        }
        light.shining.clear()  # until all orders are there
        parties(stack, agents.__getitem__, light, purposes=purposes)
        stack.callback(light.shining.set)
        for entry in entries:
            world.ask(entry)
        light.shining.set()
        for part in range(1, kills + 1):
            while sum(light.blocks.values()) < total * part // (kills + 2):
                assert light.begun.acquire(timeout=PATIENCE_S)
            time.sleep(float(rng.uniform(0.0, 0.03)))  # anywhere in a lease: offered, lit, told, written
            world.kill()
            world.start()
        deadline = time.monotonic() + PATIENCE_S
        while world.open_entries() != 0:
            assert time.monotonic() < deadline, world.ask(ShowQueue()).entries
            time.sleep(0.05)
        rows = world.ask(ShowQueue(100)).entries
        assert [(row.number, row.state) for row in sorted(rows, key=lambda row: row.number)] == [
            (number, "done") for number in range(1, 21)
        ]
        assert all(row.made_bits == row.wanted_bits for row in rows)
        assert light.blocks == wanted(entries), "a block was lost or made twice"
        assert set(light.steps) == set(map(calibration, STEPS))
        assert sum(light.steps.values()) <= len(STEPS) + kills, (
            "a step that was cut short is done again, no more"
        )
        lines = world.ask(ShowHistory(None, 5000)).lines
        assert sum(line.what.startswith("added: ") for line in lines) == 20
        assert sum("done" in line.what for line in lines) == 20


def test_one_kill_in_the_middle_of_twenty_entries(tmp_path: Path) -> None:
    check_kills(tmp_path, seed=1, kills=1)


def test_a_held_queue_stays_held_and_its_bench_safe_across_a_kill(tmp_path: Path) -> None:
    light = Light()
    with ExitStack() as stack:
        world = Killed(tmp_path, stack)
        hub = world.data["hub"]
        testbed = load_testbed(world.folder / "testbed.toml")
        agents = {
            role: agent_at(stack, role, world.keys, hub["control"], hub["bulk"], testbed) for role in PARTIES
        }
        made = parties(stack, agents.__getitem__, light)
        world.ask(HoldQueue("olga"))
        world.ask(AddEntry("olga", "key", (PAIRS[0],), BLOCK_BITS))
        world.kill()
        world.start()
        for agent in agents.values():
            assert agent.wait_up(20.0)
        wait_until(lambda: all(party.safe for party in made.values()))
        shown = world.ask(ShowQueue())
        assert (shown.held_by, [row.state for row in shown.entries]) == ("olga", ["waiting"])
        assert not light.blocks
        world.ask(ResumeQueue("pete"))
        wait_until(lambda: world.open_entries() == 0)
        assert light.blocks == {PAIRS[0]: 1}
        assert not any(party.safe for party in (made["relay"], made["alice"], made["bob"]))


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_five_kills_in_twenty_entries(tmp_path: Path, seed: int) -> None:
    check_kills(tmp_path, seed, kills=5)
