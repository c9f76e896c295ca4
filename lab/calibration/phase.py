"""V_pi of a user's modulator from clicks at levels that nobody else knew.

The user drives every pulse with one of many levels, drawn privately, and learns from the relay's announcement which
pulses clicked where.  A light pulse with phase ``theta`` and at most ``n`` photons answers to *any* measurement whatever
with a trigonometric polynomial in ``theta`` of degree n: a phase multiplies the amplitude of k photons by
``exp(i k theta)``, and probabilities are quadratic in amplitudes.  So the number of clicks of a detector at level ``v`` is ::

    N(v) = sum_{h = 0..2} a_h cos(h pi v / V) + b_h sin(h pi v / V)

with whatever coefficients the relay likes, but with a period of 2 V that it cannot change.  What pulses of three and
more photons add is not fitted, and is charged: they are at most ``mu^3 / 6`` of all, so that even a relay that answered
to no others could put no more than ``mu^3 / 6 / Q`` of the clicks in higher harmonics, Q being the part of the pulses
that it announces.  The share that these can move V by is worked out for the worst phase of the third harmonic.

Source of the statement on photons: the Fourier support of a phase-shifted state, e.g. Glauber, Phys. Rev. 131, 2766
(1963) for coherent states; of the fit: variable projection, Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from lab.calibration.chance import by_chance
from lab.calibration.errors import CalibrationRefusedError

Floats = npt.NDArray[np.float64]

HARMONICS = 2
SEARCHED = 0.25
"""V is looked for within this part of what it is expected to be."""
LEAST_CONTRAST = 0.5
"""Of the first harmonic against the mean, at either detector: less is no interference to calibrate with."""
WORST_FIT = 1e-4
"""A fit is refused that would come out as badly by chance so seldom."""
LEAST_CLICKS = 20_000
GRID = 81


@dataclass(frozen=True)
class LevelCounts:
    """What a user counted, by level.

    ``volts``: at the input of the driver amplifier, float64 of shape (n,); ``clicks``: of D1 and D2 alone, int64 of shape
    (2, n).  ``pulses`` were sent in all, each level as often as any other, of at most ``mu_upper`` photons on average.
    """

    volts: Floats
    clicks: npt.NDArray[np.int64]
    pulses: int
    mu_upper: float


@dataclass(frozen=True)
class PhaseFit:
    """``half_wave_v``: volts at the amplifier that turn the light by pi, with its uncertainty (one sigma).

    ``charged``: the part of it that the relay may have moved it by beyond that.  ``offset_rad``: the phase of the light
    against the other direction's without a drive, in the interference as announced: D1 is brightest where the driven
    phase is minus this.
    ``chi2`` over ``degrees`` of freedom; ``expected`` clicks by level as fitted, of the shape of the clicks.
    """

    half_wave_v: float
    sigma_v: float
    charged: float
    offset_rad: float
    offset_sigma_rad: float
    contrast: float
    chi2: float
    degrees: int
    expected: Floats

    @property
    def phase_uncertainty_rad(self) -> float:
        """How far a phase of half a turn, the largest in use, may be wrong: two sigma and what is charged."""
        return math.pi * (2 * self.sigma_v / self.half_wave_v + self.charged)


def fit_phase(counts: LevelCounts, expected_half_wave_v: float) -> PhaseFit:
    """Fit both detectors together.  Raises CalibrationRefusedError with what to look at."""
    from scipy.optimize import minimize_scalar  # a third of a second, not for processes that never calibrate

    total = int(counts.clicks.sum())
    if total < LEAST_CLICKS:
        raise CalibrationRefusedError(
            f"{total} clicks are too few to fit a cosine to, at least {LEAST_CLICKS} are needed",
            "play more frames, or look for the light",
        )
    misfit = partial(_misfit, counts)
    grid = expected_half_wave_v * np.linspace(1 - SEARCHED, 1 + SEARCHED, GRID)
    best = int(np.argmin([misfit(v) for v in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    found = float(minimize_scalar(misfit, bounds=(low, high), method="bounded", options={"xatol": 1e-9}).x)
    weights, expected, coefficients = _solve(counts, found)
    contrast, offset_rad = _interference(coefficients)
    if contrast < LEAST_CONTRAST:
        raise CalibrationRefusedError(
            f"the clicks follow the levels with a contrast of {contrast:.2f}, at least {LEAST_CONTRAST:g} is needed",
            "the waveform does not meet the pulses (delays), the two directions do not interfere (polarisation), or what "
            "is announced is not what clicked",
        )
    if not 0 < best < GRID - 1:
        raise CalibrationRefusedError(
            f"half a turn is not found within {100 * SEARCHED:g} % of {expected_half_wave_v:.4g} V",
            "v_pi_v and rf_gain of the file, and the amplifier's supply",
        )
    chi2, degrees = misfit(found), counts.clicks.size - coefficients.size - 1
    if by_chance(chi2, degrees) < WORST_FIT:
        raise CalibrationRefusedError(
            f"the clicks are no cosine of the levels: chi2 is {chi2:.0f} for {degrees} degrees of freedom",
            "the amplifier saturates, the light moved while it was measured, or what is announced is not what clicked",
        )
    sigma_v, offset_sigma_rad = _errors(counts, found, weights, coefficients)
    share = counts.mu_upper**3 / 6 / (total / counts.pulses)
    charged = share * _leverage(counts, found, weights, coefficients)
    return PhaseFit(found, sigma_v, charged, offset_rad, offset_sigma_rad, contrast, chi2, degrees, expected)


def _basis(volts: Floats, half_wave_v: float, harmonics: int = HARMONICS) -> Floats:
    """1, cos and sin of each harmonic: float64 of shape (n, 1 + 2 harmonics)."""
    theta = np.pi * volts / half_wave_v
    columns = [np.ones_like(theta)]
    for h in range(1, harmonics + 1):
        columns += [np.cos(h * theta), np.sin(h * theta)]
    return np.stack(columns, axis=1)


def _solve(counts: LevelCounts, half_wave_v: float) -> tuple[Floats, Floats, Floats]:
    """Weights and expected counts, both of shape (2, n), and coefficients (2, k), for one V.

    Least squares with the variances of a first fit, so that a chance low count does not weigh more.
    """
    basis = _basis(counts.volts, half_wave_v)
    observed = counts.clicks.astype(np.float64)
    smooth = observed.mean() * np.ones_like(observed)
    for _ in range(2):
        weights = 1 / np.maximum(smooth, 1.0)
        roots = np.sqrt(weights)
        coefficients = np.stack(
            [
                np.linalg.lstsq(basis * r[:, None], o * r, rcond=None)[0]
                for r, o in zip(roots, observed, strict=True)
            ]
        )
        smooth = coefficients @ basis.T
    return 1 / np.maximum(smooth, 1.0), smooth, coefficients


def _misfit(counts: LevelCounts, half_wave_v: float) -> float:
    weights, expected, _ = _solve(counts, half_wave_v)
    return float(np.sum(weights * (counts.clicks - expected) ** 2))


def _interference(coefficients: Floats) -> tuple[float, float]:
    """Contrast of the worse detector, and the phase of D1 minus D2 in the first harmonic."""
    amplitudes = np.hypot(coefficients[:, 1], coefficients[:, 2]) / np.maximum(coefficients[:, 0], 1e-12)
    difference = coefficients[0] / coefficients[0, 0] - coefficients[1] / max(coefficients[1, 0], 1e-12)
    return float(amplitudes.min()), math.atan2(-difference[2], difference[1])


def _jacobian(volts: Floats, half_wave_v: float, coefficients: Floats) -> Floats:
    """Derivative of one detector's counts by V and by its coefficients: shape (n, 1 + k)."""
    theta = np.pi * volts / half_wave_v
    by_theta = np.zeros_like(theta)
    for h in range(1, HARMONICS + 1):
        cosine, sine = coefficients[2 * h - 1], coefficients[2 * h]
        by_theta += h * (sine * np.cos(h * theta) - cosine * np.sin(h * theta))
    by_v = by_theta * -theta / half_wave_v
    return np.column_stack([by_v, _basis(volts, half_wave_v)])


def _errors(
    counts: LevelCounts, half_wave_v: float, weights: Floats, coefficients: Floats
) -> tuple[float, float]:
    """One sigma of V, with the coefficients of both detectors free, and of the phase offset."""
    information, offset = 0.0, 0.0
    for d in (0, 1):
        jacobian = _jacobian(counts.volts, half_wave_v, coefficients[d])
        fisher = jacobian.T @ (weights[d][:, None] * jacobian)
        inside = np.linalg.inv(fisher[1:, 1:])
        information += float(fisher[0, 0] - fisher[0, 1:] @ inside @ fisher[1:, 0])
        amplitude = max(float(np.hypot(coefficients[d, 1], coefficients[d, 2])), 1e-12)
        across = np.array([-coefficients[d, 2], coefficients[d, 1]]) / amplitude**2
        offset += 1 / float(across @ inside[1:3, 1:3] @ across)
    return 1 / math.sqrt(information), 1 / math.sqrt(offset)


def _leverage(counts: LevelCounts, half_wave_v: float, weights: Floats, coefficients: Floats) -> float:
    """The part that V moves by when all clicks of both detectors follow the third harmonic, at its worst phase.

    To first order, and as if it moved by so much for each small share of them.
    """
    third = _basis(counts.volts, half_wave_v, 3)[:, -2:]
    moved, information = np.zeros(2), 0.0
    for d in (0, 1):
        jacobian = _jacobian(counts.volts, half_wave_v, coefficients[d])
        fisher = jacobian.T @ (weights[d][:, None] * jacobian)
        mean = counts.clicks.sum() / counts.volts.size  # of both: the relay may send it all to one detector
        pull = jacobian.T @ (weights[d][:, None] * third * mean)
        inside = np.linalg.solve(fisher[1:, 1:], np.column_stack([fisher[1:, :1], pull[1:]]))
        information += float(fisher[0, 0] - fisher[0, 1:] @ inside[:, 0])
        moved += np.abs(pull[0] - fisher[0, 1:] @ inside[:, 1:])
    return float(np.hypot(*moved)) / information / half_wave_v
