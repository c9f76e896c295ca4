"""Clicks by where they fall in the slot: in the gate around the pulse, or where there is no pulse.

What is flat in time - dark counts, back-scatter, what the carver leaves between pulses - falls into the gate as well, in
proportion to its width; clicks in windows away from every pulse say how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

QUIET_NS = (1.5, 3.5)
"""Away from the pulse's middle, to either side: past its tail, before what leaks through the circulator half a slot off."""


@dataclass(frozen=True)
class GateCounts:
    """Clicks of D1 and D2 in ``slots`` slots: in gates of ``gate_ns`` and in quiet windows of ``quiet_ns`` in all per slot.

    ``inside``, ``quiet``: float64 of shape (2,).
    """

    inside: Floats
    quiet: Floats
    slots: int
    gate_ns: float
    slot_ns: float
    quiet_ns: float = 2 * (QUIET_NS[1] - QUIET_NS[0])

    def __add__(self, other: GateCounts) -> GateCounts:
        """Both together, of the same gates."""
        return GateCounts(
            self.inside + other.inside,
            self.quiet + other.quiet,
            self.slots + other.slots,
            self.gate_ns,
            self.slot_ns,
        )

    @property
    def flat_per_gate(self) -> Floats:
        """What is flat in time, per gate and detector: float64 of shape (2,)."""
        return self.quiet * (self.gate_ns / self.quiet_ns) / self.slots

    @property
    def flat_sigma(self) -> Floats:
        """One sigma of it: float64 of shape (2,)."""
        return np.sqrt(np.maximum(self.quiet, 1.0)) * (self.gate_ns / self.quiet_ns) / self.slots

    @property
    def pulsed(self) -> Floats:
        """Clicks of the pulses alone, float64 of shape (2,)."""
        return self.inside - self.quiet * (self.gate_ns / self.quiet_ns)

    @property
    def arriving(self) -> float:
        """Counts per slot of the light of either direction, both detectors together: both arrive equally bright."""
        return float(self.pulsed.sum()) / self.slots / 2

    @property
    def pulsed_sigma(self) -> Floats:
        """One sigma of them, float64 of shape (2,)."""
        share = self.gate_ns / self.quiet_ns
        return np.sqrt(np.maximum(self.inside + share**2 * self.quiet, 1.0))


def gate_counts(
    tags_ps: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    delays_ps: tuple[float, float],
    *,
    slots: int,
    gate_ns: float,
    slot_ns: float,
) -> GateCounts:
    """Sort tags (int64, ps since the trigger, one array per detector) by their place in the slot.

    Pulse k reaches detector d at ``delays_ps[d] + k slots``; tags before the first slot and after ``slots`` are dropped.
    """
    inside, quiet = np.zeros(2), np.zeros(2)
    for d, (tags, delay_ps) in enumerate(zip(tags_ps, delays_ps, strict=True)):
        since_ns = (tags.astype(np.float64) - delay_ps) * 1e-3
        number = np.rint(since_ns / slot_ns)
        off_ns = np.abs(since_ns - number * slot_ns)[(number >= 0) & (number < slots)]
        inside[d] = np.count_nonzero(off_ns <= gate_ns / 2)
        quiet[d] = np.count_nonzero((off_ns >= QUIET_NS[0]) & (off_ns < QUIET_NS[1]))
    return GateCounts(inside, quiet, slots, gate_ns, slot_ns)
