"""A hub, or a role that does nothing but be connected to one, as a process that can be killed.

``python hub_alone.py FOLDER`` prints the hub's addresses as JSON once it listens, ``python hub_alone.py FOLDER ROLE ADDRESSES``
prints "up" once the hub has the role.  Both go on until their standard input is closed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from orchestrator.hub.agent import Agent
from orchestrator.hub.hub import Hub
from orchestrator.wire.curve import load_keys, write_keys
from orchestrator.wire.zeromq import ZeroMQ

ROLES = ("orchestrator", "relay", "alice", "bob")


def make_keys(folder: Path) -> None:
    """Keys of all roles, below ``folder``."""
    for role in ROLES:
        write_keys(folder / role)


def connected(folder: Path, role: str, addresses: str) -> Agent:
    """The running agent of a role, once the hub has it."""
    public = load_keys(folder / "orchestrator").public
    agent = Agent(role, load_keys(folder / role), public, *json.loads(addresses))
    agent.start()
    assert agent.wait_up(20.0), agent.link_state
    return agent


def main(folder: str, role: str = "", addresses: str = "") -> None:
    """Be the hub, or a role."""
    keys = Path(folder)
    if role:
        connected(keys, role, addresses)
        print("up", flush=True)
    else:
        allowed = {load_keys(keys / each).public: each for each in ROLES[1:]}
        own = load_keys(keys / "orchestrator")
        hub = Hub(ZeroMQ(), own, allowed, epoch=1)
        hub.start()
        print(json.dumps([hub.control_endpoint, hub.bulk_endpoint]), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
