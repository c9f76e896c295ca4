"""A ring of two users as real processes at fixed addresses, so that each can be killed and come back where it was."""

from __future__ import annotations

import socket
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fewer_users import ring_of_users

from lab.runs.following.observer import verdict_on
from lab.runs.following.verdict import Verdict
from lab.runs.interlocks import acknowledge, states
from lab.runs.supervising.supervisor import HONEST, Supervisor
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed, write_testbed
from orchestrator.events.common import Serving
from orchestrator.events.process import Ended, LightProgress, PeerLedger, ProcessEvent, SimulatorStopped
from orchestrator.events.status import BlockReport

SMALL = {"slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}
PAIR = ("alice", "dave")


def free_endpoints(count: int) -> list[str]:
    """Endpoints that were free a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    endpoints = [f"tcp://127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    for probe in probes:
        probe.close()
    return endpoints


class Ring:
    """Simulator, orchestrator, relay, and alice and dave alone on their ring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        source = folder / "two.toml"
        bundled = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
        write_testbed(ring_of_users(bundled, PAIR), source)
        self.path = create_folder(folder / "bench", source)
        data = tomllib.loads(self.path.read_text(encoding="utf-8"))
        data["protocol"] |= SMALL
        endpoints = free_endpoints(2 + len(data["users"]))
        data["hub"] = {"control": endpoints[0], "bulk": endpoints[1]}
        for user, endpoint in zip(data["users"], endpoints[2:], strict=True):
            user["delivery"] = endpoint
        write_testbed(data, self.path)
        self.supervisor = Supervisor(folder)
        self.ledgers: dict[tuple[str, str], PeerLedger] = {}
        self.unsafe: list[str] | None = None

    @classmethod
    @contextmanager
    def making_key(cls, folder: Path) -> Iterator[Ring]:
        """One whose processes all run, and that has made a block."""
        ring = cls(folder)
        try:
            ring.start_all()
            ring.ask_for_key()
            ring.wait_for_block()
            yield ring
        finally:
            ring.stop()

    def path_of(self, role: str) -> Path:
        """The testbed file of a role."""
        return self.path

    def program_of(self, role: str) -> tuple[str, ...]:
        """The module that runs a role."""
        return HONEST

    def start(self, role: str) -> None:
        file = self.path_of(role)
        path = str(file)
        arguments = {
            "simulate": [
                "simulate",
                path,
                "--json",
                "--resolved",
                path,
                "--state",
                str(file.parent / "state"),
            ],
            "orchestrator": ["orchestrator", path],
            "relay": ["relay", path],
        }.get(role, ["node", role, path])
        self.supervisor.start(role, *arguments, program=self.program_of(role))

    def start_all(self) -> None:
        self.start("simulate")
        self.supervisor.ready(["simulate"], 60)
        for role in ("orchestrator", "relay", *PAIR):
            self.start(role)
        self.supervisor.ready(["orchestrator", "relay", *PAIR], 60)

    def ask_for_key(self) -> None:
        from orchestrator.delivery.client import DeliveryClient
        from orchestrator.wire.curve import load_keys

        testbed = load_testbed(self.path)
        keys = load_keys(self.path.parent / "secrets" / f"fl-{PAIR[0]}")
        with DeliveryClient(testbed.user(PAIR[0]).delivery, keys, testbed.public_key(PAIR[0])) as client:
            client.demand({PAIR[1]: 10**9})

    def wait_for(
        self, wanted: Callable[[str, ProcessEvent], bool], what: str, timeout_s: float = 60.0
    ) -> None:
        self.supervisor.wait_for(wanted, timeout_s, what, self.note)

    def wait_for_light(self) -> None:
        """A lease that is not beyond its middle."""
        self.wait_for(
            lambda name, event: isinstance(event, LightProgress) and 2 * event.pulses <= event.planned_pulses,
            "light",
        )

    def wait_for_block(self) -> float:
        """A block whose light began from here on; how long it took."""
        started = time.monotonic()
        self.wait_for(
            lambda name, event: isinstance(event, BlockReport) and event.stored and event.started_s > started,
            "a block",
        )
        return time.monotonic() - started

    def note(self, name: str, event: ProcessEvent) -> None:
        if isinstance(event, PeerLedger):
            self.ledgers[name, event.peer] = event
        elif isinstance(event, SimulatorStopped):
            self.unsafe = event.unsafe

    def kill(self, role: str) -> None:
        process = self.supervisor.children[role].process
        self.supervisor.children.pop(role)
        process.kill()
        process.wait()
        self.ended(role)

    def ended(self, role: str) -> None:
        """All that a child said has been heard, so that another may bear its name."""
        self.wait_for(lambda name, event: name == role and isinstance(event, Ended), f"the end of {role}")

    def come_back(self, role: str) -> float:
        """Start a killed role again and wait for a block; seconds from its ready line to the stored key.

        The relay lost a user's station with its launch open: it stays dark until an operator acknowledges.
        """
        self.start(role)
        self.wait_for(lambda name, event: name == role and isinstance(event, Serving), f"{role} is back")
        if role in PAIR:
            self.release("station-lost", role)
        return self.wait_for_block()

    def release(self, *words: str) -> None:
        """The relay's interlock is latched for this, and nothing lights before it is acknowledged."""
        machine = Machine(self.path_of("relay"), None)
        (told,) = states(machine, ["relay"])
        assert all(word in told.text for word in words), told.text
        assert acknowledge(machine, ["relay"], "the test")[0].ok

    def status(self) -> Verdict:
        """What ``status --check`` says, from a connection of its own."""
        return verdict_on(load_testbed(self.path), self.path.parent / "secrets", 2.0)

    def wait_for_verdict(self, words: str) -> float:
        """Seconds until the verdict has ``words``."""
        started = time.monotonic()
        while words not in (said := self.status()).line:
            assert time.monotonic() - started < 20.0, said.line
        assert said.exit_code == 3
        return time.monotonic() - started

    def stop(self) -> dict[str, int]:
        codes = self.supervisor.stop_all([[*PAIR], ["relay"], ["orchestrator"], ["simulate"]])
        self.supervisor.join_readers()
        for name, event in self.supervisor.drain():
            self.note(name, event)
        return codes

    def log(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text(encoding="utf-8")
