"""A power sensor that averages: a reading takes its time, is the mean of the light in it, and as noisy as that leaves it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

STEP_S, MOST_STEPS = 0.01, 50
"""How finely the light is looked at while a reading is averaged; what takes less is answered at once, and its time owed."""


@dataclass
class Averaging:
    """How a simulated sensor averages.

    ``noise_w`` is the standard deviation of a reading averaged over one second; ``rest(seconds)`` lets time pass.  A reading
    takes its averaging time divided by ``speed``; infinite for tests against the light itself.  Of readings that are shorter than
    a computer rests, as hurried parts are, many together take the time that they should.
    """

    noise_w: float
    rng: np.random.Generator
    rest: Callable[[float], None]
    speed: float = 1.0
    owed_s: float = field(default=0.0, init=False)

    def mean_w(self, light_w: Callable[[], float], averaging_s: float) -> float:
        """The light over ``averaging_s`` from now on, without noise."""
        takes_s = self.owed_s + averaging_s / self.speed
        if takes_s < STEP_S:
            self.owed_s = takes_s
            return light_w()
        self.owed_s = 0.0
        steps = min(max(round(takes_s / STEP_S), 1), MOST_STEPS)
        total_w = 0.0
        for _ in range(steps):
            self.rest(takes_s / steps)
            total_w += light_w()
        return total_w / steps

    def noise(self, averaging_s: float) -> float:
        """What one reading is off by chance."""
        return self.noise_w / math.sqrt(averaging_s) * float(self.rng.standard_normal())
