"""The ring of two users with their learning clients and a server, each a process, on machines of their own where there may be any."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

from namespaces import Network
from two_users_ring import PAIR, Ring, free_endpoints

from fl.experiments.server_options import as_toml
from lab.runs.consent import consent_of_simulated
from lab.runs.interlocks import acknowledge, states
from lab.runs.supervising.supervisor import HONEST
from lab.runs.testbeds.machine import Machine
from lab.testbed import write_testbed
from orchestrator.events.common import Serving
from orchestrator.events.learning import ClientState, RoundCompleted
from orchestrator.events.process import ProcessEvent
from orchestrator.events.status import BlockReport

LEARNING = ("fl-server", *(f"fl-{user}" for user in PAIR))
RUN = "recovery"
MODE = "otp"
"""A round takes about as much key as a block gives, so that neither waits long for the other."""


class LearningRing(Ring):
    """``network`` has a machine for every role, under its name; without one all are on this machine."""

    def __init__(self, folder: Path, network: Network | None) -> None:
        super().__init__(folder)
        self.network = network
        data = tomllib.loads(self.path.read_text(encoding="utf-8"))
        data["fl"] = {"server": free_endpoints(1)[0]}
        if network is not None:
            hub, server = network.address("orchestrator"), network.address("fl-server")
            data["hub"] = {"control": f"tcp://{hub}:4001", "bulk": f"tcp://{hub}:4002"}
            data["fl"] = {"server": f"tcp://{server}:4003"}
            for user in data["users"]:
                user["delivery"] = f"tcp://{network.address(user['name'])}:4004"
        write_testbed(data, self.path)

    def program_of(self, role: str) -> tuple[str, ...]:
        return HONEST if self.network is None else ("in_namespace", self.network.namespace(role), *HONEST)

    def start(self, role: str) -> None:
        path = str(self.path)
        if role == "fl-server":
            asked = self.folder / "server.toml"
            asked.write_text(as_toml({"rounds": 100_000, "mode": MODE, "run_id": RUN, "task": "digits"}))
            arguments = ["fl", "server", path, "--config", str(asked)]
        elif role in LEARNING:
            arguments = ["fl", "client", role.removeprefix("fl-"), path, "--mode", MODE, "--task", "digits"]
        else:
            super().start(role)
            return
        self.supervisor.start(role, *arguments, program=self.program_of(role))

    def start_all(self) -> None:
        self.start("simulate")
        self.supervisor.ready(["simulate"], 60)
        if self.network is not None:
            self._lead_to_instruments(self.network)
        for role in ("orchestrator", "relay", *PAIR, "fl-server"):
            self.start(role)
        self.supervisor.ready(["orchestrator", "relay", *PAIR, "fl-server"], 90)
        state = self.path.parent / "state"
        consent_of_simulated(state / "fl-server" / RUN / "run-description.json", list(PAIR), state)
        for role in LEARNING[1:]:
            self.start(role)

    def _lead_to_instruments(self, network: Network) -> None:
        data = tomllib.loads(self.path.read_text(encoding="utf-8"))
        hosts = [
            word.partition(":")[0]
            for entry in data["instruments"]
            for word in entry["address"].split("::")
            if word.startswith("127.")
        ]
        nets = {".".join(host.split(".")[:3]) + ".0/24" for host in hosts}
        for net in nets:
            network.has_loopback_net("simulate", net)

    def back_at_work(self, timeout_s: float = 60.0, *, lit_here: bool = True) -> tuple[float, float]:
        """Seconds until the next stored block, that was ``lit_here`` and not before, and until the next round is over."""
        started, block_s, round_s = time.monotonic(), list[float](), list[float]()

        def wanted(_: str, event: ProcessEvent) -> bool:
            now_s = time.monotonic() - started
            counts = isinstance(event, BlockReport) and event.stored and not block_s
            if counts and (event.started_s > started or not lit_here):
                block_s.append(now_s)
            if isinstance(event, RoundCompleted) and not round_s:
                round_s.append(now_s)
            return bool(block_s and round_s)

        self.supervisor.drain()
        self.wait_for(wanted, "a block and a round", timeout_s)
        return block_s[0], round_s[0]

    def acknowledge(self) -> bool:
        """Light the relay again where it latched for a station that it lost; whether it had."""
        machine = Machine(self.path, None)
        (told,) = states(machine, ["relay"])
        if told.state is None or not told.state.causes:
            return False
        deadline_s = time.monotonic() + 10.0
        while not acknowledge(machine, ["relay"], "the test")[0].ok:
            assert time.monotonic() < deadline_s, states(machine, ["relay"])
            time.sleep(0.1)
        return True

    def back(self, role: str) -> None:
        """Start a killed role again; returns when it serves, or, as a client, has begun."""
        self.start(role)
        begun = ClientState if role in LEARNING[1:] else Serving
        self.wait_for(lambda name, event: name == role and isinstance(event, begun), f"{role} is back")
