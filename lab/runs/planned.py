"""What the planner promises of a pair, for pages and reports: its block, and the rate at other losses.

The curve asks the same planner for the same ring with more, or less, loss between loop and detectors, where it meets both
users alike.  So the operating point lies on it, everything that is charged to the key is charged along it, and it is right
for any protocol of the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lab.light_of import pair_light
from lab.testbed import Testbed
from orchestrator.protocols.base import BlockPlan
from orchestrator.protocols.block_planning import protocol_named

STEP_DB = 1.0
"""Between two points of the curve, each user's arm."""
LESS_DB = 3.0
"""The curve begins so far below the operating point, or where nothing more can be taken away."""
MOST_STEPS = 30


def planned(testbed: Testbed, first: str, second: str, *, with_curve: bool = True) -> dict[str, Any]:
    """The plan of a pair and its curve: ``[loss of both arms in dB, secret bits per second of light, QBER]`` by loss.

    Without ``with_curve`` it is empty, which saves most of the time.
    """
    protocol = protocol_named(testbed.protocol.name)
    light = pair_light(testbed, first, second)
    plan = protocol.plan(testbed, first, second)
    rate_bps = _rate_bps(testbed, plan)
    return {
        "first": first,
        "second": second,
        "arms_db": list(light.arms_db),
        "loss_db": sum(light.arms_db),
        "rate_bps": rate_bps,
        "bench_rate_bps": rate_bps * light.ring.duty,
        "qber": plan.qber,
        "qber_limit": plan.qber_limit,
        "gain": plan.gain,
        "block_bits": plan.expected_bits,
        "block_light_s": plan.n_pulses / testbed.protocol.clock_hz,
        "mu": [plan.mu_a, plan.mu_b],
        "light": plan.light,
        "monitoring": plan.monitoring,
        "refusals": protocol.refusals(testbed, first, second),
        "curve": [list(point) for point in _curve(testbed, first, second)] if with_curve else [],
    }


def _curve(testbed: Testbed, first: str, second: str) -> Iterator[tuple[float, float, float]]:
    """By loss, up to the first that leaves no key."""
    protocol, ring = protocol_named(testbed.protocol.name), testbed.ring
    steps_below = min(math.floor(ring.relay_loss_db / STEP_DB), round(LESS_DB / STEP_DB))
    for step in range(-steps_below, MOST_STEPS):
        relay_loss_db = ring.relay_loss_db + step * STEP_DB
        at_loss = testbed.model_copy(
            update={"ring": ring.model_copy(update={"relay_loss_db": relay_loss_db})}
        )
        plan = protocol.plan(at_loss, first, second)
        yield sum(pair_light(at_loss, first, second).arms_db), _rate_bps(at_loss, plan), plan.qber
        if step > 0 and not plan.expected_bits:
            return


def _rate_bps(testbed: Testbed, plan: BlockPlan) -> float:
    return plan.key_rate_per_pulse * testbed.protocol.clock_hz
