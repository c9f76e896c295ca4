"""How far apart the two directions pass a station: whether one of them can be modulated alone.

It follows from both delays.  A pulse that passes while the other direction's symbol still stands, or already rises, gets
a part of its phase.
"""

from __future__ import annotations

import math

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.light_budget import NS_PER_KM, SEPARATION_LIMITS


def separation(delays_ps: tuple[float, float], sigma_ps: tuple[float, float], slot_ns: float) -> Measured:
    """From clockwise to counter-clockwise light in ns, modulo the slot.

    Raises CalibrationRefusedError with the fibre to trim.
    """
    apart_ns = (delays_ps[1] - delays_ps[0]) * 1e-3 % slot_ns
    low_ns, high_ns = (part * slot_ns for part in SEPARATION_LIMITS)
    if not low_ns <= apart_ns <= high_ns:
        metres = (slot_ns / 2 - apart_ns) / NS_PER_KM * 1e3
        side = (
            "between the station and the relay, counter-clockwise" if metres > 0 else "on the clockwise side"
        )
        raise CalibrationRefusedError(
            f"the two directions pass {apart_ns:.2f} ns apart in a slot of {slot_ns:g} ns, and {low_ns:g} to {high_ns:g} ns "
            "are needed to modulate one alone",
            f"add {abs(metres):.2f} m of fibre {side}",
        )
    return Measured(apart_ns, math.hypot(*sigma_ps) * 1e-3, "ns")
