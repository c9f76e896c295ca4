"""What somebody at the fibre does to the light of a simulated ring.

The eavesdropper is granted more than physics allows where that is simpler and only helps the attack: intercepting loses no
light, and every intercepted pulse gives a result.  Pure values; :meth:`sim_backends.optics.Ring.eavesdrop` puts one into the ring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim_backends.optics_parts import gain, require

MOST_TAPPED = 0.9
MOST_BRIGHTER_DB = 20.0


@dataclass(frozen=True)
class Eavesdropper:
    """Nothing is done unless told otherwise."""

    tapped: float = 0.0
    """Share that a coupler takes out of the light of either direction, in the fibre between the relay and the first station."""
    resent: float = 0.0
    """Share of the slots whose pulse is measured on its way home, in basis X or Y by chance, and sent anew as it was found.

    In the right basis, half of the time, that changes nothing.  In the wrong one the result is chance, so the phase comes home a
    quarter turn off, either way: an error every other time (Bennett et al., J. Cryptology 5, 3 (1992))."""
    brighter_db: float = 0.0
    """The light that enters the loop is brightened by this, and what leaves it dimmed by as much: users emit more, and the relay
    counts what it always does (Trojan horse: Gisin et al., Phys. Rev. A 73, 022320 (2006))."""

    def __post_init__(self) -> None:
        require(0 <= self.tapped <= MOST_TAPPED, f"tapped must lie in 0..{MOST_TAPPED}", self.tapped)
        require(0 <= self.resent <= 1, "resent must lie in 0..1", self.resent)
        require(
            0 <= self.brighter_db <= MOST_BRIGHTER_DB,
            f"brighter_db must lie in 0..{MOST_BRIGHTER_DB}",
            self.brighter_db,
        )

    @property
    def tap_db(self) -> float:
        """What the coupler takes from the light that goes on."""
        return -10 * math.log10(1 - self.tapped)

    @property
    def turned(self) -> float:
        """Share of the slots that come home a quarter turn off."""
        return self.resent / 2

    @property
    def brightness(self) -> float:
        """Power that enters the loop, over what the relay launched."""
        return 1 / gain(self.brighter_db)


NOBODY = Eavesdropper()
