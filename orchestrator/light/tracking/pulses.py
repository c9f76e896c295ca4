"""Where the pulses stand at the detectors, followed from frame to frame.

Fibre gets longer by some 40 ps per kilometre and kelvin, so on a ring of kilometres the light moves through the gates by
hundreds of picoseconds a day.  The middle of the time stamps around a pulse says how far: once enough of them are counted
the gates move along.  Beyond :data:`RANGE_PS` something else has happened, and a calibration has to say what.

Nothing of it has to be believed: gates in the wrong place cost clicks.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lab.calibration.steps import Step
from orchestrator.light.messages import LightAborted
from orchestrator.light.tracking.correction import Correction

WINDOW_PS = 750.0
"""To either side of where the pulse is thought to be."""
PRECISION_PS = 10.0
"""A correction is made when it is known so well."""
SIGNIFICANT = 3.0
"""Of its standard deviations: less is counting noise, which would only make the gates tremble."""
RANGE_PS = 1500.0

Shift = tuple[float, float]


class PulseTracking:
    """How far both detectors' gates have moved since they were calibrated."""

    def __init__(self) -> None:
        self._shift_ps = [0.0, 0.0]
        self._count = np.zeros(2)
        self._sum = np.zeros(2)
        self._squares = np.zeros(2)

    @property
    def shift_ps(self) -> Shift:
        """Of the gates of D1 and of D2."""
        return self._shift_ps[0], self._shift_ps[1]

    def delays_ps(self, calibrated_ps: tuple[int, int]) -> tuple[int, int]:
        """Where the gates stand at this moment."""
        first, second = (round(c + s) for c, s in zip(calibrated_ps, self._shift_ps, strict=True))
        return first, second

    def see(
        self,
        times_ps: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        delays_ps: tuple[int, int],
        slot_ps: float,
    ) -> list[Correction]:
        """Take the time stamps of a frame (1-d int64, one array per detector); how the gates have moved.

        Raises LightAborted with the calibration to run where they would move too far.
        """
        moved = []
        for d, (times, delay) in enumerate(zip(times_ps, delays_ps, strict=True)):
            off = (times.astype(np.float64) - delay + slot_ps / 2) % slot_ps - slot_ps / 2
            near = off[np.abs(off) < WINDOW_PS]
            self._count[d] += near.size
            self._sum[d] += near.sum()
            self._squares[d] += np.square(near).sum()
            if (correction := self._follow(d)) is not None:
                moved.append(correction)
        return moved

    def _follow(self, d: int) -> Correction | None:
        count = self._count[d]
        if count < 2:
            return None
        mean = self._sum[d] / count
        sigma = math.sqrt(max(self._squares[d] / count - mean**2, 1.0) / count)
        if sigma > PRECISION_PS:
            return None
        self._count[d] = self._sum[d] = self._squares[d] = 0.0
        if abs(mean) < SIGNIFICANT * sigma:
            return None
        before = self._shift_ps[d]
        self._shift_ps[d] += float(mean)
        if abs(self._shift_ps[d]) > RANGE_PS:
            raise LightAborted(
                f"the pulses at D{d + 1} stand {self._shift_ps[d]:+.0f} ps from where they were calibrated, more than fibre "
                f"moves by: calibrate {Step.PULSES} and {Step.DELAYS}",
                (Step.PULSES, Step.DELAYS),
            )
        why = f"the middle of {count:.0f} time stamps stood {mean:+.0f} +- {sigma:.0f} ps from the gate's"
        return Correction(f"gate of D{d + 1}", before, self._shift_ps[d], "ps", why)
