"""The levels of calibration frames: what a user's generator plays, and what was counted of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lab.calibration.phase import LevelCounts
from lab.testbed import Testbed
from orchestrator.light.clicks import LevelClicks

N_LEVELS = 256
REACH = 1.2
"""Levels go so many half turns to either side: a period, and a fifth of one seen twice."""
REST = np.zeros(N_LEVELS, np.float32)
"""Of a station that only stands in the ring."""


def expected_half_wave_v(testbed: Testbed, user: str) -> float:
    """Volts at a user's amplifier that turn the light by pi, as far as it is known."""
    settings = testbed.user(user)
    return settings.v_pi_v / settings.rf_gain


def phase_levels(testbed: Testbed, user: str) -> npt.NDArray[np.float32]:
    """Evenly spaced levels from -REACH to REACH half turns, or as far as the amplitude goes; float32 (256,) in [-1, 1]."""
    full_v = testbed.user(user).awg_amplitude_vpp / 2
    reach = min(1.0, REACH * expected_half_wave_v(testbed, user) / full_v)
    return np.linspace(-reach, reach, N_LEVELS).astype(np.float32)


def level_counts(
    testbed: Testbed, user: str, levels: npt.NDArray[np.float32], clicks: LevelClicks, mu_upper: float
) -> LevelCounts:
    """What a user counted at each level, in volts; ``levels``: float32 of shape (256,), as they were played."""
    full_v = testbed.user(user).awg_amplitude_vpp / 2
    return LevelCounts(levels.astype(np.float64) * full_v, clicks.by_level, clicks.n_pulses, mu_upper)
