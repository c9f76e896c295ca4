"""What the hub tells an observer: stock and rate per pair, leases, blocks, who is present.

The observer has a CURVE key of its own and may only listen.  It subscribes again at every new link, so a hub
that was started again is heard as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl.key_budget import Pair, PairSupply
from lab.testbed import Testbed
from orchestrator.hub.agent import Agent, LinkUp
from orchestrator.hub.connect import connect_agent
from orchestrator.protocols.block_planning import plan_for
from orchestrator.wire.messages import Subscribe, TelemetryItem

ROLE = "observer"
CONNECT_TIMEOUT_S = 10.0
POLL_S = 0.05

Item = tuple[str, dict[str, Any]]
"""(kind, data)"""


@dataclass
class Observer:
    """A listening agent and the latest it heard of every kind; a context manager."""

    testbed: Testbed
    agent: Agent
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def connect(cls, testbed: Testbed, secrets: Path) -> Observer:
        """Connect with the observer's key below ``secrets``; raises ConnectionError if no hub answers."""
        agent = connect_agent(testbed, ROLE, secrets / ROLE)
        if not agent.wait_up(CONNECT_TIMEOUT_S):
            state = agent.link_state.value
            agent.close()
            raise ConnectionError(
                f"the orchestrator at {testbed.hub.control} did not answer within {CONNECT_TIMEOUT_S:g} s "
                f"({state}); is it running, and is this its testbed file?"
            )
        return cls(testbed, agent)

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.close()

    def poll(self, timeout_s: float = 0.0) -> list[Item]:
        """What has come since the last call; waits at most ``timeout_s`` for the first item."""
        items: list[Item] = []
        while True:
            event = self.agent.control_recv(0.0 if items else timeout_s)
            if event is None:
                return items
            if isinstance(event, LinkUp):
                self.agent.control_send(Subscribe())
            elif isinstance(event, TelemetryItem):
                self.latest[event.kind] = event.data
                items.append((event.kind, event.data))

    def wait_for_pairs(self, pairs: list[Pair], patience_s: float, now: Callable[[], float]) -> None:
        """Poll until the stock of every pair was reported, at most ``patience_s``."""
        deadline = now() + patience_s
        while now() < deadline and not all(f"pair-{a}-{b}"[:64] in self.latest for a, b in pairs):
            self.poll(POLL_S)

    def supply(self, pairs: list[Pair], *, light: bool) -> list[PairSupply]:
        """Stock and rate of every pair; without ``light`` no key is made and the rate is 0."""
        found = []
        for first, second in pairs:
            told = self.latest.get(f"pair-{first}-{second}"[:64], {})
            planned = planned_rate_bps(self.testbed, (first, second))
            rate = float(told.get("rate_bps", planned))
            measured = abs(rate - planned) > 1e-6 * max(rate, planned)
            found.append(
                PairSupply(
                    (first, second),
                    int(told.get("stock_bits", 0)),
                    rate if light else 0.0,
                    "none" if not light else "measured" if measured else "planned",
                )
            )
        return found


def planned_rate_bps(testbed: Testbed, pair: Pair) -> float:
    """Secret bits per second of light that the pair's block plan expects."""
    plan = plan_for(testbed, *pair)
    return plan.expected_bits / (plan.n_pulses / testbed.protocol.clock_hz)
