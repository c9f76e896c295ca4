"""The fibre inside a polarisation controller: what its actuators make of light, as a Jones matrix.

Field vectors are (x, y), x along the polarisers; a Jones matrix is complex128 of shape (2, 2), and unitary as nothing here
loses light.  What a unit became is drawn once: half-wave voltages, mounting angles, stress at rest, and the fibre between
its actuators and its connectors, which may turn polarisation in any way.  ``spread`` 0 is a unit as ordered, which at 0 V
or with its paddles at 0 degrees lets light along x pass as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_backends.optics_polarization import NOT_TURNED, Jones, as_fibre_lies

HALF_WAVE_V = 2.0
"""Of a squeezer on an average (chosen; no source has it)."""
SQUEEZER_AXES_RAD = (0.0, math.pi / 4, 0.0, math.pi / 4)
"""Squeezers in turn along 0 and 45 degrees: what any polarisation takes (Noe, Heidrich and Hoffmann, J. Lightwave Technol.
6, 1199 (1988), with three, and a fourth against imperfections)."""
LOOPS = (1, 2, 1)
"""Of fibre on each paddle: about a quarter, half and quarter wave."""
LOOP_RETARDANCE_RAD = 1.47
"""2 pi^2 a d^2 / (lambda D) with a = 0.133, d = 125 um of cladding, lambda = 1550 nm and loops of D = 18 mm (Thorlabs' manual
of its fibre polarisation controllers, whose equation it is)."""
AXIS_PER_PADDLE = 0.92
"""A paddle also twists the fibre beside it, which turns polarisation back by about 0.08 of the angle (Lefevre, Electron.
Lett. 16, 778 (1980))."""


def rotation(angle_rad: float) -> Jones:
    """Turns a field by an angle."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[cos, -sin], [sin, cos]], np.complex128)


def retarder(retardance_rad: float, axis_rad: float) -> Jones:
    """A linear retarder whose fast axis is at an angle to x."""
    plate = np.diag(np.exp(np.array([-0.5j, 0.5j]) * retardance_rad))
    jones: Jones = rotation(axis_rad) @ plate @ rotation(-axis_rad)
    return jones


@dataclass
class SqueezedFibre:
    """Four squeezers in a row; a piezo lags ``hysteresis_v`` behind its voltage, on either side."""

    half_wave_v: npt.NDArray[np.float64]
    at_rest_rad: npt.NDArray[np.float64]
    axes_rad: npt.NDArray[np.float64]
    hysteresis_v: float
    pigtail: Jones

    def __post_init__(self) -> None:
        self._acts_v = np.zeros(len(self.axes_rad))

    @classmethod
    def made(cls, rng: np.random.Generator, spread: float) -> SqueezedFibre:
        """A unit as it became."""
        count = len(SQUEEZER_AXES_RAD)
        return cls(
            half_wave_v=HALF_WAVE_V * (1 + 0.1 * spread * rng.uniform(-1, 1, count)),
            at_rest_rad=min(spread, 1.0) * rng.uniform(-math.pi, math.pi, count),
            axes_rad=SQUEEZER_AXES_RAD + math.radians(3.0) * spread * rng.uniform(-1, 1, count),
            hysteresis_v=0.02 * spread,
            pigtail=as_fibre_lies(rng) if spread else NOT_TURNED,
        )

    def jones(self, volts: Sequence[float]) -> Jones:
        """What becomes of light once the voltages are these."""
        self._acts_v = np.clip(
            self._acts_v, np.subtract(volts, self.hysteresis_v), np.add(volts, self.hysteresis_v)
        )
        through = self.pigtail
        for volt, half_wave, rest, axis in zip(
            self._acts_v, self.half_wave_v, self.at_rest_rad, self.axes_rad, strict=True
        ):
            through = retarder(math.pi * volt / half_wave + rest, axis) @ through
        return through


@dataclass(frozen=True)
class PaddledFibre:
    """Three paddles with loops of fibre."""

    retardances_rad: npt.NDArray[np.float64]
    offsets_rad: npt.NDArray[np.float64]
    pigtail: Jones

    @classmethod
    def made(cls, rng: np.random.Generator, spread: float) -> PaddledFibre:
        """A unit as it became."""
        count = len(LOOPS)
        return cls(
            retardances_rad=LOOP_RETARDANCE_RAD
            * np.array(LOOPS)
            * (1 + 0.05 * spread * rng.uniform(-1, 1, count)),
            offsets_rad=math.radians(5.0) * spread * rng.uniform(-1, 1, count),
            pigtail=as_fibre_lies(rng) if spread else NOT_TURNED,
        )

    def jones(self, angles_deg: Sequence[float]) -> Jones:
        """What becomes of light with the paddles at these angles."""
        through = self.pigtail
        for angle, retardance, offset in zip(angles_deg, self.retardances_rad, self.offsets_rad, strict=True):
            through = retarder(retardance, AXIS_PER_PADDLE * math.radians(angle) + offset) @ through
        return through
