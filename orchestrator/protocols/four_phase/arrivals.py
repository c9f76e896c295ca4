"""What a block was to give, for as much light as arrived: predicted from a count of clicks and from nothing else of it.

Both pulses of a pair run through the whole loop, so that whatever dims one of them dims the other: the relay's launch, an
attenuator, a fibre, a detector that is dead for a while.  All of it is one number, the *brightness*, by which both
intensities differ from the plan's; dark counts are what they were, and back-scatter goes with the light.  The number
comes from all clicks of the block, whatever their bases, in the frames that are not lost.  At that brightness the
calibrated channel says how many rounds there are of each kind and how many of them are wrong.

What the proof charges stays as planned, Delta and with it every tolerance: it grants the planned intensity, whatever
arrived, for light lost behind a user may have been kept.  The error rates that the block really had are not used: a
block that gives less than predicted has another visibility, other phases or other darkness than were calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.protocols.base import binary_entropy
from orchestrator.protocols.epsilons import verification_tags
from orchestrator.protocols.four_phase.bounds import FinitePlan, Observed, key_length
from orchestrator.protocols.optical_channel import OpticalChannel

BRIGHTEST = 64.0
"""Light over plan at which looking for more ends; no such block is kept."""
HALVINGS = 48


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A block as its arrivals have it: ``brightness`` of the plan's light, rounds of both bases, errors among them."""

    brightness: float
    n_x: float
    n_y: float
    qber: float

    def bits(self, finite: FinitePlan, f_ec: float, eps_cor: float) -> int:
        """Secret bits of these rounds, with everything charged as ``finite`` has it."""
        leak = f_ec * self.n_x * binary_entropy(self.qber) + verification_tags(round(self.n_x), eps_cor) - 1
        return key_length(finite, Observed(self.n_x, self.n_y, self.n_y * self.qber, 2 * self.n_y, leak)).bits


def clicks_per_slot(channel: OpticalChannel, mu_a: float, mu_b: float, p_x: float) -> float:
    """Probability that exactly one detector clicks, whatever the two bases."""
    same_basis = p_x**2 + (1.0 - p_x) ** 2
    mixed = channel.gain_and_qber(mu_a, mu_b, math.pi / 2)[0]
    return same_basis * channel.gain_and_qber(mu_a, mu_b)[0] + (1.0 - same_basis) * mixed


def arrivals(
    channel: OpticalChannel, mu_a: float, mu_b: float, p_x: float, slots: int, clicks: int
) -> Arrivals:
    """What ``clicks`` in ``slots`` recorded slots say of a block planned with these intensities.

    No light is left where the clicks are no more than dark counts.
    """

    def excess(brightness: float) -> float:
        return clicks_per_slot(channel, brightness * mu_a, brightness * mu_b, p_x) * slots - clicks

    brightness = _root(excess) if slots > 0 else 0.0
    gain, qber = channel.gain_and_qber(brightness * mu_a, brightness * mu_b)
    return Arrivals(brightness, slots * p_x**2 * gain, slots * (1.0 - p_x) ** 2 * gain, qber)


def _root(excess: Callable[[float], float]) -> float:
    """Where a function that rises from a brightness of 0 crosses zero; an end of the range where it does not."""
    if excess(0.0) >= 0.0:
        return 0.0
    high = 1.0
    while excess(high) < 0.0:
        if high >= BRIGHTEST:
            return high
        high *= 2.0
    low = 0.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0.0 else (low, middle)
    return 0.5 * (low + high)
