"""A process's agent as the testbed file and the secrets folder describe it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab.agreed import agreed_on
from lab.testbed import Testbed
from orchestrator.events.inside import HubLink
from orchestrator.events.status import PeerItem
from orchestrator.hub.agent import Agent
from orchestrator.wire.curve import load_keys


def connect_agent(
    testbed: Testbed,
    role: str,
    secrets_dir: Path,
    tell: Callable[[PeerItem | HubLink], None] = lambda said: None,
) -> Agent:
    """A started agent of ``role``, connected to the hub of the testbed file; ``tell`` as :class:`Agent` takes it."""
    for field, endpoint in (("control", testbed.hub.control), ("bulk", testbed.hub.bulk)):
        if endpoint == "auto":
            raise ValueError(
                f"hub.{field} is 'auto' in the testbed file; write the endpoint of the running hub there"
            )
    agent = Agent(
        role,
        load_keys(secrets_dir),
        testbed.public_key("orchestrator"),
        testbed.hub.control,
        testbed.hub.bulk,
        agreed=agreed_on(testbed),
        tell=tell,
    )
    agent.start()
    return agent
