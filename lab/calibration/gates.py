"""Clicks by where they fall in the slot: in the gate around the pulse, or where there is no pulse.

What is flat in time - dark counts, back-scatter, what the carver leaves between pulses - falls into the gate as well, in
proportion to its width; clicks in windows away from every pulse say how much.

A detector that has clicked misses what comes until it has recovered.  Pulses come at random in no way but one, each slot
as likely to click as any other, so that slots long after a click say what all would have counted: the clicks there over
the slots there.  Light at rest leaves by one detector alone, which then misses twice as much as each does in key frames,
where both have half of the light.  Nor are two detectors alike: what counts for key is the mean of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RECOVERED_NS = 150.0
"""Long after the dead time of a nanowire, 20 to 50 ns, and what it takes to its full efficiency (chosen)."""
QUIET_NS = (1.5, 3.5)
"""Away from the pulse's middle, to either side: past its tail, before what leaks through the circulator half a slot off."""


@dataclass(frozen=True)
class GateCounts:
    """Clicks of D1 and D2 in ``slots`` slots: in gates of ``gate_ns`` and in quiet windows of ``quiet_ns`` in all per slot.

    ``inside``, ``quiet``: float64 of shape (2,).  ``missed``: of shape (2,), per click counted the clicks that a detector
    missed while it recovered from others.  ``ratio``: counts of D2 over those of D1 for the same light.
    """

    inside: Floats
    quiet: Floats
    slots: int
    gate_ns: float
    slot_ns: float
    quiet_ns: float = 2 * (QUIET_NS[1] - QUIET_NS[0])
    missed: Floats = field(default_factory=lambda: np.zeros(2))
    ratio: float = 1.0

    def __add__(self, other: GateCounts) -> GateCounts:
        """Both together, of the same gates."""
        both = self.inside + other.inside
        missed = self.missed * self.inside + other.missed * other.inside
        return GateCounts(
            both,
            self.quiet + other.quiet,
            self.slots + other.slots,
            self.gate_ns,
            self.slot_ns,
            missed=missed / np.maximum(both, 1.0),
            ratio=self.ratio,
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
        """Clicks of the pulses alone, had no detector missed any: float64 of shape (2,)."""
        return (self.inside - self.quiet * (self.gate_ns / self.quiet_ns)) * (1 + self.missed)

    @property
    def alike(self) -> Floats:
        """The same, had both detectors the mean of their efficiencies: float64 of shape (2,)."""
        mean: Floats = np.array([1 + self.ratio, 1 + 1 / self.ratio]) / 2
        return self.pulsed * mean

    @property
    def arriving(self) -> float:
        """Counts per slot of the light of either direction, both detectors together, as key frames have them.

        Both arrive equally bright.  What one detector misses of light at rest both miss half of, each, in key frames.
        """
        pulsed, together = self.alike, float(self.alike.sum())
        if together <= 0:
            return 0.0
        missing = float((pulsed * self.missed / (1 + self.missed)).sum())
        # The part that a detector misses goes with its rate: of all light that would be so much, of half of it half.
        of_all = missing * together / float((pulsed**2).sum())
        return together * (1 - of_all / 2) / self.slots / 2

    @property
    def pulsed_sigma(self) -> Floats:
        """One sigma of them, float64 of shape (2,)."""
        share = self.gate_ns / self.quiet_ns
        return np.sqrt(np.maximum(self.inside + share**2 * self.quiet, 1.0)) * (1 + self.missed)


def gate_counts(
    tags_ps: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    delays_ps: tuple[float, float],
    *,
    slots: int,
    gate_ns: float,
    slot_ns: float,
    ratio: float = 1.0,
) -> GateCounts:
    """Sort tags (int64, ps since the trigger, one array per detector) by their place in the slot.

    Pulse k reaches detector d at ``delays_ps[d] + k slots``; tags before the first slot and after ``slots`` are dropped.
    """
    inside, quiet, missed = np.zeros(2), np.zeros(2), np.zeros(2)
    for d, (tags, delay_ps) in enumerate(zip(tags_ps, delays_ps, strict=True)):
        since_ns = (tags.astype(np.float64) - delay_ps) * 1e-3
        number = np.rint(since_ns / slot_ns)
        off_ns = np.abs(since_ns - number * slot_ns)[(number >= 0) & (number < slots)]
        inside[d] = np.count_nonzero(off_ns <= gate_ns / 2)
        quiet[d] = np.count_nonzero((off_ns >= QUIET_NS[0]) & (off_ns < QUIET_NS[1]))
        missed[d] = _missed(number[(number >= 0) & (number < slots)], slots, slot_ns)
    return GateCounts(inside, quiet, slots, gate_ns, slot_ns, missed=missed, ratio=ratio)


def _missed(clicked: Floats, slots: int, slot_ns: float) -> float:
    """Clicks missed per click counted, by the slots that a detector clicked in, in their order: float64 of shape (n,)."""
    long = math.ceil(RECOVERED_NS / slot_ns)
    apart = np.diff(clicked, prepend=-long - 1, append=slots - 1)
    awake, after_long = float(np.maximum(apart - long, 0).sum()), np.count_nonzero(apart[:-1] > long)
    return float(after_long / awake * slots / clicked.size - 1) if awake and after_long else 0.0
