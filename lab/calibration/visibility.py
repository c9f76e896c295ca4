"""Visibility from light at rest: with equal phases everything leaves by D1 but what does not interfere.

Of the pulses' clicks D1 gets ``(1 + V cos phi) / 2`` and D2 the rest, phi being the phase of the loop.  Clicks that are
flat in time are taken off first: V is what key frames have, without dark counts and back-scatter, which are charged by
themselves.
"""

from __future__ import annotations

import math

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.calibration.gates import GateCounts

LEAST_PULSED = 10_000
LARGEST_PHASE_RAD = 1.2
LEAST = 0.8
DETECTORS_UNEQUAL = 0.04
"""By which part the two detectors may count differently beyond what is known of it."""


def visibility_of(counts: GateCounts, loop_phase_rad: float, loop_sigma_rad: float = 0.0) -> Measured:
    """V with its uncertainty.  Raises CalibrationRefusedError where it is none to make key with."""
    total = float(counts.alike.sum())
    if total < LEAST_PULSED:
        raise CalibrationRefusedError(
            f"{total:.0f} clicks of pulses are too few, at least {LEAST_PULSED} are needed",
            "is there light, and do the gates stand on the pulses (delays)?",
        )
    if abs(loop_phase_rad) > LARGEST_PHASE_RAD:
        raise CalibrationRefusedError(
            f"the loop's phase of {loop_phase_rad:.2f} rad leaves too little of the contrast at rest",
            "look what turns the phase, or calibrate phase again",
        )
    (bright, dark), (bright_sigma, dark_sigma) = counts.alike.tolist(), counts.pulsed_sigma.tolist()
    contrast = (bright - dark) / total
    sigma = 2 * math.hypot(bright * dark_sigma, dark * bright_sigma) / total**2
    cosine = math.cos(loop_phase_rad)
    visibility = contrast / cosine
    if visibility < LEAST:
        raise CalibrationRefusedError(
            f"visibility is {visibility:.3f}, at least {LEAST:g} is needed",
            "polarisation, the loop's phase (calibrate phase), or a modulator that is not at rest",
        )
    # What little leaves by D2 is counted by another detector, and D1 misses some while it recovers.
    unequal = DETECTORS_UNEQUAL * (1 - contrast) / 2
    turned = abs(visibility * math.tan(loop_phase_rad)) * loop_sigma_rad
    # Counting may put it a little above the one that cannot be exceeded.
    return Measured(min(visibility, 1.0), math.hypot(sigma / cosine, turned, unequal))
