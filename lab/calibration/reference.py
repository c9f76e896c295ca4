"""Whether generator and tagger run by one clock, and how far the trigger jumps, both from time stamps of pulses.

The carver's generator repeats its pattern by its own clock, and the tagger counts time from the trigger that it sent and got
back at its START input.  So the place of the pulses in the slot says two things.  *Along a record* it stays where it is if
both clocks follow one reference, and walks by a microsecond in a second for each ppm if they do not: instruments say that
they are locked, and this is what it comes to.  *From record to record* it moves by what the trigger's edge is off the
clock, which is the jitter of the START input; where it stands is the latency, whose whole slots nobody needs.

Place is the angle of the mean of ``exp(2 pi i t / slot)``, for which flat counts are no matter; a record is cut in slices
short enough that the place moves by less than half a slot between two of them at :data:`WORST_PPM`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

WORST_PPM = 4.0
"""Two free clocks of such instruments, each up to 2 ppm off."""
LOCKED_PPM = 1e-3
"""By this a frame of 50 ms ends 50 ps off: clocks that follow one reference do not differ at all."""
JITTER_PS = 100.0
"""What a trigger's edge may jump by: a gate is ten times as long, and calibrations tell 20 ps."""
LEAST_RECORDS = 4
LEAST_IN_SLICE = 50


@dataclass(frozen=True)
class ReferenceFit:
    """``places_ps``: of the pulses in the slot at the start of each record, float64, as far from the first as they jumped."""

    offset_ppm: Measured
    jitter_ps: Measured
    places_ps: Floats


def reference_of(records: Sequence[Times], slot_ps: float, record_ps: float) -> ReferenceFit:
    """From the time stamps of one detector (1-d int64, ps since the trigger), record by record.

    Raises CalibrationRefusedError for clocks that differ, a trigger that jumps, and too little to tell.
    """
    if len(records) < LEAST_RECORDS:
        raise CalibrationRefusedError(
            f"{len(records)} records are too few, at least {LEAST_RECORDS} are needed", "record again"
        )
    slices = math.ceil(record_ps * WORST_PPM * 1e-6 / (slot_ps / 4))
    lines = [_line(times, slot_ps, record_ps, slices) for times in records]
    slopes, places = np.array(lines).T
    offset_ppm, offset_sigma = _mean(slopes * 1e6)
    if abs(offset_ppm) > max(LOCKED_PPM, 5 * offset_sigma):
        raise CalibrationRefusedError(
            f"the carver's generator runs {offset_ppm:+.4f} +- {offset_sigma:.4f} ppm off the tagger's clock",
            "the 10 MHz reference of both: is it plugged in, is each set to follow it",
        )
    jumps = _nearest(places - places[0], slot_ps)
    jitter_ps = float(jumps.std(ddof=1))
    if jitter_ps > JITTER_PS:
        raise CalibrationRefusedError(
            f"from record to record the pulses jump by {jitter_ps:.0f} ps, at most {JITTER_PS:g} ps is allowed",
            "the level of the START input on the trigger's edge, the trigger's cable, a loose reference",
        )
    return ReferenceFit(
        Measured(offset_ppm, offset_sigma, "ppm"),
        Measured(jitter_ps, jitter_ps / math.sqrt(2 * (len(records) - 1)), "ps"),
        places[0] + jumps,
    )


def _line(times: Times, slot_ps: float, record_ps: float, slices: int) -> tuple[float, float]:
    """How the place of the pulses moves along a record, in ps per ps, and where it is at its start, in ps."""
    number = np.minimum((times * (slices / record_ps)).astype(np.int64), slices - 1)
    turned = np.exp(2j * math.pi / slot_ps * (times % round(slot_ps)))
    counts = np.bincount(number, minlength=slices)
    if counts.min() < LEAST_IN_SLICE:
        raise CalibrationRefusedError(
            f"{times.size} time stamps in a record are too few", "is there light, does the carver cut pulses"
        )
    sums = np.bincount(number, turned.real, slices) + 1j * np.bincount(number, turned.imag, slices)
    if np.abs(sums / counts).min() < 0.5:
        raise CalibrationRefusedError(
            "the time stamps have no place in the slot",
            "does the carver cut pulses, is the light the laser's",
        )
    walked = np.unwrap(np.angle(sums)) * slot_ps / (2 * math.pi)
    middles = (np.arange(slices) + 0.5) * record_ps / slices
    if slices == 1:
        return 0.0, float(walked[0])
    slope, start = np.polyfit(middles, walked, 1)
    return float(slope), float(start)


def _nearest(apart_ps: Floats, slot_ps: float) -> Floats:
    """The same modulo the slot, at most half a slot."""
    return apart_ps - slot_ps * np.rint(apart_ps / slot_ps)


def _mean(values: Floats) -> tuple[float, float]:
    """With what its scatter says of it."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))
