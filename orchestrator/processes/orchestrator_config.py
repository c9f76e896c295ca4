"""What a testbed file and the command line decide for the orchestrator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.agreed import agreed_on
from orchestrator.events.status import Light, Monitoring
from orchestrator.hub.events import HubLimits
from orchestrator.light.tracking.polarization import parties
from orchestrator.protocols.block_planning import plan_for
from orchestrator.scheduling.scheduler import Pair, Policy
from orchestrator.wire.agreed import Agreed

if TYPE_CHECKING:
    from lab.testbed import Testbed


@dataclass(frozen=True)
class OrchestratorConfig:
    """What the testbed file and the command line decide.  Times in seconds."""

    users: tuple[str, ...]
    rates_bps: Mapping[Pair, float]
    n_frames: int
    light_limit_s: float
    block_bits: Mapping[Pair, int] = field(default_factory=dict)
    trusted: Mapping[Pair, tuple[Light, Monitoring]] = field(default_factory=dict)
    control_endpoint: str = "auto"
    bulk_endpoint: str = "auto"
    offer_timeout_s: float = 5.0
    drain_s: float = 15.0
    step_s: float = 0.05
    save_every_s: float = 10.0
    limits: HubLimits = field(default_factory=HubLimits)
    policy: Policy = field(default_factory=Policy)
    agreed: Agreed | None = None


CLIMB_S = 180.0
"""For a party to align its polarisation before the frames: motors take a second for each of a hundred readings."""


def _climbers(testbed: Testbed) -> int:
    """How many parties of a pair may have to, at most."""
    return max(len(parties(testbed, pair)) for pair in testbed.pairs())


def config_of(testbed: Testbed) -> OrchestratorConfig:
    """What a testbed file says to the orchestrator."""
    light_s = testbed.frames_per_block() * testbed.protocol.slots_per_frame / testbed.protocol.clock_hz
    plans = {pair: plan_for(testbed, *pair) for pair in testbed.pairs()}
    block_bits = {pair: plan.expected_bits for pair, plan in plans.items()}
    return OrchestratorConfig(
        users=testbed.user_names(),
        rates_bps={pair: bits / light_s for pair, bits in block_bits.items()},
        block_bits=block_bits,
        trusted={pair: (plan.light, plan.monitoring) for pair, plan in plans.items()},
        policy=Policy(
            rounds_ahead=1
        ),  # a demand says how much stock is wanted; how far ahead is its sender's choice
        n_frames=testbed.frames_per_block(),
        # Loading fresh waveforms takes far longer than the light itself; this only catches what hangs.
        light_limit_s=60.0 + 50.0 * light_s + CLIMB_S * _climbers(testbed),
        control_endpoint=testbed.hub.control,
        bulk_endpoint=testbed.hub.bulk,
        agreed=agreed_on(testbed),
    )
