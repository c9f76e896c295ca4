"""``qunetlab demo``: the whole testbed on one machine, supervised from the first process to the report.

Start order: simulated instruments, hub and learning server; then relay and nodes, which need the addresses
of the first; then the clients.  Stop order is the reverse, so that every owner can still reach its
instruments and make them safe before the simulator goes.  All state lives in a private temporary folder
that is removed at the end; only the report stays.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.cli.folder import create_folder, template_path
from lab.cli.progress import Display, PairProgress, RunProgress
from lab.cli.report import render_report
from lab.cli.supervisor import ChildError, Event, Supervisor
from lab.testbed import Testbed, load_testbed, resolve_addresses, write_testbed

START_TIMEOUT_S = 90.0
STALL_TIMEOUT_S = 120.0
"""Without a single event from any process for this long, the run is given up."""

PACKAGES = ("qunetlab", "qcodes", "pyvisa-py", "pyserial", "pyzmq", "numpy", "numba", "gmpy2", "torch")


class Run:
    """The processes of one run and what they reported."""

    def __init__(self, folder: Path, testbed_path: Path, supervisor: Supervisor) -> None:
        self.folder = folder
        self.testbed_path = testbed_path
        self.supervisor = supervisor
        self.testbed: Testbed = load_testbed(testbed_path)
        self.blocks: list[Event] = []
        self.frames: list[Event] = []
        self.rounds: list[Event] = []
        self.ledgers: dict[str, dict[str, dict[str, int]]] = {}
        self.instrument_states: dict[str, Any] = {}
        self.safe: bool | None = None

    def start_ring(self) -> None:
        """Simulator, hub, relay and nodes."""
        resolved = self.folder / "resolved.toml"
        path = str(self.testbed_path)
        self.supervisor.start("simulate", "simulate", path, "--json", "--resolved", str(resolved))
        self.supervisor.start("orchestrator", "orchestrator", path)
        ready = self.supervisor.ready(["simulate", "orchestrator"], START_TIMEOUT_S)
        addresses = {item["name"]: item["address"] for item in ready["simulate"]["instruments"]}
        hub = {name: ready["orchestrator"][name] for name in ("control", "bulk")}
        self._rewrite(addresses=addresses, hub=hub)
        users = list(self.testbed.user_names())
        self.supervisor.start("relay", "relay", path)
        for user in users:
            self.supervisor.start(user, "node", user, path)
        ready = self.supervisor.ready(["relay", *users], START_TIMEOUT_S)
        self._rewrite(deliveries={user: ready[user]["delivery"] for user in users})

    def start_learning(self, config: dict[str, Any], data: Path | None) -> None:
        """Server and one client per user."""
        path = str(self.testbed_path)
        self.supervisor.start("fl-server", "fl", "server", path, "--config", json.dumps(config))
        ready = self.supervisor.ready(["fl-server"], START_TIMEOUT_S)
        self._rewrite(server=ready["fl-server"]["endpoint"])
        extra = ["--data", str(data)] if data else []
        for user in self.testbed.user_names():
            check = self.folder / "self-check" / user
            check.mkdir(parents=True)
            self.supervisor.start(
                f"fl-{user}", "fl", "client", user, path, "--self-check", str(check), *extra
            )

    def _rewrite(
        self,
        *,
        addresses: dict[str, str] | None = None,
        hub: dict[str, str] | None = None,
        deliveries: dict[str, str] | None = None,
        server: str | None = None,
    ) -> None:
        """Fill in what has become known; processes started later read the new file."""
        data = tomllib.loads(self.testbed_path.read_text(encoding="utf-8"))
        data = resolve_addresses(data, addresses or {})
        if hub:
            data["hub"] = hub
        if server:
            data["fl"] = {"server": server}
        for user in data["users"]:
            user["delivery"] = (deliveries or {}).get(user["name"], user.get("delivery", "auto"))
        write_testbed(data, self.testbed_path)
        self.testbed = load_testbed(self.testbed_path)

    def note(self, name: str, event: Event) -> None:
        """File one event."""
        kind = event.get("event")
        if kind == "block":
            self.blocks.append(event)
        elif kind == "light":
            self.frames.append(event)
        elif kind == "round":
            self.rounds.append(event)
        elif kind == "ledger":
            self.ledgers[name] = event["peers"]
        elif event.get("stopped") and name == "simulate":
            self.instrument_states = event["states"]
            self.safe = event.get("safe")

    def stop(self) -> None:
        """Stop everything in order and collect the last words."""
        users = list(self.testbed.user_names())
        self.supervisor.stop_all(
            [[f"fl-{user}" for user in users], ["fl-server"], [*users, "relay"], ["orchestrator"], ["simulate"]]
        )
        time.sleep(0)
        for name, event in self.supervisor.drain():
            self.note(name, event)


@contextmanager
def supervised_run(source: str, changes: dict[str, Any]) -> Iterator[Run]:
    """A run in a private temporary folder; everything is stopped and removed at the end, whatever happens.

    ``source`` is a bundled testbed or a file; ``changes`` maps sections to keys that are replaced in it.
    """
    folder = Path(tempfile.mkdtemp(prefix="qunetlab-"))
    try:
        path = Path(source) if source.endswith(".toml") else template_path(source)
        testbed_path = create_folder(folder / "testbed", path)
        data = tomllib.loads(testbed_path.read_text(encoding="utf-8"))
        for section, keys in changes.items():
            data[section] = {**data.get(section, {}), **keys}
        write_testbed(data, testbed_path)
        supervisor = Supervisor(folder)
        run = Run(folder, testbed_path, supervisor)
        try:
            yield run
        finally:
            run.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_demo(
    *, out: Path, rounds: int, task: str, data: Path | None, seed: int, source: str, as_json: bool
) -> int:
    """The demo command; returns the exit code."""
    from fl.server import FLConfig
    from fl.tasks import load_task

    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    learning = load_task(task, data)
    with supervised_run(source, {"simulation": {"seed": seed}}) as run:
        clients = len(run.testbed.users)
        config = FLConfig(task=task, rounds=rounds, n_clients=clients, seed=seed)
        demand = config.key_bits_per_round(learning.n_parameters) * rounds
        progress = RunProgress(rounds=rounds, phase="starting instruments, relay and nodes")
        progress.pairs = {pair: PairProgress(demand_bits=demand) for pair in run.testbed.pairs()}
        with Display(progress) as display:
            display.update(force=True)
            run.start_ring()
            progress.phase = "starting learning"
            display.update(force=True)
            run.start_learning(config.as_dict(), data)
            progress.phase = "keys and training"
            _follow(run, progress, display)
            progress.phase = "stopping"
            display.update(force=True)
        run.stop()
        report = _report(run, learning, config, task, seed, demand)
        shutil.copytree(run.folder / "self-check", out / "self-check", dirs_exist_ok=True)
    return 0


def _follow(run: Run, progress: RunProgress, display: Display) -> None:
    """Take events until training is finished."""
