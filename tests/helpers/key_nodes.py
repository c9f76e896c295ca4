"""Nodes without instruments, as processes: a hub, and nodes that hold key and serve applications over HTTPS.

``python key_nodes.py FOLDER hub`` prints the hub's addresses as JSON, ``python key_nodes.py FOLDER NAME ADDRESSES`` the
node's address; both go on until their standard input is closed.  :func:`make` prepares the folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lab.runs.testbeds.folder import create_folder, named_testbed
from lab.testbed import Testbed, load_testbed
from orchestrator import runtime
from orchestrator.hub.agent import Agent, TopicWaiting
from orchestrator.hub.hub import Hub
from orchestrator.processes.node_applications import NodeApplications
from orchestrator.processes.node_https import serving
from orchestrator.processes.node_store import open_node_store
from orchestrator.processes.pair_worker import PairWorker
from orchestrator.secret import SecretBits
from orchestrator.wire.curve import load_keys
from orchestrator.wire.zeromq import ZeroMQ

SAES = {"app1": "alice", "app2": "bob"}


def make(folder: Path, blocks: int = 8, block_bytes: int = 131072) -> Testbed:
    """A testbed folder whose alice and bob share ``blocks`` blocks of key and have met nobody yet."""
    file = create_folder(folder, named_testbed("simulated-four-node"), applications=SAES)
    text = file.read_text()
    for name in SAES:
        text = text.replace(f"[sae.{name}]\n", f"[sae.{name}]\nbits_per_day = 0\nrequests_per_s = 0.0\n")
    file.write_text(text.replace("[key_delivery]\n", "[key_delivery]\nmax_waiting_keys = 1_000_000\n"))
    testbed = load_testbed(folder / "testbed.toml")
    rng = np.random.default_rng(7)
    keys = [rng.bytes(block_bytes) for _ in range(blocks)]
    for name, peer in (("alice", "bob"), ("bob", "alice")):
        state(folder, name).mkdir(parents=True, exist_ok=True)
        with open_node_store(testbed, name, folder / "secrets" / name, state(folder, name)) as store:
            for number, key in enumerate(keys):
                store.deposit_pending(peer, f"b{number}", SecretBits.from_bytes(key), b"")
                store.confirm_deposit(peer, f"b{number}")
    return testbed


def state(folder: Path, name: str) -> Path:
    return folder / "state" / name


def be_hub(folder: Path, addresses: str = "") -> None:
    """The hub of the folder's testbed; at the ``addresses`` of one before it, if there are some."""
    testbed = load_testbed(folder / "testbed.toml")
    allowed = {testbed.public_key(role): role for role in ("alice", "bob", "carol", "dave")}
    own = load_keys(folder / "secrets" / "orchestrator")
    wanted = json.loads(addresses) if addresses else ["auto", "auto"]
    with ZeroMQ() as transport, Hub(transport, own, allowed, *wanted, epoch=1) as hub:
        print(json.dumps([hub.control_endpoint, hub.bulk_endpoint]), flush=True)
        sys.stdin.readline()


def be_node(folder: Path, name: str, addresses: str) -> None:
    """One of the two nodes: keys for applications, and meetings with the other."""
    testbed = load_testbed(folder / "testbed.toml")
    secrets = folder / "secrets" / name
    peer = "bob" if name == "alice" else "alice"
    with ExitStack() as stack:
        store = stack.enter_context(open_node_store(testbed, name, secrets, state(folder, name)))
        hub_key = load_keys(folder / "secrets" / "orchestrator").public
        agent = Agent(name, load_keys(secrets), hub_key, *json.loads(addresses))
        agent.start()
        stack.callback(agent.close)
        worker = PairWorker(agent, store, peer)
        worker.start()
        stack.callback(worker.close)
        applications = NodeApplications(testbed, name, store, agent)
        applications.start(lambda: None)
        stack.callback(applications.close)
        stop = runtime.event()

        def listen() -> None:
            while not stop.is_set():
                event = agent.control_recv(0.2)
                if isinstance(event, TopicWaiting) and not applications.offered(event.peer, event.topic):
                    worker.offered(event.topic)

        thread = runtime.spawn(listen, name="events")
        stack.callback(thread.join)
        stack.callback(stop.set)
        url = stack.enter_context(serving(testbed, name, applications.desk, secrets, lambda _: None))
        print(json.dumps(url), flush=True)
        sys.stdin.readline()


@dataclass
class KeyNodes:
    """The three processes."""

    folder: Path
    addresses: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def __enter__(self) -> KeyNodes:
        self.addresses = json.dumps(self.start("hub"))
        for name in ("alice", "bob"):
            self.urls[name] = str(self.start(name, self.addresses))
        return self

    def start(self, name: str, *more: str) -> Any:
        """Start one of them; what it prints when it is there."""
        process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), name, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running[name] = process
        assert process.stdout is not None
        return json.loads(process.stdout.readline())

    def kill(self, name: str) -> None:
        """SIGKILL; :meth:`again` starts the same one anew."""
        process = self.running.pop(name)
        process.kill()
        process.communicate()

    def again(self, name: str) -> None:
        told = self.start(name, self.addresses)
        if name != "hub":
            self.urls[name] = str(told)

    def __exit__(self, *_: object) -> None:
        for name in ("alice", "bob", "hub"):
            process = self.running.pop(name, None)
            if process is None:
                continue
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


if __name__ == "__main__":
    place, role, *rest = sys.argv[1:]
    if role == "hub":
        be_hub(Path(place), *rest)
    else:
        be_node(Path(place), role, rest[0])
