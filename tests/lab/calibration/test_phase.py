"""Half a turn from clicks at private levels: right within what it says, refused otherwise, and no relay can shift it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.phase import HARMONICS, LevelCounts, fit_phase

HALF_WAVE_V = 0.2
VOLTS = np.linspace(-0.24, 0.24, 256)
GAIN, MU = 1e-3, 0.008


def counts_of(
    probabilities: npt.NDArray[np.float64], clicks: float, seed: int, mu: float = MU
) -> LevelCounts:
    """Poisson counts of D1 and D2, (2, 256), with that many in all on average."""
    mean = probabilities / probabilities.sum() * clicks
    return LevelCounts(VOLTS, np.random.default_rng(seed).poisson(mean), round(clicks / GAIN), mu)


def interference(
    half_wave_v: float = HALF_WAVE_V, *, visibility: float = 0.98, offset_rad: float = 0.0
) -> npt.NDArray[np.float64]:
    """What an honest relay announces, (2, 256): D1 for equal phases."""
    swing = visibility * np.cos(np.pi * VOLTS / half_wave_v + offset_rad)
    return np.stack([1 + swing, 1 - swing]) / 2


def test_a_million_clicks_find_half_a_turn_to_a_tenth_of_a_per_cent() -> None:
    pulls = []
    for seed in range(40):
        fit = fit_phase(counts_of(interference(offset_rad=0.05), 1e6, seed), 1.04 * HALF_WAVE_V)
        pulls.append(
            (
                (fit.half_wave_v - HALF_WAVE_V) / fit.sigma_v,
                (fit.offset_rad - 0.05) / fit.offset_sigma_rad,
            )
        )
    assert fit.sigma_v < 0.001 * HALF_WAVE_V
    assert fit.offset_sigma_rad < 0.002
    spread = np.std(pulls, axis=0)
    assert 0.7 < spread[0] < 1.3  # 40 draws of a standard deviation scatter by 11 %
    assert spread[1] < 1.2
    assert np.abs(pulls).max() < 5


def test_what_the_planner_charges_covers_the_error() -> None:
    for seed in range(40):
        fit = fit_phase(counts_of(interference(), 1e5, seed), HALF_WAVE_V)
        wrong_rad = math.pi * abs(fit.half_wave_v / HALF_WAVE_V - 1)
        assert wrong_rad < 2 * fit.phase_uncertainty_rad


@pytest.mark.parametrize("wrong", [0.82, 0.95, 1.05, 1.2])
def test_the_file_may_be_wrong_by_a_sixth(wrong: float) -> None:
    fit = fit_phase(counts_of(interference(), 2e5, 1), wrong * HALF_WAVE_V)
    assert fit.half_wave_v == pytest.approx(HALF_WAVE_V, rel=0.01)


@pytest.mark.parametrize(
    ("seen", "clicks", "told"),
    [
        (np.ones((2, 256)), 1e5, "contrast"),
        (interference(visibility=0.2), 1e6, "contrast"),
        (interference(), 1e3, "too few"),
        (interference(1.4 * HALF_WAVE_V), 1e6, "not found within"),
        (np.sign(interference() - 0.5) + 1.1, 1e6, "no cosine"),
    ],
    ids=["noise", "no-interference", "few", "other-modulator", "saturated"],
)
def test_what_cannot_be_believed_is_refused(seen: npt.NDArray[np.float64], clicks: float, told: str) -> None:
    with pytest.raises(CalibrationRefusedError, match=told) as refused:
        fit_phase(counts_of(seen, clicks, 1), HALF_WAVE_V)
    assert refused.value.check


@settings(max_examples=30, deadline=None)
@given(
    harmonics=st.lists(st.floats(-1, 1), min_size=8, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_no_answer_of_up_to_two_photons_shifts_it(harmonics: list[float], seed: int) -> None:
    """Whatever a relay does with pulses of up to two photons: its answers are polynomials of degree 2 in the phase."""
    theta = np.pi * VOLTS / HALF_WAVE_V
    basis = [f(h * theta) for h in range(1, HARMONICS + 1) for f in (np.cos, np.sin)]
    answers = [
        sum((c * b for c, b in zip(harmonics[4 * d : 4 * d + 4], basis, strict=True)), np.zeros_like(theta))
        for d in (0, 1)
    ]
    positive = np.stack([each - each.min() + 0.02 for each in answers])
    try:
        fit = fit_phase(counts_of(positive, 1e6, seed), 1.03 * HALF_WAVE_V)
    except CalibrationRefusedError:
        return
    assert abs(fit.half_wave_v / HALF_WAVE_V - 1) < 5 * fit.sigma_v / HALF_WAVE_V + fit.charged


def test_three_photons_are_charged_for() -> None:
    """A relay that answers to every pulse of three photons shifts it by what is charged at most, and by no tenth of it."""
    mu = 0.04
    share = mu**3 / 6 / GAIN
    theta = np.pi * VOLTS / HALF_WAVE_V
    shifts = []
    for phase in np.linspace(0, 2 * np.pi, 16):
        third = np.cos(3 * theta + phase) * np.array([[1], [-1]])
        answered = interference() * (1 - share) + share * (1 + third) / 2
        clicks = np.rint(answered / answered.sum() * 1e8).astype(np.int64)
        # So many clicks show the harmonic to the fit itself; a smaller number of the same shape does not.
        fit = fit_phase(LevelCounts(VOLTS, clicks // 100, round(1e6 / GAIN), mu), HALF_WAVE_V)
        shifts.append(abs(fit.half_wave_v / HALF_WAVE_V - 1) / fit.charged)
    assert 0.1 < max(shifts) < 1


def test_dim_light_is_charged_less() -> None:
    bright, dim = (fit_phase(counts_of(interference(), 1e6, 1, mu), HALF_WAVE_V) for mu in (0.1, 0.01))
    assert bright.charged == pytest.approx(1000 * dim.charged, rel=1e-6)
