"""The loop's phase, followed from block to block by the user whose pulse carries it.

Light that runs around the loop one way comes back with another phase than light that runs the other way, by a milliradian
on a spool and by up to a radian in deployed fibre, and it drifts.  Where both users chose one basis the detectors hardly
feel a small phase.  Where they chose different ones the symbols stand a quarter of a turn apart, both detectors are as
likely, and the imbalance between them is ``V sin`` of what is left of the phase: a few thousand such rounds give it to ten
milliradians, which add ``sin^2(.01 / 2) = 3e-5`` to the error rate.

For that the first user has to know the second one's symbols in these rounds, so the second tells them, after the relay's
announcements are fixed and both bases are published.  It gives nothing of the key away.

* A symbol of basis X or Y is drawn for each slot by itself.  Rounds of different bases make no key and no test bits, and
  neither do the bits told of them; a key bit depends on none of these.
* The key is secret because the phases of the XX rounds - what the first user would find had it measured its half of an
  entangled state instead of preparing one - could have been told from what is published, up to as many errors as the test
  bounds.  Then it is secret from whoever holds all other systems, those of the discarded rounds among them; telling what a
  measurement of *those* gives hands an eavesdropper part of what it is granted anyway (Koashi, New J. Phys. 11, 045018,
  2009).  The bound on the errors counts rounds and test bits and looks at no symbol of a discarded round.
* They are told when no light of the block is on its way any more, so nothing can be chosen by them.  Light of later blocks
  carries symbols drawn anew.
* All symbols of both bases have the same intensity.

The relay can lie about its clicks and so turn the phase by which the user's symbols are shifted.  It is common to all four
of them, and who has the light can turn its phase anyway: false clicks cost key, as they do without this.  V_pi and gain are
*not* followed so, as they change what the symbols are to each other: only a calibration, whose charge for a lying relay
is worked out, may change them.

The correction stands beside the calibrated phase, which stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.calibration.steps import Step
from orchestrator.light.tracking.correction import Correction

SIGNIFICANT = 2.0
"""Of its standard deviations: less may be counting noise."""
PRECISION_RAD = 0.1
"""What is known worse than this is not followed."""
STEP_RAD = 0.5
"""The most by which one block turns the phase, as a sine is trusted no further: more is taken in several."""
RANGE_RAD = 1.5
"""Away from the calibrated phase; deployed fibre drifts by a radian in a day."""
SPOILS_RAD = 0.05
"""From here on a wrong phase may alone be why a block does not fit: 6e-4 of error rate."""


@dataclass(frozen=True)
class PhaseLeft:
    """What is left of the loop's phase, and its standard deviation."""

    rad: float
    sigma_rad: float


def phase_left(
    clicks: npt.NDArray[np.int64], phases_rad: tuple[float, ...], visibility: float
) -> PhaseLeft | None:
    """From the clicks of D1 and D2 by the symbols of first and second, int64 of shape (2, n, n); None without any.

    ``phases_rad`` of the symbols.  Detector 1 clicks with ``(1 + V cos(a - b + left)) / 2``.
    """
    phases = np.array(phases_rad)
    steep = -np.sin(phases[:, None] - phases[None, :])
    """By how much the cosine rises with the phase that is left, for each pair of symbols."""
    weight = float(visibility * np.sum(steep**2 * clicks.sum(axis=0)))
    if weight <= 0.0:
        return None
    sine = float(np.sum(steep * (clicks[0] - clicks[1]))) / weight
    return PhaseLeft(math.asin(max(-1.0, min(1.0, sine))), 1.0 / math.sqrt(weight * visibility))


class PhaseOutOfRange(Exception):
    """The loop's phase has gone further than it is followed; ``steps`` would mend it."""

    steps = (Step.PHASE,)


class LoopPhaseTracking:
    """The correction to the first user's symbols, for one partner."""

    def __init__(self) -> None:
        self._rad = 0.0
        self.seen_s = -math.inf
        """When it was last seen what is left of the phase, by its owner's clock."""

    @property
    def rad(self) -> float:
        """To be added to the phase of every symbol of the first user."""
        return self._rad

    def see(
        self, played_rad: float, left: PhaseLeft | None, by: str = "rounds of different bases"
    ) -> Correction | None:
        """Take what is left of the phase ``by`` rounds that were played with the correction ``played_rad``.

        PhaseOutOfRange where it would have to go too far; it goes as far as it may.
        """
        if left is None or left.sigma_rad > PRECISION_RAD or abs(left.rad) < SIGNIFICANT * left.sigma_rad:
            return None
        before, wanted = self._rad, played_rad - max(-STEP_RAD, min(STEP_RAD, left.rad))
        self._rad = max(-RANGE_RAD, min(RANGE_RAD, wanted))
        if wanted != self._rad:
            raise PhaseOutOfRange(
                f"the loop's phase is {-wanted:+.2f} rad from where it was calibrated, and is followed to {RANGE_RAD:g} rad"
            )
        why = f"{by} left {1e3 * left.rad:+.1f} +- {1e3 * left.sigma_rad:.1f} mrad"
        return Correction("loop phase", before, self._rad, "rad", why)
