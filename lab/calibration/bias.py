"""A sweep of a nanowire detector's bias: where counts level off, how dark counts rise, where it ends.

The efficiency itself cannot be found without a light of known power; its *plateau* can: light counts that change little
with the bias.  Dark counts rise exponentially (e.g. Natarajan et al., Supercond. Sci. Technol. 25, 063001 (2012)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured

Floats = npt.NDArray[np.float64]
STEEPEST = 0.02
"""Change of the light counts per per cent of bias at the operating point that still is a plateau."""


@dataclass(frozen=True)
class Sweep:
    """Counts of one detector by bias: float64 of shape (n,), in ``seconds`` each, with light and without."""

    bias_ua: Floats
    lit: Floats
    dark: Floats
    seconds: float


def plateau(sweep: Sweep, operating_ua: float, name: str) -> dict[str, Measured]:
    """Slope of the light counts and growth of the dark counts at the operating bias, and the critical current.

    Raises CalibrationRefusedError for a bias that is no place to work at.
    """
    alive = sweep.lit > 0
    if not alive.any():
        raise CalibrationRefusedError(
            f"{name} counts nothing at any bias", "its cable, its trigger level, its helium"
        )
    light = np.maximum(sweep.lit - sweep.dark, 0.0)
    last = int(np.flatnonzero(alive)[-1])
    near = alive & (np.abs(sweep.bias_ua / operating_ua - 1) < 0.12)
    if np.count_nonzero(near) < 3:
        raise CalibrationRefusedError(
            f"{name} hardly counts around its bias of {operating_ua:g} uA",
            "a bias below its critical current",
        )
    x = sweep.bias_ua[near] / operating_ua - 1
    counts, sigma = light[near], np.sqrt(np.maximum(sweep.lit[near] + sweep.dark[near], 1.0))
    (slope, level), covariance = np.polyfit(x, counts, 1, w=1 / sigma, cov="unscaled")
    relative, error = float(slope / level) / 100, float(np.sqrt(covariance[0, 0]) / level) / 100
    if relative - 3 * error > STEEPEST:
        raise CalibrationRefusedError(
            f"{name} is on no plateau at {operating_ua:g} uA: one per cent of bias changes its counts by "
            f"{100 * relative:.1f} %",
            "more bias, as long as dark counts allow it",
        )
    found = {f"{name}_slope_per_percent": Measured(relative, error)}
    if last + 1 < sweep.bias_ua.size:
        low, high = float(sweep.bias_ua[last]), float(sweep.bias_ua[last + 1])
        found[f"{name}_critical_ua"] = Measured((low + high) / 2, (high - low) / 12**0.5, "uA")
    risen = (sweep.dark > 20) & alive
    if np.count_nonzero(risen) >= 2:
        log, weight = np.log(sweep.dark[risen]), np.sqrt(sweep.dark[risen])
        (rise, _), spread = np.polyfit(sweep.bias_ua[risen], log, 1, w=weight, cov="unscaled")
        width = 1 / float(rise)
        found[f"{name}_dark_width_ua"] = Measured(width, width**2 * float(np.sqrt(spread[0, 0])), "uA")
    return found
