"""What a node follows from block to block: the loop's phase, with the partners in front of whom it stands in the ring.

It watches with them whether both users' levels still are what they were calibrated to be, and asks for a calibration where
they are not (:mod:`orchestrator.light.tracking.levels`).

The correction is the node's own: it is played with the next block, told as an event, and forgotten where the loop's phase
is calibrated anew.  A pair whose last block is a while ago looks at the phase before its first frame.  A node that starts begins at the calibrated value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from lab.calibration.steps import Step
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.process import Emit, Tracked
from orchestrator.events.status import BlockReport, Pair
from orchestrator.light.phase_look import Look
from orchestrator.light.symbols import driven_phases
from orchestrator.light.tracking.correction import Correction, OnCorrection
from orchestrator.light.tracking.levels import (
    LARGEST_RAD,
    LevelsOutOfBudget,
    LevelsWatch,
    require_in_budget,
)
from orchestrator.light.tracking.loop_phase import (
    SPOILS_RAD,
    LoopPhaseTracking,
    PhaseLeft,
    PhaseOutOfRange,
    phase_left,
)
from orchestrator.protocols.base import BlockPlan
from orchestrator.wire.fields import REASON_LIMIT

logger = logging.getLogger(__name__)

LOOK_AFTER_S = 60.0
"""Since the phase was last seen; in ten minutes it has been seen to move by a tenth of what it does in a day."""


def tracked(correction: Correction, owner: str, pair: Pair, frame: int) -> Tracked:
    """The event of a correction."""
    c = correction
    return Tracked(c.what, owner, *pair, frame, c.before, c.after, c.unit, c.why)


def telling(emit: Emit, owner: str, pair: Pair) -> OnCorrection:
    """Have corrections of an owner told while a pair makes key."""
    return lambda frame, correction: emit(tracked(correction, owner, pair, frame))


@dataclass(frozen=True)
class Followed:
    """What is known with one partner from block to block."""

    phase: LoopPhaseTracking = field(default_factory=LoopPhaseTracking)
    levels: LevelsWatch = field(default_factory=LevelsWatch)


@dataclass
class FollowedBlock:
    """One block, and what was played with it."""

    followed: Followed
    owner: str
    pair: Pair
    testbed: Testbed
    emit: Emit
    clock: Callable[[], float] = runtime.now
    played_rad: float = field(init=False)
    spoilt_rad: float = 0.0
    """What was left of the phase, where that was corrected."""
    beyond: str = ""
    """Why it is followed no further."""

    def __post_init__(self) -> None:
        self.played_rad = self.followed.phase.rad

    def look(self, plan: BlockPlan) -> Look | None:
        """How to look at the phase before the first frame; None where it was seen so lately that the frames can begin."""
        if self.clock() - self.followed.phase.seen_s < LOOK_AFTER_S:
            return None

        def take(clicks: npt.NDArray[np.int64]) -> float:
            self._take(plan, clicks, 0, "a look before the first frame")
            self.played_rad = self.followed.phase.rad
            return self.played_rad

        return take

    def see(self, plan: BlockPlan, frames: int, clicks: npt.NDArray[np.int64]) -> None:
        """Take the clicks of the rounds whose symbols are told, int64 of shape (2, n, n)."""
        left = self._take(plan, clicks, frames - 1, "rounds of different bases")
        self.spoilt_rad = left.rad if left else 0.0
        if not self.beyond and abs(self.spoilt_rad) < LARGEST_RAD:
            self._watch_levels(plan, clicks)

    def _watch_levels(self, plan: BlockPlan, clicks: npt.NDArray[np.int64]) -> None:
        offset_rad = self.played_rad - self.testbed.loop_phase_rad(self.owner)
        driven = driven_phases(plan.symbols, offset_rad), driven_phases(plan.symbols)
        levels = self.followed.levels.see(clicks, driven, self.testbed.calibration.visibility)
        first, second = (self._charged_rad(user) for user in self.pair)
        try:
            require_in_budget(levels, self.pair, (first, second))
        except LevelsOutOfBudget as error:
            self.beyond = str(error)

    def _charged_rad(self, user: str) -> float:
        """What a user's phases may be wrong by in the plan."""
        own = self.testbed.user(user).phase_uncertainty_rad
        return self.testbed.uncertainty.phase_rad if own is None else own

    def _take(self, plan: BlockPlan, clicks: npt.NDArray[np.int64], frame: int, by: str) -> PhaseLeft | None:
        """What was left of the phase, where that was corrected."""
        left = phase_left(clicks, plan.symbols.phases_rad, self.testbed.calibration.visibility)
        try:
            correction = self.followed.phase.see(self.played_rad, left, by)
        except PhaseOutOfRange as error:
            self.beyond = str(error)
            return None
        if left is not None:
            self.followed.phase.seen_s = self.clock()
        if correction is None:
            return None
        self.emit(tracked(correction, self.owner, self.pair, frame))
        return left

    def judged(self, report: BlockReport) -> BlockReport:
        """The block's report with what the phase has to do with it.

        A block that was given up over a phase that is corrected wants no calibration; a phase that is followed no further,
        and levels that are off, want one, whatever the block gave.
        """
        if self.beyond:
            reason = "; ".join(filter(None, (report.reason, self.beyond)))
            return replace(report, reason=reason[:REASON_LIMIT], calibrate=(Step.PHASE,))
        if not report.stored and report.calibrate and abs(self.spoilt_rad) >= SPOILS_RAD:
            told = f"the loop's phase was {self.spoilt_rad:+.3f} rad off, and is corrected; {report.reason}"
            return replace(report, reason=told[:REASON_LIMIT], calibrate=())
        return report


class Following:
    """The corrections of one node, by pair."""

    def __init__(self, name: str, emit: Emit, clock: Callable[[], float] = runtime.now) -> None:
        self._name, self._emit, self._clock = name, emit, clock
        self._followed: dict[Pair, Followed] = {}
        self._calibrated_rad: float | None = None

    def block(self, testbed: Testbed, pair: Pair) -> FollowedBlock:
        """A block that is about to be played; nothing is told to, and nothing corrected by, the second of the pair."""
        calibrated_rad = testbed.loop_phase_rad(self._name)
        if calibrated_rad != self._calibrated_rad:
            self._followed.clear()
            self._calibrated_rad = calibrated_rad
        followed = self._followed.setdefault(pair, Followed())
        return FollowedBlock(followed, self._name, pair, testbed, self._emit, self._clock)
