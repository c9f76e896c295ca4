"""Which slots clicked in which detector: from time tags to the clicks of a frame and of a block.

An outcome is one of :data:`D1_ONLY`, :data:`D2_ONLY` and :data:`BOTH`, uint8 wherever it stands in an array.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

D1_ONLY, D2_ONLY, BOTH = 1, 2, 3


@dataclass(frozen=True)
class FrameClicks:
    """Checked content of an announcement."""

    frame: int
    slots: npt.NDArray[np.uint32]
    outcomes: npt.NDArray[np.uint8]


@dataclass(slots=True)
class BlockClicks:
    """The announced slots of one block with this user's symbols, in order of (frame, slot).

    ``frame`` and ``slot`` uint32, ``outcome`` uint8 (1 D1, 2 D2, 3 both), ``symbol`` uint8 (code of
    the protocol), all of shape (n,); ``n_pulses`` slots emitted by this user's own count, lost frames included.
    ``symbol`` is secret.
    """

    frame: npt.NDArray[np.uint32]
    slot: npt.NDArray[np.uint32]
    outcome: npt.NDArray[np.uint8]
    symbol: npt.NDArray[np.uint8]
    n_pulses: int

    def __repr__(self) -> str:
        return f"<BlockClicks: {self.outcome.size} announced slots of {self.n_pulses}>"

    @property
    def n_single(self) -> int:
        """Clicks of exactly one detector."""
        return int(np.count_nonzero(self.outcome != BOTH))

    def drop(self, frames: Collection[int]) -> None:
        """Forget the clicks of ``frames``, and overwrite their symbols; ``n_pulses`` stays."""
        kept = ~np.isin(self.frame, list(frames))
        symbol = self.symbol[kept]
        self.wipe()
        self.frame, self.slot, self.outcome = self.frame[kept], self.slot[kept], self.outcome[kept]
        self.symbol = symbol

    def wipe(self) -> None:
        """Overwrite the symbols where their array allows it."""
        if self.symbol.flags.writeable:
            self.symbol[:] = 0


@dataclass(frozen=True)
class LevelClicks:
    """The clicks of calibration frames, by the level that was played: nothing that could become key.

    ``by_level``: clicks of D1 alone and of D2 alone at each of 256 levels, int64 of shape (2, 256).  ``n_pulses`` were
    sent, lost frames included.
    """

    by_level: npt.NDArray[np.int64]
    n_pulses: int

    @classmethod
    def of(cls, block: BlockClicks) -> LevelClicks:
        """Counts of a block whose symbols are levels."""
        counts = [
            np.bincount(block.symbol[block.outcome == outcome], minlength=256)
            for outcome in (D1_ONLY, D2_ONLY)
        ]
        return cls(np.stack(counts).astype(np.int64), block.n_pulses)


def joined(parts: list[BlockClicks]) -> BlockClicks:
    """The clicks of consecutive frames as one block."""
    return BlockClicks(
        np.concatenate([part.frame for part in parts]),
        np.concatenate([part.slot for part in parts]),
        np.concatenate([part.outcome for part in parts]),
        np.concatenate([part.symbol for part in parts]),
        sum(part.n_pulses for part in parts),
    )


def tags_to_clicks(
    tags_ps: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    delays_ps: tuple[int, int],
    *,
    slot_ps: float,
    gate_ps: float,
    slots_per_frame: int,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """Turn tag times (ps since the frame's reference pulse, one array per detector) into slot events.

    The pulse of slot ``k`` reaches detector ``d`` at ``delays_ps[d] + k * slot_ps``; tags further than half
    a gate from a pulse, or outside the frame, are dropped.  Returns slots (uint32, increasing) and outcomes
    (uint8).
    """
    outcomes = np.zeros(slots_per_frame, np.uint8)
    for outcome, times, delay in zip((D1_ONLY, D2_ONLY), tags_ps, delays_ps, strict=True):
        shifted = times.astype(np.float64) - delay
        slots = np.rint(shifted / slot_ps)
        inside = np.abs(shifted - slots * slot_ps) <= gate_ps / 2
        inside &= (slots >= 0) & (slots < slots_per_frame)
        outcomes[slots[inside].astype(np.intp)] |= outcome
    clicked = np.flatnonzero(outcomes != 0)
    return clicked.astype(np.uint32), outcomes[clicked]
