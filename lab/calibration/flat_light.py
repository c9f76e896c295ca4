"""Dark counts and back-scatter: clicks that come at any time alike.

Dark counts are what is counted with the launch closed.  Back-scatter is what is flat in time with the launch open and
both stations' attenuators at their maximum, less the dark counts: light that never passed a station.
"""

from __future__ import annotations

import math

import numpy as np

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.calibration.gates import GateCounts

LOSSES_DB = 0.2
"""What the losses of stations and loop, and the light that is counted while detectors recover, leave open (chosen)."""
RATIOS = (0.5, 2.0)
LEAST_CLICKS = 50
"""A rate from fewer says little."""


def dark_count_probability(counts: GateCounts, least: int = LEAST_CLICKS) -> Measured:
    """Mean of both detectors per gate, from all the clicks that were counted in the dark.

    Raises CalibrationRefusedError for a detector that counts nothing, or light.
    """
    per_gate = counts.gate_ns / (counts.gate_ns + counts.quiet_ns)
    clicks = counts.inside + counts.quiet
    if clicks.sum() < least:
        raise CalibrationRefusedError(
            f"{clicks.sum():.0f} dark counts in {counts.slots} slots are too few",
            "count longer, or look at the bias",
        )
    if not clicks.all():
        silent = int(np.argmin(clicks)) + 1
        raise CalibrationRefusedError(
            f"D{silent} counts nothing while the other counts {clicks.max():.0f}",
            "its bias, its trigger level: latched?",
        )
    pulsed_db = counts.pulsed.sum() / max(float(np.hypot(*counts.pulsed_sigma)), 1.0)
    if pulsed_db > 5:
        raise CalibrationRefusedError("the clicks come in pulses", "the launch is not closed")
    mean = float(clicks.sum()) * per_gate / counts.slots / 2
    return Measured(mean, mean / math.sqrt(float(clicks.sum())))


def backscatter_per_gate(counts: GateCounts, dark: Measured) -> Measured:
    """What fibre sends back per gate and detector, mean of both."""
    flat = float(counts.flat_per_gate.sum()) / 2
    assert isinstance(dark.value, float)
    assert isinstance(dark.uncertainty, float)
    found = flat - dark.value
    sigma = math.hypot(float(np.hypot(*counts.flat_sigma)) / 2, dark.uncertainty)
    if not found > 2 * sigma:
        raise CalibrationRefusedError(
            f"{found:.2g} per gate above the dark counts, +- {sigma:.2g}: nothing to measure",
            "count longer, or launch more light",
        )
    return Measured(found, sigma)


def detector_ratio(counts: GateCounts, dark: GateCounts) -> Measured:
    """Counts of D2 over those of D1 for the same light: scattered light has no phase and leaves by both alike."""
    flat, unlit = ((each.inside + each.quiet) for each in (counts, dark))
    first, second = flat / counts.slots - unlit / dark.slots
    sigmas = np.sqrt(flat / counts.slots**2 + unlit / dark.slots**2)
    if not min(first, second) > 0:
        raise CalibrationRefusedError(
            "a detector counts no scattered light", "its bias, its trigger level: latched?"
        )
    ratio = float(second / first)
    if not RATIOS[0] <= ratio <= RATIOS[1]:
        raise CalibrationRefusedError(
            f"of the same light D2 counts {ratio:.2f} of what D1 does, {RATIOS[0]:g} to {RATIOS[1]:g} can be",
            "the bias and trigger level of both (calibrate detectors), a fibre between coupler and detector",
        )
    return Measured(ratio, ratio * math.hypot(sigmas[0] / first, sigmas[1] / second))


def backscatter_db_per_m(per_gate: Measured, expected: float, assumed_db_per_m: float) -> Measured:
    """The scattering of a metre of fibre, where ``expected`` per gate would be there for the assumed one."""
    assert isinstance(per_gate.value, float)
    assert isinstance(per_gate.uncertainty, float)
    counting_db = 10 / math.log(10) * per_gate.uncertainty / per_gate.value
    sigma_db = math.hypot(counting_db, LOSSES_DB)
    return Measured(assumed_db_per_m + 10 * math.log10(per_gate.value / expected), sigma_db, "dB/m")
