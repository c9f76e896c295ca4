"""When the light of slot 0 reaches each detector: where in the slot its clicks pile up.

Time stamps modulo the slot pile up around the pulse's middle, on a flat ground of dark counts and back-scatter.  The
middle is the centroid of what stands above the ground in a window that is centred on it.  Which slot is number 0 is a
convention of the ring: of the times a whole number of slots apart, the one nearest to what the file says.  Both
detectors must share it, so the second one's is the nearest to where the file has it from the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.calibration.errors import CalibrationRefusedError

Tags = npt.NDArray[np.int64]
"""1-d int64, ps since the trigger."""

BIN_PS = 50.0
WINDOW_PS = 750.0
"""To either side of the middle: more than a pulse with its jitter, less than what leaks half a slot off."""
LEAST_CLICKS = 200
LEAST_SIGMAS = 10.0
"""That a pulse must stand above its ground."""
WIDEST_PS = 350.0
"""Standard deviation of a pulse with jitter: wider ones do not fit into a gate."""
FLOOR_PS = 5.0
"""What a tagger's grid and fibre that warms by some 20 mK (40 ps per km and kelvin) leave open, however much is counted."""
ROUNDS = 8


@dataclass(frozen=True)
class Pulse:
    """``delay_ps`` from the trigger to the middle of slot 0, one sigma of it, and the pulse's standard deviation.

    ``clicks`` above the ground; ``histogram``: counts in bins of :data:`BIN_PS` over a slot, from half a slot before what
    was expected, int64.
    """

    delay_ps: float
    sigma_ps: float
    width_ps: float
    clicks: float
    histogram: npt.NDArray[np.int64]


def pulse_positions(
    tags_ps: tuple[Tags, Tags], expected_ps: tuple[float, float], slot_ps: float
) -> tuple[Pulse, Pulse]:
    """Both detectors' pulses.  Raises CalibrationRefusedError with what to look at."""
    first = _pulse(tags_ps[0], expected_ps[0], slot_ps, "D1")
    from_first_ps = expected_ps[1] - expected_ps[0]
    return first, _pulse(tags_ps[1], first.delay_ps + from_first_ps, slot_ps, "D2")


def _pulse(tags_ps: Tags, expected_ps: float, slot_ps: float, name: str) -> Pulse:
    off_ps = _wrapped(tags_ps.astype(np.float64) - expected_ps, slot_ps)
    bins = round(slot_ps / BIN_PS)
    histogram, _ = np.histogram(off_ps, bins=bins, range=(-slot_ps / 2, slot_ps / 2))
    middle_ps = (int(np.argmax(_smooth(histogram))) + 0.5) * slot_ps / bins - slot_ps / 2
    signal = 0.0
    for _ in range(ROUNDS):
        near = _wrapped(off_ps - middle_ps, slot_ps)
        inside = near[np.abs(near) <= WINDOW_PS]
        far = int(np.count_nonzero(np.abs(near) > 2 * WINDOW_PS))
        ground = far * 2 * WINDOW_PS / (slot_ps - 4 * WINDOW_PS)
        signal = inside.size - ground
        if signal < LEAST_CLICKS or signal < LEAST_SIGMAS * math.sqrt(inside.size):
            raise CalibrationRefusedError(
                f"{name}: {inside.size} clicks where most are in the slot, {ground:.0f} of them of the ground: no pulse to time",
                "does the carver cut pulses, do all clocks follow one reference, is there light; count longer",
            )
        middle_ps += float(inside.sum()) / signal
    variance = (float(np.sum(inside**2)) - ground * WINDOW_PS**2 / 3) / signal
    width_ps = math.sqrt(max(variance, 0.0))
    if width_ps > WIDEST_PS:
        raise CalibrationRefusedError(
            f"{name}: pulses are {width_ps:.0f} ps wide (one sigma), at most {WIDEST_PS:g} ps fit a gate",
            "the carver's pattern, the detectors' trigger levels, and whether all clocks follow one reference",
        )
    sigma_ps = math.hypot(math.sqrt(float(np.sum(inside**2))) / signal, FLOOR_PS)
    delay_ps = expected_ps + float(_wrapped(np.array([middle_ps]), slot_ps)[0])
    return Pulse(delay_ps, sigma_ps, width_ps, signal, histogram.astype(np.int64))


def _wrapped(times_ps: npt.NDArray[np.float64], slot_ps: float) -> npt.NDArray[np.float64]:
    """Modulo the slot, between half a slot before and after 0; of any shape."""
    wrapped: npt.NDArray[np.float64] = (times_ps + slot_ps / 2) % slot_ps - slot_ps / 2
    return wrapped


def _smooth(histogram: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sums over as many bins as a pulse is wide, around the end of the slot too; of the same shape."""
    half = round(WINDOW_PS / 2 / BIN_PS)
    return np.asarray(sum(np.roll(histogram, shift) for shift in range(-half, half + 1)))
