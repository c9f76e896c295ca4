"""The pulse from a histogram of tags modulo the slot: where it stands, how wide it is, and what is left between pulses.

With every station in bypass and the launch dimmed, what is counted away from the pulse is light that the carver lets
through, dark counts, and back-scatter; the latter two are known from elsewhere and taken off.  *Extinction* is the light
of a pulse over what passes within one gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.calibration.gates import GateCounts

Floats = npt.NDArray[np.float64]

LEAST_CLICKS = 2_000
WIDEST_SIGMA_NS = 1.0
LEAST_EXTINCTION_DB = 30.0
"""With less the planner refuses to make key: what passes between pulses is charged."""
SCATTERED = 0.25
"""What the back-scatter may be wrong by: losses, connectors, the speckle of a narrow laser."""


@dataclass(frozen=True)
class Pulse:
    """Middle of the pulse modulo the slot with its error, and its standard deviation, of laser and detector together; ns."""

    middle_ns: float
    middle_sigma_ns: float
    width_ns: float


def pulse_of(tags_ps: npt.NDArray[np.int64], slot_ns: float, name: str) -> Pulse:
    """The pulse of one detector's tags (1-d int64, ps).  Raises CalibrationRefusedError where there is none.

    A first look by the phase of the slot's frequency finds it wherever it stands; then only tags near it count.
    """
    if tags_ps.size < LEAST_CLICKS:
        raise CalibrationRefusedError(
            f"{name} has {tags_ps.size} clicks, at least {LEAST_CLICKS} are needed to see a pulse",
            "is there light, is the detector biased?",
        )
    place_ns = (tags_ps % round(slot_ns * 1e3)).astype(np.float64) * 1e-3
    turned = np.exp(2j * np.pi * place_ns / slot_ns).mean()
    middle_ns, near = float(np.angle(turned)) / (2 * np.pi) * slot_ns, np.zeros(0)
    for reach_ns in (slot_ns / 4, 1.0):
        off_ns = (place_ns - middle_ns + slot_ns / 2) % slot_ns - slot_ns / 2
        near = off_ns[np.abs(off_ns) < reach_ns]
        middle_ns += float(near.mean()) if near.size else 0.0
    near = near - near.mean()
    width_ns = float(near.std())
    if abs(turned) < 0.2 or width_ns > WIDEST_SIGMA_NS / 2:
        raise CalibrationRefusedError(
            f"{name} sees no pulse: its clicks come at any time",
            "the carver's bias and pattern, and the reference clocks of generator and tagger",
        )
    return Pulse(middle_ns % slot_ns, width_ns / math.sqrt(near.size), width_ns)


def extinction_db(counts: GateCounts, dark_per_gate: float, backscatter_per_gate: float) -> Measured:
    """Extinction from light that goes to D1 whole, in dB.

    ``backscatter_per_gate``: as it is expected at this light.  Where the rest is within its own error the extinction is
    given as the least that it may be.  Raises CalibrationRefusedError for light that is hardly pulsed.
    """
    pulse = float(counts.pulsed.sum()) / counts.slots
    left = float(counts.flat_per_gate.sum()) - 2 * dark_per_gate - 2 * backscatter_per_gate
    error = math.hypot(*counts.flat_sigma.tolist(), SCATTERED * 2 * backscatter_per_gate)
    if pulse <= 0 or left > pulse * 10 ** (-LEAST_EXTINCTION_DB / 10):
        raise CalibrationRefusedError(
            f"between pulses is {left:.2g} per gate and in one {pulse:.2g}: less than {LEAST_EXTINCTION_DB:g} dB",
            "the carver's bias, its drive's amplitude",
        )
    floor = max(left, error)
    value_db = 10 * math.log10(pulse / floor)
    return Measured(value_db, 10 / math.log(10) * error / floor, "dB")
