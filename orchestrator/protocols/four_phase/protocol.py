"""The four-phase protocol as the catalogue lists it."""

from __future__ import annotations

from lab.testbed import Testbed
from orchestrator.protocols.base import KeyProtocol
from orchestrator.protocols.four_phase.planner import FourPhasePlan, block_plan
from orchestrator.protocols.four_phase.rates import keyrate_report


class FourPhase(KeyProtocol):
    """Two bases of two phases, no decoys; the quantum coin bounds what is known of the key."""

    key_rate = staticmethod(keyrate_report)

    def plan(self, testbed: Testbed, first: str, second: str) -> FourPhasePlan:
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
