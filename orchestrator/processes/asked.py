"""What a role's metrics ask of it when somebody reads them: numbers that change all the time, and wait for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator import runtime
from orchestrator.events.inside import Connections, Door, Heartbeat, HubTraffic, InsideItem, TagFailures
from orchestrator.events.status import ORCHESTRATOR

if TYPE_CHECKING:
    from orchestrator.hub.agent import Agent
    from orchestrator.hub.hub import Hub
    from orchestrator.metrics.book import Asked
    from orchestrator.processes.pair_worker import PairWorker
    from orchestrator.wire.gate import Gate


def of_agent(agent: Agent) -> Asked:
    """How long the hub has not been heard."""

    def ask() -> Iterator[InsideItem]:
        if (heard_s := agent.heard_s) is not None:
            yield Heartbeat(ORCHESTRATOR, max(0.0, runtime.now() - heard_s))

    return ask


def of_hub(hub: Hub) -> Asked:
    """What the hub carried and refused, and how long each role has not been heard."""

    def ask() -> Iterator[InsideItem]:
        n = hub.counters
        yield HubTraffic(
            n.frames, n.bytes, n.malformed, n.strangers, n.stale, n.undelivered, lost_peers=n.lost_peers
        )
        for role, age_s in hub.heard_ages_s().items():
            yield Heartbeat(role, age_s)
        yield _of_door("hub", hub.gate)

    return ask


def of_delivery(gate: Gate, workers: Mapping[str, PairWorker]) -> Asked:
    """Whom a node's delivery turned away, and what of its peers' messages was refused."""

    def ask() -> Iterable[InsideItem]:
        yield _of_door("delivery", gate)
        for peer, worker in workers.items():
            yield TagFailures(peer, sum(worker.rejected.values()))

    return ask


def _of_door(door: Door, gate: Gate) -> Connections:
    return Connections(door, gate.refused, gate.floods)
