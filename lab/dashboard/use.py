"""How fast each pair's key is used, and how long its stock lasts: from what was stored and what the stock became.

Over a window, used bits are those stored less what the stock grew by.  Both are told by others and may come a moment apart, so a
window is long against that, and a use that is not above zero counts as none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_S = 600.0
LEAST_S = 20.0
"""A window shorter than this says nothing yet."""
POINTS = 256


@dataclass
class Use:
    """One pair's; times on any monotonic clock."""

    points: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=POINTS))
    """When, the stock then, and all bits stored until then."""
    stored_bits: int = 0
    largest_bits: int = 0
    """Of one block."""

    def stored(self, bits: int) -> None:
        """A block gave so many bits."""
        self.stored_bits += bits
        self.largest_bits = max(self.largest_bits, bits)

    def stock(self, bits: int, at_s: float) -> None:
        """So many are there."""
        self.points.append((at_s, bits, self.stored_bits))

    def used_bps(self, now_s: float) -> float | None:
        """Bits used a second; None while the window is too short."""
        while len(self.points) > 1 and now_s - self.points[0][0] > WINDOW_S:
            self.points.popleft()
        if not self.points or now_s - self.points[0][0] < LEAST_S:
            return None
        began_s, began_bits, began_stored = self.points[0]
        _, bits, stored = self.points[-1]
        return max(0.0, ((stored - began_stored) - (bits - began_bits)) / (now_s - began_s))

    def lasts_s(self, now_s: float) -> float | None:
        """How long the stock lasts at this rate; None where nothing is used or known."""
        used_bps = self.used_bps(now_s)
        if not used_bps or not self.points:
            return None
        return self.points[-1][1] / used_bps

    def falls(self) -> bool:
        """Over the window more was used than came, by more than a block: between two of them every stock falls."""
        return bool(self.points) and self.points[0][1] - self.points[-1][1] > self.largest_bits
