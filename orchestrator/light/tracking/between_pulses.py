"""Whether the carver stands at its null, by the light between pulses.

A bias controller follows the null by a dither of its own and says that it holds it; nothing but the light tells whether that
is so.  Before the first frame of a block the relay counts the light at rest, and most of what comes between its pulses is
known: dark counts, and what fibre scatters back, of which a narrow laser may make three times the mean.  More than that is
light that the carver lets through, and the null is found anew.

A bias that is off by a twentieth of V_pi shows so, by light that is 22 dB below the pulses; what is less drowns in
back-scatter with stations in the ring, and is measured without them (calibrate carver).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lab.calibration.gates import GateCounts

SPECKLE = 3.0
"""Times the mean that scattered light may be."""
SURE = 5.0
"""So many standard deviations above what is known, light is there."""


@dataclass(frozen=True)
class BetweenPulses:
    """What is counted between pulses in the time of a gate, and what of it is known at the most, in dB of a pulse.

    ``is_let_through``: whether the carver surely lets through the rest.
    """

    counted_db: float
    known_db: float
    is_let_through: bool


def between_pulses(counts: GateCounts, dark_per_gate: float, backscatter: float) -> BetweenPulses | None:
    """Of light at rest; None without any.  ``backscatter``: counts per gate and detector for every photon that arrives."""
    pulse = float(counts.pulsed.sum()) / counts.slots
    flat, sigma = float(counts.flat_per_gate.sum()), math.hypot(*counts.flat_sigma.tolist())
    known = 2 * dark_per_gate + 2 * SPECKLE * backscatter * counts.arriving
    if not min(pulse, flat, known) > 0:
        return None
    counted_db, known_db = (10 * math.log10(each / pulse) for each in (flat, known))
    return BetweenPulses(counted_db, known_db, flat - known > SURE * sigma)
