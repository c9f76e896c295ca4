"""The four-phase protocol as the catalogue has it: blocks planned on the light of a testbed."""

from __future__ import annotations

from lab.light_of import pair_light
from lab.testbed import Testbed
from orchestrator.protocols.base import KeyProtocol
from orchestrator.protocols.epsilons import ParameterError
from orchestrator.protocols.four_phase.planner import FourPhasePlan
from orchestrator.protocols.four_phase.rates import keyrate_report
from orchestrator.protocols.four_phase.ring_plan import PlanRefusedError, Trust, plan_on_ring


class FourPhase(KeyProtocol):
    """Two bases of two phases, no decoys; the quantum coin bounds what is known of the key."""

    key_rate = staticmethod(keyrate_report)

    def plan(self, testbed: Testbed, first: str, second: str) -> FourPhasePlan:
        """The block with most key; one of no key where there are refusals."""
        try:
            return ring_plan(testbed, first, second)
        except PlanRefusedError as error:
            return error.plan

    def refusals(self, testbed: Testbed, first: str, second: str) -> list[str]:
        try:
            ring_plan(testbed, first, second)
        except PlanRefusedError as error:
            return error.reasons
        except ParameterError as error:
            return [str(error)]
        return []


def ring_plan(testbed: Testbed, first: str, second: str) -> FourPhasePlan:
    """The block of a pair; raises PlanRefusedError with everything that is in the way."""
    protocol = testbed.protocol
    return plan_on_ring(
        pair_light(testbed, first, second),
        trust_of(testbed),
        n_pulses=testbed.frames_per_block() * protocol.slots_per_frame,
        f_ec=protocol.f_ec,
        eps_sec=protocol.eps_sec,
        eps_cor=protocol.eps_cor,
        qber_limit=protocol.qber_limit,
        lost_frames_limit=protocol.lost_frames_limit,
        p_x=protocol.p_x,
        mu_a=protocol.mu,
    )


def trust_of(testbed: Testbed) -> Trust:
    """What the file says that calibrated values may be wrong by, and what is believed."""
    wrong_by, protocol = testbed.uncertainty, testbed.protocol
    return Trust(
        phase_uncertainty_rad=wrong_by.phase_rad,
        sensor_scale_db=wrong_by.sensor_scale_db,
        attenuator_db=wrong_by.attenuator_db,
        drift_db=wrong_by.drift_db,
        sensor_zero_w=wrong_by.sensor_zero_pw * 1e-12,
        calibrated_db=wrong_by.calibrated_db,
        visibility=wrong_by.visibility,
        monitoring=protocol.monitoring,
        light=protocol.light,
    )
