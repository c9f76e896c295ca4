"""How the stations' direction switches read the waveform generators.

A user modulates one direction, in its own half of every slot: the clockwise pulse meets the first sample of
a slot, the counter-clockwise one the middle sample.  So a loaded waveform tells which direction its user is
going to serve, before anything is armed - which is when the user reads its power monitor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sim_backends.modulators.sequencer import Samples

if TYPE_CHECKING:
    from sim_backends.optics import Direction

PROBED_SLOTS = 4096
"""Slots looked at per waveform; random symbols leave none of them all zero."""


def driven_direction(waveforms: Iterable[Samples], samples_per_slot: int) -> Direction | None:
    """The direction that all ``waveforms`` agree on; None if they drive both, neither, or disagree."""
    found: set[Direction] = set()
    for samples in waveforms:
        head = samples[: PROBED_SLOTS * samples_per_slot]
        slots = head[: head.size // samples_per_slot * samples_per_slot].reshape(-1, samples_per_slot)
        if slots[:, 0].any():
            found.add("cw")
        if slots[:, samples_per_slot // 2].any():
            found.add("ccw")
    return found.pop() if len(found) == 1 else None
