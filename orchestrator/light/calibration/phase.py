"""Half a turn of one user's modulator: private levels played, and what the fit makes of their clicks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lab.calibration.finding import Curve, Finding, Measured
from lab.calibration.phase import LevelCounts, PhaseFit, fit_phase
from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator.light.calibration.levels import expected_half_wave_v, level_counts
from orchestrator.light.clicks import LevelClicks
from orchestrator.light.own_station import Direction


def phase_finding(
    testbed: Testbed,
    user: str,
    partner: str,
    levels: npt.NDArray[np.float32],
    clicks: LevelClicks,
    mu_upper: float,
    direction: Direction,
) -> Finding:
    """What a user's clicks say of its modulator; ``mu_upper`` bounds the mean photon number of its pulses.

    ``levels``: float32 of shape (256,), as they were played.

    Only the ratio of V_pi and the amplifier's gain can be measured, and only it matters: the gain stays as it is in the
    file.  Raises CalibrationRefusedError.
    """
    counts = level_counts(testbed, user, levels, clicks, mu_upper)
    fit = fit_phase(counts, expected_half_wave_v(testbed, user))
    gain = testbed.user(user).rf_gain
    return Finding(
        step=Step.PHASE,
        owner=user,
        partner=partner,
        values={
            "v_pi_v": Measured(fit.half_wave_v * gain, fit.sigma_v * gain, "V"),
            "phase_uncertainty_rad": Measured(fit.phase_uncertainty_rad, 0.0, "rad"),
            # Counter-clockwise light carries the loop's phase away, clockwise light has it to come.
            "loop_phase_rad": Measured(
                fit.offset_rad if direction == "ccw" else -fit.offset_rad, fit.offset_sigma_rad, "rad"
            ),
        },
        figures={
            "half_wave_v": Measured(fit.half_wave_v, fit.sigma_v, "V"),
        },
        settings={"rf_gain": gain, "mu_upper": mu_upper, "pulses": float(counts.pulses)},
        quality={
            "contrast": fit.contrast,
            "chi2": fit.chi2,
            "degrees_of_freedom": float(fit.degrees),
            "charged": fit.charged,
        },
        counts={f"D{d + 1}": counts.clicks[d].tolist() for d in (0, 1)},
        curves=[_curve(user, counts, fit)],
        light_s=counts.pulses / testbed.protocol.clock_hz,
    )


def _curve(user: str, counts: LevelCounts, fit: PhaseFit) -> Curve:
    names = ("D1", "D2")
    return Curve(
        f"Clicks of {user}'s levels",
        "voltage at the amplifier / V",
        "clicks per level",
        counts.volts.tolist(),
        {name: counts.clicks[d].astype(float).tolist() for d, name in enumerate(names)},
        {name: fit.expected[d].tolist() for d, name in enumerate(names)},
        {name: np.sqrt(np.maximum(fit.expected[d], 1.0)).tolist() for d, name in enumerate(names)},
    )
