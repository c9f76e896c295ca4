"""The block plan of each pair of a testbed: what its two nodes agree on, and what the scheduler expects."""

from __future__ import annotations

from lab.testbed import Testbed
from orchestrator.protocols.planner import BlockPlan, block_plan


def plan_for(testbed: Testbed, first: str, second: str) -> BlockPlan:
    """The block plan of a pair, from the testbed file alone, so that both nodes arrive at the same."""
    arms, protocol, calibration = testbed.arms(first, second), testbed.protocol, testbed.calibration
    return block_plan(
        arms.loss_a_db,
        arms.loss_b_db,
        n_pulses=testbed.frames_per_block() * protocol.slots_per_frame,
        visibility=calibration.visibility,
        dark_count=calibration.dark_count_probability,
        f_ec=protocol.f_ec,
        eps_sec=protocol.eps_sec,
        eps_cor=protocol.eps_cor,
        intensity_tolerance_db=protocol.intensity_tolerance_db,
        qber_limit=protocol.qber_limit,
        p_x=protocol.p_x,
        mu_a=protocol.mu,
        mu_b=protocol.mu,
    )
