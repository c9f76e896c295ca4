"""Whether what a block counted is what the calibrated ring gives, and which calibrations to run where it is not.

*Arrivals.*  Clicks and rounds of both bases must be those of the plan within what the channel may have drifted.

*Errors.*  At the arrivals counted the calibrated channel has one error rate, the same in X and in Y.  The block may be off
it, either way, by what the visibility is uncertain by, and by counting noise.  Errors are judged when those of both
bases are known, or where there is no key anyhow.

*Which calibration.*  Symbols that miss their pulses make half of all rounds wrong.  Lost visibility, light without a
phase and a wrong phase of the loop add the same to X and Y, and to equal and to opposite phases.  Phases that are wrong
by a part of themselves, V_pi or a driver's gain, turn pi twice as far as pi/2: for parts a and b of the two users the
excess in Y is ``(pi^2/16) (a - b)^2`` where phases are equal, which is wrong in D2, and ``(pi^2/16) (a + b)^2`` where they
are opposite; in X it is ``(pi^2/8) (a^2 + b^2 - a b)`` where both drive pi the same way around, and ``+ a b`` where they
do not.  So X has twice as much as Y where one user is wrong, and three times or just as much where both are; the latter
looks like dark counts of one detector, which come where the other should.  A pulse that passes before its sample has
settled is turned too little just so.
Arrivals that are missing in one detector alone are its delay or its bias.  Arrivals alone cannot tell a lossy arm from
light that was never sent, unless users read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.calibration.steps import Step
from orchestrator.protocols.base import BlockCounts, Misfit
from orchestrator.protocols.four_phase.arrivals import arrivals

if TYPE_CHECKING:
    from orchestrator.protocols.four_phase.planner import FourPhasePlan

SIGMAS = 7.0
"""Statistical half-width of a count window, in standard deviations (two-sided 3e-12)."""
ERROR_SIGMAS = 3.0
"""The same of errors; what the visibility is uncertain by comes on top, so that a ring within it passes by far more."""
CLEAR_SIGMAS = 3.0
"""From how many on one symptom is told from another."""
SYMPTOMS: tuple[tuple[tuple[float, float, float], tuple[Step, ...]], ...] = (
    ((1.0, 0.5, 0.5), (Step.VISIBILITY, Step.BACKSCATTER, Step.PHASE)),
    ((2.0, 0.5, 0.5), (Step.PHASE, Step.DELAYS)),
    ((3.0, 0.0, 1.0), (Step.PHASE, Step.DELAYS)),
    ((3.0, 1.0, 0.0), (Step.PHASE, Step.DELAYS)),
    ((1.0, 1.0, 0.0), (Step.DETECTORS, Step.PHASE)),
    ((1.0, 0.0, 1.0), (Step.DETECTORS, Step.PHASE)),
)
"""Excess of errors in X, in Y in D1 and in Y in D2, in proportion; and what it comes from."""
MISSED = 0.2
"""Error rate from which on symbols do not meet their pulses."""
MISSING = 0.6
"""Share of the arrivals below which pulses beside their gates are likelier than losses."""
UNEVEN = 0.02
"""Of the share of clicks in one detector: efficiencies are alike to some per cent."""


@dataclass(frozen=True, slots=True)
class CountWindow:
    """Counts that fit the calibrated channel, both ends included."""

    low: int
    high: int

    def __contains__(self, count: float) -> bool:
        return self.low <= count <= self.high

    @classmethod
    def between(cls, low: float, high: float, sigmas: float = SIGMAS) -> CountWindow:
        """Expectations from ``low`` to ``high``, and counting noise."""
        low -= sigmas * math.sqrt(low)
        high += sigmas * math.sqrt(high) + sigmas**2 / 2
        return cls(max(0, math.floor(low)), math.ceil(high))

    @classmethod
    def around(cls, expected: float, tolerance_db: float) -> CountWindow:
        """``expected`` give or take a factor for drift of the channel and 7 sigma of counting noise."""
        factor = 10.0 ** (tolerance_db / 10.0)
        return cls.between(expected / factor, expected * factor)


def misfits(plan: FourPhasePlan, counts: BlockCounts, *, no_key: bool) -> Iterator[Misfit]:
    """Why a block must be given up; ``no_key``: there is none in it, whatever the errors of X are."""
    if counts.n_pulses != plan.n_pulses:
        yield Misfit(f"{counts.n_pulses} pulses were emitted, the plan says {plan.n_pulses}")
    yield from _arrivals(plan, counts)
    label = float(plan.coin_label_probability)
    if counts.n_drawn not in CountWindow.around(max(counts.n_key, 0) * label, 0.0):
        yield Misfit(
            f"{counts.n_drawn} of {counts.n_key} XX rounds carry the coin label of probability {label:.4g}"
        )
    yield from _errors(plan, counts, judged=counts.key_errors is not None or no_key)


def _arrivals(plan: FourPhasePlan, counts: BlockCounts) -> Iterator[Misfit]:
    recorded = 1.0 - counts.lost_pulses / plan.n_pulses
    for name, count, planned in (
        ("announced clicks", counts.n_announced, plan.announced),
        ("XX rounds", counts.n_key, plan.finite.n_x),
        ("YY rounds", counts.n_test, plan.finite.n_y),
    ):
        window = CountWindow.around(recorded * planned, plan.gain_tolerance_db)
        if count not in window:
            yield Misfit(
                f"{count} {name} do not fit the calibrated channel ({window.low} to {window.high})",
                _of_arrivals(plan, counts, count / (recorded * planned)),
            )


def _of_arrivals(plan: FourPhasePlan, counts: BlockCounts, share: float) -> tuple[Step, ...]:
    """For ``share`` of what was planned."""
    clicks = sum(counts.by_detector)
    uneven = abs(counts.by_detector[0] - clicks / 2) - UNEVEN * clicks
    if clicks and uneven > CLEAR_SIGMAS * math.sqrt(clicks) / 2:
        return Step.DELAYS, Step.DETECTORS
    unread = plan.monitoring == "calibrated"
    light = (Step.INTENSITY, Step.ARM_LOSS) if unread else (Step.ARM_LOSS, Step.INTENSITY)
    if share > 1:
        return (*light, Step.DETECTORS)
    return (
        (Step.DELAYS, *light, Step.POLARIZATION)
        if share < MISSING
        else (*light, Step.POLARIZATION, Step.DELAYS)
    )


def _errors(plan: FourPhasePlan, counts: BlockCounts, *, judged: bool) -> Iterator[Misfit]:
    recorded = counts.n_pulses - counts.lost_pulses
    rate = arrivals(plan.channel, plan.mu_a, plan.mu_b, plan.p_x, recorded, counts.n_announced).qber
    off = plan.visibility_uncertainty / 2
    for basis, errors, rounds in (
        ("X", counts.key_errors, counts.n_key),
        ("Y", counts.test_errors, counts.n_test),
    ):
        if errors is None or rounds <= 0:
            continue
        if errors > plan.qber_limit * rounds:
            yield Misfit(
                f"error rate {errors / rounds:.4f} in {basis} is above the limit {plan.qber_limit}",
                _of_errors(counts, rate),
            )
            continue
        window = CountWindow.between(
            max(rate - off, 0.0) * rounds, min(rate + off, 0.5) * rounds, ERROR_SIGMAS
        )
        if judged and errors not in window:
            yield Misfit(
                f"error rate {100 * errors / rounds:.2f} % in {basis} does not fit the calibrated channel, which has "
                f"{100 * rate:.2f} % at these arrivals ({window.low} to {window.high} errors of {rounds})",
                _of_errors(counts, rate) if errors > window.high else (Step.VISIBILITY,),
            )


def _of_errors(counts: BlockCounts, rate: float) -> tuple[Step, ...]:
    """For too many of them, likeliest first: by least squares, what is not worse by more than noise than the best."""
    n_x, n_y, key_errors, by_detector = (
        counts.n_key,
        counts.n_test,
        counts.key_errors,
        counts.test_errors_by_detector,
    )
    missed = max((key_errors or 0) / max(n_x, 1), counts.test_errors / max(n_y, 1)) > MISSED
    if missed:
        return Step.DELAYS, Step.PHASE, Step.REFERENCE
    seen = [(key_errors, rate * n_x, n_x), *((each, rate * n_y / 2, n_y) for each in by_detector)]
    known = [n is not None and of > 0 and counts.test_errors == sum(by_detector) for n, _, of in seen]

    def misses(pattern: tuple[float, float, float]) -> float:
        """Squares left, in units of noise, when the excess is in this proportion."""
        of_seen = of_pattern = both = 0.0
        for (errors, expected, rounds), part, counted in zip(seen, pattern, known, strict=True):
            if counted:
                noise = max(float(errors or 0), expected, 1.0)
                excess, part = (errors or 0) - expected, part * rounds
                of_seen += excess**2 / noise
                of_pattern += part**2 / noise
                both += excess * part / noise
        return of_seen - max(both, 0.0) ** 2 / of_pattern if of_pattern else 0.0

    ranked = sorted((misses(pattern), n) for n, (pattern, _) in enumerate(SYMPTOMS))
    likely = [SYMPTOMS[n][1] for left, n in ranked if left - ranked[0][0] < CLEAR_SIGMAS**2]
    return tuple(dict.fromkeys(step for steps in likely for step in steps))
