"""The loop's phase, followed from rounds of different bases."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from orchestrator.light.tracking.loop_phase import (
    PRECISION_RAD,
    RANGE_RAD,
    STEP_RAD,
    LoopPhaseTracking,
    PhaseLeft,
    PhaseOutOfRange,
    phase_left,
)
from orchestrator.protocols.four_phase.symbols import FourPhases

PHASES = FourPhases.phases_rad
VISIBILITY = 0.99


def clicks(rng: np.random.Generator, left_rad: float, rounds: int = 40_000) -> npt.NDArray[np.int64]:
    """Clicks of D1 and D2 in rounds of different bases, int64 of shape (2, 4, 4)."""
    counts = np.zeros((2, 4, 4), np.int64)
    for a in range(4):
        for b in range(4):
            if a // 2 != b // 2:
                in_d1 = (1 + VISIBILITY * math.cos(PHASES[a] - PHASES[b] + left_rad)) / 2
                counts[:, a, b] = rng.multinomial(rounds // 8, [in_d1, 1 - in_d1])
    return counts


@pytest.mark.parametrize("left_rad", [-1.2, -0.3, -0.01, 0.0, 0.004, 0.1, 0.8])
def test_what_is_left_is_found_within_its_uncertainty(left_rad: float) -> None:
    rng = np.random.default_rng(1)
    found = [phase_left(clicks(rng, left_rad), PHASES, VISIBILITY) for _ in range(40)]
    pulls = [(each.rad - left_rad) / each.sigma_rad * math.cos(left_rad) for each in found if each]
    assert len(pulls) == 40
    assert abs(np.mean(pulls)) < 4 / math.sqrt(40)
    assert np.std(pulls) < 1.4
    assert found[0] is not None
    assert found[0].sigma_rad == pytest.approx(1 / math.sqrt(40_000), rel=0.05)


def test_detectors_of_different_efficiency_turn_nothing() -> None:
    counts = clicks(np.random.default_rng(2), 0.0, 400_000)
    counts[1] = np.random.default_rng(3).binomial(counts[1], 0.9)
    found = phase_left(counts, PHASES, VISIBILITY)
    assert found is not None
    assert abs(found.rad) < 4 * found.sigma_rad


def test_nothing_counted_says_nothing() -> None:
    assert phase_left(np.zeros((2, 4, 4), np.int64), PHASES, VISIBILITY) is None
    assert LoopPhaseTracking().see(0.0, None) is None


def test_the_correction_takes_away_what_is_left() -> None:
    rng, tracking = np.random.default_rng(4), LoopPhaseTracking()
    lefts = []
    for k in range(200):
        loop = 0.6 * math.sin(2 * math.pi * k / 200)
        played = tracking.rad
        lefts.append(loop + played)
        tracking.see(played, phase_left(clicks(rng, loop + played, 8000), PHASES, VISIBILITY))
    assert np.sqrt(np.mean(np.square(lefts))) < 0.03


def test_a_block_that_was_played_before_the_last_correction_is_not_corrected_twice() -> None:
    tracking = LoopPhaseTracking()
    left = PhaseLeft(0.2, 0.005)
    first, again = tracking.see(0.0, left), tracking.see(0.0, left)
    assert first is not None
    assert again is not None
    assert tracking.rad == pytest.approx(-0.2)
    assert (first.before, first.after, first.unit) == (0.0, pytest.approx(-0.2), "rad")


def test_noise_moves_nothing_and_too_few_rounds_neither() -> None:
    tracking = LoopPhaseTracking()
    assert tracking.see(0.0, PhaseLeft(0.009, 0.005)) is None
    assert tracking.see(0.0, PhaseLeft(1.0, 1.1 * PRECISION_RAD)) is None
    assert tracking.rad == 0.0


def test_steps_and_range_are_bounded() -> None:
    tracking = LoopPhaseTracking()
    tracking.see(0.0, PhaseLeft(1.2, 0.01))
    assert tracking.rad == -STEP_RAD
    for _ in range(2):
        tracking.see(tracking.rad, PhaseLeft(0.5, 0.01))
    assert tracking.rad == -RANGE_RAD
    with pytest.raises(PhaseOutOfRange, match=r"\+1.60 rad from where it was calibrated") as refused:
        tracking.see(tracking.rad, PhaseLeft(0.1, 0.01))
    assert refused.value.steps == ("phase",)
    assert tracking.rad == -RANGE_RAD
