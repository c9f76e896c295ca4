"""Whether the levels of both users still turn light as their calibration says, watched over blocks of one pair.

V_pi and the gain of a driver amplifier drift with temperature, by some tenths of a per cent in a room that keeps a kelvin.  All
phases of a user grow together then.  In rounds of different bases, whose symbols are told
(:mod:`orchestrator.light.tracking.loop_phase`), that differs from a phase of the loop, which turns all of them alike: with
``a`` and ``b`` the phases that are driven, ``x`` and ``y`` by how much they are too large relatively, and ``L`` what is left
of the loop's, detector 1 has of the clicks of a pair of symbols more than detector 2, relatively ::

    -V sin(a - b) (L + x a - y b) + e

to first order, ``e`` being how unlike the detectors are.  Eight combinations of symbols tell the four unknowns: in fifty
thousand rounds ``x`` to a quarter of a per cent.  A single block says little, so blocks are averaged, old ones fading.  What
the partner's waveform leaves on the own pulse, and a switch that leaks, look like some tenths of a per cent as well, always
the same: so this shows an amplifier that fails or a V_pi that went by a per cent, and no less.  Drift that stays below is
what the age of a calibration allows for.

Nothing is corrected by it.  How phases of one user stand to each other is what the proof rests on, and a relay can make them
look as it likes by its clicks; only a calibration with levels that nobody else knows, of which the part that a relay may
have moved is charged, sets them.  So more than is charged for them is a reason for that calibration and for no key until
then: a relay that lies can bring about a calibration, as it can anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.calibration.steps import Step

Floats = npt.NDArray[np.float64]

FADING = 0.1
"""What an old block loses of its weight with each that comes."""
SURE = 4.0
"""So many of its standard deviations beyond what is charged, levels are off."""
LARGEST_RAD = 0.1
"""Of the loop's phase in a block that is looked at: beyond, the first order does not suffice."""
UNKNOWNS = 4


@dataclass(frozen=True)
class LevelsOff:
    """By what part the phases of first and second are too large, with the standard deviations."""

    off: tuple[float, float]
    sigmas: tuple[float, float]


class LevelsOutOfBudget(Exception):
    """Phases of a user are further off than is charged; ``steps`` would mend it."""

    steps = (Step.PHASE,)


class LevelsWatch:
    """Of both users of a pair, by the first."""

    def __init__(self) -> None:
        self._information = np.zeros((UNKNOWNS, UNKNOWNS))
        self._pull = np.zeros(UNKNOWNS)

    def see(
        self,
        clicks: npt.NDArray[np.int64],
        driven_rad: tuple[Floats, Floats],
        visibility: float,
    ) -> LevelsOff | None:
        """Take a block's clicks by detector and the symbols of first and second, int64 of shape (2, n, n).

        ``driven_rad``: the phases that either one's modulator was to give its symbols, float64 of shape (n,).  None while
        too little is known.
        """
        first, second = driven_rad
        seen = clicks.sum(axis=0)
        rows = np.nonzero(seen)
        a, b, rounds = first[rows[0]], second[rows[1]], seen[rows].astype(np.float64)
        more = (clicks[0] - clicks[1])[rows] / rounds
        steep = -visibility * np.sin(a - b)
        columns = np.stack([steep, steep * a, -steep * b, np.ones_like(steep)], axis=1)
        off = more - visibility * np.cos(a - b)
        self._information = (1 - FADING) * self._information + columns.T @ (rounds[:, None] * columns)
        self._pull = (1 - FADING) * self._pull + columns.T @ (rounds * off)
        if np.linalg.matrix_rank(self._information) < UNKNOWNS:
            return None
        covariance = np.linalg.inv(self._information)
        found, sigmas = covariance @ self._pull, np.sqrt(np.diag(covariance))
        return LevelsOff((float(found[1]), float(found[2])), (float(sigmas[1]), float(sigmas[2])))


def require_in_budget(
    levels: LevelsOff | None, users: tuple[str, str], charged_rad: tuple[float, float]
) -> None:
    """LevelsOutOfBudget where phases of half a turn are surely further off than ``charged_rad`` of each user."""
    if levels is None:
        return
    for user, off, sigma, charged in zip(users, levels.off, levels.sigmas, charged_rad, strict=True):
        if math.pi * (abs(off) - SURE * sigma) > charged:
            raise LevelsOutOfBudget(
                f"the phases of {user} are {100 * off:+.2f} +- {100 * sigma:.2f} % off, which of half a turn is "
                f"{1e3 * math.pi * abs(off):.0f} mrad, and {1e3 * charged:.0f} mrad are charged"
            )
