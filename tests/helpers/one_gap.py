"""One gap between two polarisers: fibre that turns polarisation, a controller, and counts of what passes.

The twins' own models of a controller's fibre stand in it, with everything that a unit became: half-wave voltages, mounting
angles, hysteresis, paddles that miss their place by a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from drivers.kinds import PolarizationAxes
from sim_backends.optics_polarization import as_fibre_lies, turned
from sim_backends.polarization.fibre import PaddledFibre, SqueezedFibre

SQUEEZERS = PolarizationAxes(4, "V", -5.0, 5.0, 1e-3, 2.0, 0.02)
PADDLES = PolarizationAxes(3, "deg", 0.0, 170.0, 0.5, 45.0, 8.0)
COUNTS_PER_DEG = 1370 / 170
Controller = Literal["squeezers", "paddles"]


class Gap:
    """``counts`` pass in a reading when nothing is lost, and ``dark`` ones come besides; settings are any at first."""

    def __init__(self, controller: Controller, seed: int, *, counts: float = 1e5, dark: float = 20.0) -> None:
        self.rng = np.random.default_rng([seed, 7])
        is_squeezed = controller == "squeezers"
        self.axes = SQUEEZERS if is_squeezed else PADDLES
        self.controller = (SqueezedFibre if is_squeezed else PaddledFibre).made(self.rng, 1.0)
        self.fibre = as_fibre_lies(self.rng)
        self.counts, self.dark = counts, dark
        self.readings = 0
        self.held = [float(each) for each in self.rng.uniform(self.axes.low, self.axes.high, self.axes.count)]

    def apply(self, settings: list[float]) -> Sequence[float]:
        assert len(settings) == self.axes.count
        assert self.axes.low <= min(settings) <= max(settings) <= self.axes.high
        self.held = [self._reached(each) for each in settings]
        return self.held

    def _reached(self, setting: float) -> float:
        if isinstance(self.controller, SqueezedFibre):
            return round(setting, 3)
        missed = int(self.rng.integers(-1, 2))
        return min(max(round(setting * COUNTS_PER_DEG) + missed, 0), 1370) / COUNTS_PER_DEG

    def passes(self, settings: Sequence[float] | None = None) -> float:
        """The part of the light that passes with these settings, by default those that are held."""
        jones = self.fibre @ self.controller.jones(self.held if settings is None else settings)
        return float(abs(jones[0, 0]) ** 2)

    def lost_db(self) -> float:
        """By the settings that are held."""
        return float(-10 * np.log10(self.passes()))

    def count(self) -> int:
        self.readings += 1
        return int(self.rng.poisson(self.counts * self.passes() + self.dark))

    def drift(self, rad: float) -> None:
        """The fibre turns about each axis of the Poincare sphere at random, by ``rad`` (one sigma)."""
        self.fibre = turned(*self.rng.normal(0.0, rad, 3)) @ self.fibre
