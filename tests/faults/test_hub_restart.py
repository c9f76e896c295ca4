"""R10, hub and agents: killed, frozen or cut off, they find each other again by themselves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.hub.agent import Agent, LinkDown, LinkUp
from orchestrator.scheduling.fencing import Fence
from orchestrator.wire.channel import ChannelBrokenError
from orchestrator.wire.curve import CurveKeys, load_keys, write_keys
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import PeerChange

RECOVERED_WITHIN_S = 10.0
USERS = ("alice", "bob")

HUB_PROCESS = """
import json, sys
from pathlib import Path
from orchestrator.scheduling.fencing import EpochFile
from orchestrator.hub.events import HubLimits
from orchestrator.hub.hub import Hub
from orchestrator.wire.curve import load_keys
from orchestrator.wire.zeromq import ZeroMQ

folder = Path(sys.argv[1])
allowed = {load_keys(folder / role).public: role for role in ("alice", "bob")}
epoch = EpochFile(folder / "epoch").advance()
hub = Hub(ZeroMQ(), load_keys(folder / "orchestrator"), allowed, sys.argv[2], sys.argv[3],
          epoch=epoch, limits=HubLimits(heartbeat_s=0.1, lost_after_s=1.0))
hub.start()
print(json.dumps([hub.control_endpoint, hub.bulk_endpoint]), flush=True)
while True:
    hub.recv(60.0)
"""


class HubProcess:
    """The hub in a process of its own, so that signals can be sent to it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.keys: dict[str, CurveKeys] = {
            role: write_keys(folder / role) for role in ("orchestrator", *USERS)
        }
        self.endpoints = ["auto", "auto"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", HUB_PROCESS, str(self.folder), *self.endpoints],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(self.end, self.process)
        assert self.process.stdout is not None
        self.endpoints = json.loads(self.process.stdout.readline())

    @staticmethod
    def end(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def agents(self) -> list[Agent]:
        made = []
        for role in USERS:
            agent = Agent(
                role, load_keys(self.folder / role), self.keys["orchestrator"].public, *self.endpoints
            )
            agent.start()
            self.stack.callback(agent.close)
            made.append(agent)
        for agent in made:
            assert agent.wait_up(10.0)
        return made


@pytest.fixture
def hub_process(tmp_path: Path) -> Iterator[HubProcess]:
    with ExitStack() as stack:
        yield HubProcess(tmp_path, stack)


def wait_for_peer(agent: Agent, peer: str) -> None:
    deadline = time.monotonic() + RECOVERED_WITHIN_S
    while peer not in agent.peers:
        assert time.monotonic() < deadline, f"{peer} did not come back"
        agent.control_recv(0.05)


def talk(alice: Agent, bob: Agent, topic: str) -> None:
    wait_for_peer(alice, "bob")
    wait_for_peer(bob, "alice")
    alice.channel("bob", topic).send(topic.encode())
    assert bob.channel("alice", topic).recv(10.0) == topic.encode()


def assert_recovered(agents: list[Agent], since_s: float) -> None:
    for agent in agents:
        assert agent.wait_up(RECOVERED_WITHIN_S - (time.monotonic() - since_s)), agent.link_state


def test_agents_survive_a_restart_of_the_hub(hub_world: Any) -> None:
    agents = alice, bob = [hub_world.agent(role) for role in USERS]
    fence = Fence()
    assert fence.accept(alice.epoch or 0, 1)
    talk(alice, bob, "before")
    open_channel = alice.channel("bob", "half-done")
    old_epoch = alice.epoch
    returned_s = time.monotonic()
    hub_world.restart_hub()
    with pytest.raises(ChannelBrokenError):
        open_channel.recv(RECOVERED_WITHIN_S)
    for agent in agents:
        while not isinstance(event := agent.control_recv(5.0), LinkDown):
            assert event is not None
        while not isinstance(event := agent.control_recv(RECOVERED_WITHIN_S), LinkUp):
            assert event is not None
        assert event.epoch == 2
    assert time.monotonic() - returned_s < RECOVERED_WITHIN_S
    talk(alice, bob, "after")
    assert alice.epoch == 2
    assert not fence.accept(old_epoch or 0, 1)
    assert fence.accept(2, 1)


def test_sigkill_of_the_hub(hub_process: HubProcess) -> None:
    agents = alice, bob = hub_process.agents()
    talk(alice, bob, "before")
    hub_process.process.kill()
    hub_process.process.wait()
    for agent in agents:
        while not isinstance(agent.control_recv(5.0), LinkDown):
            assert agent.link_state is not LinkState.CLOSED
    hub_process.start()
    assert_recovered(agents, time.monotonic())
    talk(alice, bob, "after")
    assert alice.epoch == 2


def test_sigstop_of_the_hub(hub_process: HubProcess) -> None:
    agents = alice, bob = hub_process.agents()
    talk(alice, bob, "before")
    os.kill(hub_process.process.pid, signal.SIGSTOP)
    try:
        for agent in agents:
            while not isinstance(event := agent.control_recv(10.0), LinkDown):
                assert event is not None, "the silence of the hub went unnoticed"
    finally:
        os.kill(hub_process.process.pid, signal.SIGCONT)
    assert_recovered(agents, time.monotonic())
    talk(alice, bob, "after")


class Cable:
    """A TCP connection that a test can cut: forwards one address to another."""

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("tcp://").rsplit(":", 1)
        self._target = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self.plugged = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if not self.plugged:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.plugged = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._listening.close()


@pytest.mark.parametrize("plane", ["control", "bulk"])
def test_a_cut_cable(hub_world: Any, plane: str) -> None:
    hub = hub_world.hub
    cables = {name: Cable(getattr(hub, f"{name}_endpoint")) for name in ("control", "bulk")}
    for cable in cables.values():
        hub_world.stack.callback(cable.close)
    alice = Agent(
        "alice",
        hub_world.keys["alice"],
        hub_world.keys["orchestrator"].public,
        cables["control"].endpoint,
        cables["bulk"].endpoint,
    )
    alice.start()
    hub_world.stack.callback(alice.close)
    bob = hub_world.agent("bob")
    assert alice.wait_up(10.0)
    talk(alice, bob, "before")
    channel = bob.channel("alice", "half-done")
    cables[plane].cut()
    with pytest.raises(ChannelBrokenError):
        channel.recv(RECOVERED_WITHIN_S)
    assert alice.link_state is not LinkState.UP
    cables[plane].plugged = True
    assert_recovered([alice], time.monotonic())
    talk(alice, bob, "after")


def test_an_agent_that_was_frozen_comes_back(make_hub_world: Any) -> None:
    """Its own loop stands still: the hub gives it up, and takes it back when it moves again."""
    from orchestrator.hub.events import HubLimits

    world = make_hub_world(limits=HubLimits(heartbeat_s=0.1, lost_after_s=1.0))
    bob = world.agent("bob")
    frozen, go_on = threading.Event(), threading.Event()

    def clock() -> float:
        if frozen.is_set():
            go_on.wait(30.0)
        return time.monotonic()

    alice = world.agent("alice", clock=clock)
    talk(alice, bob, "before")
    frozen.set()
    while not (isinstance(event := bob.control_recv(10.0), PeerChange) and not event.up):
        assert event is not None, "the hub did not give the frozen agent up"
    frozen.clear()
    go_on.set()
    talk(alice, bob, "after")
