"""How each calibration is done with the instruments of a rig."""

from __future__ import annotations

import math
from collections.abc import Callable

from lab.calibration.finding import Finding
from lab.calibration.steps import Step
from lab.runs.calibrating.rig import Rig
from orchestrator.light.calibration.levels import phase_levels
from orchestrator.light.calibration.phase import phase_finding
from orchestrator.protocols.block_planning import plan_for

Part = Callable[[float], None]
Procedure = Callable[[Rig, str, tuple[str, str], Part], Finding]
"""Of a rig, for an owner, in the light of a pair; told the part that is done."""

PHASE_CLICKS = 1e6


def phase(rig: Rig, user: str, pair: tuple[str, str], part: Part) -> Finding:
    """Half a turn of a user's modulator, from a million clicks at private levels."""
    testbed = rig.testbed
    planned = plan_for(testbed, *pair)
    n_frames = max(1, math.ceil(PHASE_CLICKS / (planned.gain * testbed.protocol.slots_per_frame)))
    levels = phase_levels(testbed, user)
    clicks = rig.framed(pair, {user: levels}, n_frames, lambda frame: part((frame + 1) / n_frames))
    index = pair.index(user)
    tolerance_db = planned.tolerance_db[index]
    mu_upper = rig.planned_mu(pair)[index] * 10 ** (tolerance_db / 10)
    partner = pair[1 - index]
    return phase_finding(testbed, user, partner, levels, clicks[user], mu_upper)


PROCEDURES: dict[Step, Procedure] = {Step.PHASE: phase}
