"""The quadratic that climb and hold learn: what it says of a function that is one."""

from __future__ import annotations

import numpy as np
import pytest

from lab.calibration.peak import Floats, Peak

BEND = np.array([[-3.0, 0.5, 0.2], [0.5, -2.0, 0.1], [0.2, 0.1, -1.0]])
SLOPE = np.array([0.3, -0.2, 0.05])
FREE = np.full(3, True)


def truth(u: Floats) -> float:
    return float(1.0 + SLOPE @ u + 0.5 * u @ BEND @ u)


def taught(sigma: float, rounds: int = 1) -> Peak:
    rng = np.random.default_rng(1)
    peak = Peak(3, 1.0, 1.0, 5.0)
    for u in rng.normal(0.0, 0.2, (30 * rounds, 3)):
        peak.learn(u, truth(u) + rng.normal(0.0, sigma), sigma)
    return peak


def test_it_finds_what_made_the_numbers_and_the_summit() -> None:
    peak = taught(1e-6)
    assert peak.rate == pytest.approx(1.0, abs=1e-4)
    assert peak.slope == pytest.approx(SLOPE, abs=1e-3)
    assert peak.curvature == pytest.approx(BEND, abs=1e-2)
    summit = peak.summit(1.0, FREE)
    at = -np.linalg.solve(BEND, SLOPE)
    assert summit.step == pytest.approx(at, abs=1e-3)
    assert summit.gain == pytest.approx(truth(at) - 1.0, abs=1e-4)


def test_it_is_as_uncertain_as_its_numbers() -> None:
    """In units of its own sigmas the errors of many are of order one."""
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        peak = Peak(3, 1.0, 1.0, 5.0)
        for u in rng.normal(0.0, 0.2, (40, 3)):
            peak.learn(u, truth(u) + rng.normal(0.0, 0.01), 0.01)
        pulls += list((peak.slope - SLOPE) / np.sqrt(np.diag(peak.covariance)[1:4]))
    assert 0.8 < np.std(pulls) < 1.2


def test_a_moved_reference_point_changes_nothing_but_the_point() -> None:
    peak, by = taught(1e-6), np.array([0.1, -0.2, 0.05])
    peak.shift(by)
    assert peak.rate == pytest.approx(truth(by), abs=1e-4)
    assert peak.slope == pytest.approx(SLOPE + BEND @ by, abs=1e-3)
    assert peak.curvature == pytest.approx(BEND, abs=1e-2)


def test_what_may_be_gained_bounds_what_can_be_and_shrinks_with_counts() -> None:
    rng, at = np.random.default_rng(2), -np.linalg.solve(BEND, SLOPE)
    true_gain = truth(at) - 1.0
    bounds = [taught(0.01, rounds).gain_below(1.0, FREE, rng) for rounds in (1, 4, 16)]
    assert bounds[0] > bounds[1] > bounds[2] > true_gain
    assert bounds[2] < 1.2 * true_gain


def test_at_the_end_of_a_range_the_others_go_on() -> None:
    peak = taught(1e-6)
    low, high = np.full(3, -1.0), np.array([0.0, 1.0, 1.0])  # the first would have to go up
    step, free = peak.towards(1.0, low, high)
    assert list(free) == [False, True, True]
    assert step == pytest.approx([0.0, *-np.linalg.solve(BEND[1:, 1:], SLOPE[1:])], abs=1e-3)
    step, free = peak.towards(1.0, low, np.zeros(3) + 0.01)
    assert step.max() == pytest.approx(0.01)
    assert free.all()


def test_nothing_free_is_nowhere_to_go() -> None:
    peak = taught(1e-6)
    step, free = peak.towards(1.0, np.zeros(3), np.zeros(3))
    assert not free.any()
    assert list(step) == [0.0, 0.0, 0.0]
