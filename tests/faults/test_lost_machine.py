"""A machine is lost, and the page's way of beginning anew is gone step by step, by the very commands that it shows.

Every role but hub and simulator has left the folder of the first machine as a parcel, and lives in a folder of its own.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import run_qunetlab
from pages_commands import ROOT
from two_users_ring import PAIR, Ring

from lab.runs.interlocks import states
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed
from orchestrator.hub.connect import connect_agent
from orchestrator.wire.links import LinkState
from orchestrator.wire.revoked import RevokedKeys

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
LOST, LEFT = PAIR
FIRST = "orchestrator"
"""The machine where the ring was laid out; the simulator is on it as well."""
PLACES = ("any machine that is left", "every machine that is left", "her new machine")


def shown() -> list[tuple[str, str]]:
    """Where, and what, in the order of the page."""
    page = (ROOT / "docs" / "several-machines.md").read_text(encoding="utf-8")
    block = page.partition("**A lost machine**")[2].split("```")[1]
    found = []
    for line in block.strip().splitlines():
        command, _, remark = line.partition("#")
        (place,) = [each for each in PLACES if remark.strip().startswith(f"on {each}")]
        found.append((place, command.strip()))
    return found


WALK = shown()


class Apart(Ring):
    """Machines are folders; ``bench`` in each is its testbed folder."""

    def part(self) -> None:
        """Everybody but the hub leaves the first machine."""
        self.first.chmod(0o700)
        for role in ("relay", *PAIR):
            self.run(FIRST, f"qunetlab init bench --export {role} --to {role}.tar")
            self.home(role).mkdir()
            shutil.move(self.first / f"{role}.tar", self.home(role))
            self.run(role, f"qunetlab init bench --import {role}.tar")

    @property
    def first(self) -> Path:
        return self.path.parents[1]

    def home(self, machine: str) -> Path:
        return self.first if machine in (FIRST, "simulate") else self.folder / f"of-{machine}"

    def path_of(self, role: str) -> Path:
        own = self.home(role) / "bench" / "testbed.toml"
        return own if own.exists() else self.path

    def run(self, machine: str, line: str) -> str:
        done = run_qunetlab(*shlex.split(line)[1:], cwd=self.home(machine))
        assert done.returncode == 0, f"{machine}: {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def bring(self, name: str, machine: str) -> None:
        """Carry a file to a machine, from whichever has it."""
        for other in (FIRST, "relay", *PAIR):
            if (found := self.home(other) / name).exists() and other != machine:
                carry = shutil.copy2 if name.endswith(".public") else shutil.move
                carry(found, self.home(machine) / name)

    def restart(self, *roles: str) -> None:
        for role in roles:
            self.supervisor.stop([role])
            self.supervisor.children.pop(role)
            self.ended(role)
        for role in roles:
            self.begin(role)

    def begin(self, role: str) -> None:
        self.start(role)
        self.supervisor.ready([role], 60, self.note)

    def lose(self, machine: str) -> None:
        """The machine is gone with what was on it; somebody has its disk."""
        self.kill(machine)
        shutil.move(self.home(machine), self.folder / f"thief-of-{machine}")
        self.home(machine).mkdir(mode=0o700)

    def refuses_thief(self, role: str) -> bool:
        """Whether the hub turns away whoever has the disk of a lost machine."""
        stolen = self.folder / f"thief-of-{role}" / "bench"
        agent = connect_agent(load_testbed(stolen / "testbed.toml"), role, stolen / "secrets" / role)
        try:
            return agent.wait_for(LinkState.REFUSED, 20.0)
        finally:
            agent.close()

    def release_if_latched(self) -> None:
        """The relay lost a station in its light, if there was any at that moment."""
        (told,) = states(Machine(self.path_of("relay"), None), ["relay"])
        if told.state is not None and told.state.causes:
            self.release("station-lost")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    made = Apart(tmp_path_factory.mktemp("machines"))
    try:
        made.start("simulate")
        made.supervisor.ready(["simulate"], 60)
        made.part()
        for role in (FIRST, "relay", *PAIR):
            made.start(role)
        made.supervisor.ready([FIRST, "relay", *PAIR], 60)
        asked = run_qunetlab(
            "queue", "add", "key", "-".join(PAIR), "--bits", "1000M", "--testbed", str(made.path)
        )
        assert asked.returncode == 0, asked.stderr
        made.wait_for_block()
        yield made
    finally:
        made.stop()


def test_a_user_whose_machine_is_lost_is_back_by_the_commands_of_the_page(ring: Apart) -> None:
    old = load_testbed(ring.path).keys
    ring.lose(LOST)
    left = [FIRST, "relay", LEFT]
    for place, line in WALK:
        said = line.replace("bob", LEFT)
        machines = left if place == PLACES[1] else [FIRST] if place == PLACES[0] else [LOST]
        for machine in machines:
            if said.startswith("systemctl restart"):
                ring.restart(machine)
                continue
            for name in re.findall(r"\S+\.(?:tar|public|secret)\b", said):
                ring.bring(name, machine)
            if said.startswith("qunetlab node"):
                ring.begin(LOST)
            else:
                ring.run(machine, said)
    ring.release_if_latched()
    ring.wait_for_block()
    assert {load_testbed(ring.path_of(role)).keys[LOST] != old[LOST] for role in (*left, LOST)} == {True}
    assert RevokedKeys(ring.path.parent / "state" / FIRST).roles == [LOST, f"fl-{LOST}"]
    assert "generation 1 with" in ring.log(LEFT)
    assert ring.refuses_thief(LOST)
    ring.wait_for_block()


@pytest.mark.parametrize("lost", ["relay", FIRST])
def test_a_relay_or_a_hub_that_is_lost_is_back_with_new_keys(ring: Apart, lost: str) -> None:
    """The simulator stays: it stands for the instruments."""
    roles = [FIRST, "relay", *PAIR]
    left = [each for each in roles if each != lost]
    if lost == FIRST:
        ring.kill(FIRST)
        for part in (("secrets", FIRST), ("secrets", "observer"), ("state", FIRST)):
            shutil.rmtree(ring.path.parent.joinpath(*part))
    else:
        ring.lose(lost)
    also = " --anew observer" if lost == FIRST else ""
    ring.run(LEFT, f"qunetlab init bench --anew {lost}{also} --to anew.tar")
    for machine in roles if lost == FIRST else left:
        ring.bring("anew.public", machine)
        ring.run(machine, "qunetlab keys replace anew.public --testbed bench")
    ring.bring("anew.tar", lost)
    ring.run(lost, "qunetlab init bench --import anew.tar")
    for file in ("anew.tar", "anew.public"):
        for machine in roles:
            (ring.home(machine) / file).unlink(missing_ok=True)
    if lost == FIRST:
        ring.begin(FIRST)
        ring.restart("relay", *PAIR)
        asked = run_qunetlab(
            "queue", "add", "key", "-".join(PAIR), "--bits", "1000M", "--testbed", str(ring.path)
        )
        assert asked.returncode == 0, asked.stderr
    else:
        ring.restart(*left)
        ring.begin(lost)
    ring.release_if_latched()
    ring.wait_for_block()
    assert lost == FIRST or ring.refuses_thief(lost)
    ring.wait_for_block()


def test_at_the_end_both_ends_have_the_same_stock(ring: Apart) -> None:
    ring.stop()
    rows = []
    for user, peer in (PAIR, PAIR[::-1]):
        told = json.loads(ring.run(user, "qunetlab keys bench --json"))["stores"]
        rows += [row for row in told if (row["node"], row["peer"]) == (user, peer)]
    assert rows[0]["lanes"] == rows[1]["lanes"]
    assert rows[0]["lanes"]["mask"] > 0
    assert [row["generation"] for row in rows] == [1, 1]
    assert rows[PAIR.index(LEFT)]["burnt"] > 0
