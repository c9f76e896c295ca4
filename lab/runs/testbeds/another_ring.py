"""A simulated ring other than the template's: made anew from the same order, surveyed or as nobody has calibrated it.

What became of the order is drawn from ``ring_seed`` and hidden.  The file of an uncalibrated ring has the values that the
order would have without any tolerance, and says that the phases may be off by all of it, so that no plan promises key:
what it needs is measured on it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lab.testbed import parse_testbed
from orchestrator.randomness import random_bytes

ORDERED_PHASE_RAD = round(math.pi * (0.05 + 0.05), 3)
"""What a phase of pi may be off by with V_pi and gain as ordered, 5 % each."""


class NoSimulatedRingError(ValueError):
    """Another ring is asked for where none is simulated."""


def another_ring(
    data: dict[str, Any], source: Path, *, ring_seed: int | None, uncalibrated: bool
) -> dict[str, Any]:
    """The content of the valid testbed file ``source`` for the ring of this seed, a fresh one without.

    Raises NoSimulatedRingError for a file of real instruments, whose ring is the one that stands there.
    """
    from sim_backends.survey import surveyed  # brings the light model's compiler

    if "simulation" not in data:
        raise NoSimulatedRingError(
            f"{source} describes no simulated ring, and a real one is what it is: leave out --uncalibrated and --ring-seed"
        )
    seed = int.from_bytes(random_bytes(4), "big") if ring_seed is None else ring_seed
    simulation = {**data["simulation"], "ring_seed": seed}
    taken = {**simulation, "spread": 0.0} if uncalibrated else simulation
    asked = {**data, "simulation": taken}
    found = {**surveyed(asked, parse_testbed(asked, source)), "simulation": simulation}
    if uncalibrated:
        found["uncertainty"] = {**found.get("uncertainty", {}), "phase_rad": ORDERED_PHASE_RAD}
    return found
