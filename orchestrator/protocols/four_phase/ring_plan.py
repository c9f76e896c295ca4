"""A block planned for a ring as it stands: its light chosen for most key with everything uncertain charged.

The light budget (:mod:`lab.light_budget`) says what a pair loses, how bright the other direction's light is, what is
scattered back and what the modulator remembers; :class:`Trust` says how well intensities and phases are known and what
is believed.  The relay sets one intensity, the pulses arrive balanced, and so one number and the basis probability are
optimised.

*Intensity.*  ``monitored``: each user's sensor reads the own light while key is made; its scale, the attenuator behind it
and the drift that may pass unnoticed add up, and its zero is an absolute error, worse the dimmer the light.  ``calibrated``:
believed since the last calibration, to one figure.

*The relay's light.*  ``assumed``: steady per slot and in time, from one side.  ``gated``: a user's own time-resolving counter
sees in the own window ``gated_excess`` more light than the own pulse's, uncertainty of the count included, and that is
charged.  Counting the other direction's light by its average power (``counted``) is refused with its figure: it is
brighter than the own light, and the average bounds nothing, for Delta is convex.

Expected figures are for the mean back-scatter; a plan that has no key at :data:`~lab.light_budget.SPECKLE` times as much
is refused too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from lab.light_budget import SPECKLE, PairLight
from orchestrator.events.status import Monitoring, pair_name
from orchestrator.protocols.epsilons import ParameterError
from orchestrator.protocols.four_phase.coin import Uncertainty
from orchestrator.protocols.four_phase.planner import VISIBILITY_UNCERTAINTY, FourPhasePlan, scenario_plan
from orchestrator.protocols.four_phase.rates import Scenario
from orchestrator.protocols.optical_channel import OpticalChannel, transmittance


class PlanRefusedError(ValueError):
    """A ring on which a pair cannot make key as asked; ``reasons`` are sentences with their figures.

    ``plan`` is the block that was refused, with no bits to expect of it.
    """

    def __init__(self, pair: tuple[str, str], reasons: list[str], plan: FourPhasePlan) -> None:
        super().__init__(f"{pair_name(pair)} cannot make key: {'; '.join(reasons)}")
        self.reasons = reasons
        self.plan = plan


@dataclass(frozen=True, slots=True)
class Trust:
    """How well the light is known, and what of it is believed."""

    phase_uncertainty_rad: float = 0.02
    sensor_scale_db: float = 10 * math.log10(1.05)
    attenuator_db: float = 0.1
    drift_db: float = 0.14
    """How far the intensity may drift before a user notices and stops."""
    sensor_zero_w: float = 0.05e-12
    calibrated_db: float = 0.5
    visibility: float = VISIBILITY_UNCERTAINTY
    monitoring: Monitoring = "monitored"
    light: Literal["assumed", "gated", "counted"] = "assumed"
    gated_excess: float | None = None
    """Measured at the user; there is no telling it otherwise."""


def uncertainties(pair: PairLight, trust: Trust) -> tuple[Uncertainty, Uncertainty]:
    """What is charged of the first and of the second user's light.

    Raises ParameterError for an extinction that is too low, and for gated light that was not counted.
    """
    monitored = trust.monitoring == "monitored"
    tolerance_db = (
        trust.sensor_scale_db + trust.attenuator_db + trust.drift_db if monitored else trust.calibrated_db
    )

    def of(user: int) -> Uncertainty:
        clockwise_db, counter_clockwise_db = pair.stations[user].sensor_over_output_db
        phase_rad = pair.stations[user].phase_uncertainty_rad
        over_output = 10 ** ((clockwise_db if user else counter_clockwise_db) / 10)
        zero = pair.ring.photons_per_slot(trust.sensor_zero_w) / over_output if monitored else 0.0
        excess = {"assumed": 0.0, "gated": trust.gated_excess, "counted": pair.other_light[user]}[trust.light]
        if excess is None or not excess >= 0.0:
            text = 'is what the users\' own counters see in their windows, over their own light; light = "gated" needs it'
            raise ParameterError("gated_excess", text)
        light = Uncertainty(
            tolerance_db + 10 * math.log10(1 + excess),
            0.0,
            trust.phase_uncertainty_rad if phase_rad is None else phase_rad,
            pair.ring.relay.extinction_db,
            pair.other_light[user],
            pair.memory[user],
            pair.ring.slot_ns / pair.ring.gate_ns,
        )
        # Half of what the bound can be asked for leaves no key, and neither does any more.
        return replace(light, zero_photons=min(zero, light.mu_limit / 2))

    return of(0), of(1)


def plan_on_ring(
    pair: PairLight,
    trust: Trust,
    *,
    n_pulses: int,
    f_ec: float = 1.05,
    eps_sec: float = 1e-10,
    eps_cor: float = 1e-15,
    qber_limit: float = 0.06,
    lost_frames_limit: float = 0.25,
    p_x: float | None = None,
    mu_a: float | None = None,
) -> FourPhasePlan:
    """The block of a pair with most key, or that for ``mu_a`` photons of the first user.

    Raises PlanRefusedError naming everything that is in the way, ParameterError for a setting out of its range.
    """
    relay, arms_db = pair.ring.relay, pair.arms_db
    channel = OpticalChannel(
        *arms_db, relay.visibility, relay.dark_count, pair.backscatter, transmittance(relay.extinction_db)
    )
    scenario = Scenario(channel, f_ec, n_pulses, eps_sec, eps_cor, uncertainties(pair, trust), balanced=True)
    plan = scenario_plan(
        scenario,
        qber_limit,
        lost_frames_limit=lost_frames_limit,
        p_x=p_x,
        mu_a=mu_a,
        visibility_uncertainty=trust.visibility,
        light="gated" if trust.light == "gated" else "assumed",
        monitoring=trust.monitoring,
    )
    reasons = list(pair.unworkable(plan.mu_a, monitored=trust.monitoring == "monitored"))
    if trust.light == "counted":
        rho_a, rho_b = pair.other_light
        reasons.append(
            f'light = "counted": the other direction\'s light is {rho_a:.0f} and {rho_b:.0f} times brighter than the own, '
            f"and charging it by its average power leaves {plan.expected_bits} bits of a block (an average bounds "
            'nothing either); "assumed" or "gated" are possible'
        )
    elif not plan.expected_bits:
        reasons.append(
            f"no key with everything charged that is uncertain: QBER {100 * plan.qber:.2f} %, "
            f"Delta/Q {plan.finite.delta / plan.gain:.3g} (below 0.1 for key), {n_pulses} pulses a block"
        )
    elif not at_speckle(plan):
        reasons.append(
            f"no key when the back-scatter of a narrow laser is {SPECKLE:g} times its mean: QBER "
            f"{100 * speckle_qber(plan):.2f} %, limit {100 * qber_limit:g} %"
        )
    if reasons:
        first, second = pair.stations
        raise PlanRefusedError((first.name, second.name), reasons, replace(plan, expected_bits=0))
    return plan


def speckle_qber(plan: FourPhasePlan) -> float:
    """The error rate to expect when back-scatter is at its brightest."""
    channel = replace(plan.channel, backscatter=SPECKLE * plan.channel.backscatter)
    return channel.gain_and_qber(plan.mu_a, plan.mu_b)[1]


def at_speckle(plan: FourPhasePlan) -> int:
    """Bits of a block at the plan's setting when back-scatter is at its brightest."""
    if speckle_qber(plan) > plan.qber_limit:
        return 0
    channel = replace(plan.channel, backscatter=SPECKLE * plan.channel.backscatter)
    return replace(plan.scenario, channel=channel).expected_length(plan.mu_a, plan.mu_b, plan.p_x).bits
