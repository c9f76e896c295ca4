"""One party's polarisation controller in the leases of a ring: set when a lease begins, held between its frames.

When a lease begins the settings that were kept for its gap are set.  Where none are, where holding came to an end, or where
too little light arrives, the party climbs in its turn (:mod:`orchestrator.light.aligning`).

Frames are the turns of the parties that have a controller, two each, in the order relay, first, second: everybody knows
from the testbed file whose turn it is.  The party in turn may play its two frames a little beside its setting; all others
stand still.  It judges by how many clicks were announced of each, which everybody hears.  A frame in which that cost light is
a frame like any other: what it loses are clicks.

**What has to be believed.** Nothing.  A controller turns all light of its gap alike, whatever its phase, and can only lose
some of it: with all of them at their summits a user sends what was planned, and never more.  So announcements that lie about
counts, and counts of a climb that are invented, can lead a controller astray and cost key.  A relay that launches more than
was planned while its lies keep a controller off its summit, to have it aligned later, is one that makes its light brighter
after a user read it, which users expect of any relay (:mod:`orchestrator.light.intensity_watch`); where intensity is
trusted from the last calibration it was measured with aligned light.  Where frames are played beside the setting is drawn
without regard to symbols.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from drivers.kinds import PolarizationController
from drivers.links.errors import InstrumentError
from lab.calibration.book import now
from lab.calibration.polarization import Climbed, approach, climb
from lab.calibration.polarization_hold import WALK_RAD, Hold
from lab.needs import POLARIZATION
from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.events.status import RELAY
from orchestrator.light.tracking.correction import Correction, OnCorrection
from orchestrator.light.tracking.polarization_kept import Kept, KeptSettings
from orchestrator.randomness import local_generator

logger = logging.getLogger(__name__)

FRAMES_A_TURN = 2
LOOK_DB = 0.03
"""May be lost by a controller before frames are played beside its setting."""
Pair: TypeAlias = Sequence[str]
"""Who is taken in, in ring order."""


def parties(testbed: Testbed, pair: Pair) -> tuple[str, ...]:
    """Who has a controller in the light of a pair, in the order of turns."""
    return tuple(party for party in (RELAY, *pair) if POLARIZATION.name in testbed.servers(party))


def gap_of(owner: str, pair: Pair) -> str:
    """The gap that a party's controller aligns: from its own polariser clockwise to the next that is taken in."""
    order = (RELAY, *pair, RELAY)
    begins = order.index(owner)
    return f"{order[begins]}-{order[begins + 1]}"


def dark_counts(testbed: Testbed, slots: int) -> float:
    """Announced clicks of so many slots without light."""
    return 2 * testbed.calibration.dark_count_probability * slots


class OwnPolarization:
    """What a party does with its controller."""

    def __init__(
        self,
        owner: str,
        controller: PolarizationController,
        kept: KeptSettings,
        *,
        rng: np.random.Generator | None = None,
        clock: Callable[[], float] = runtime.now,
    ) -> None:
        self.owner = owner
        self.controller = controller
        self._kept = kept
        self._rng = rng or local_generator()
        self._clock = clock
        self._approached: dict[str, list[float]] = {}

    @classmethod
    def of(
        cls, owner: str, controller: PolarizationController | None, kept: KeptSettings | None
    ) -> OwnPolarization | None:
        """None for a party without a controller."""
        return None if controller is None else cls(owner, controller, kept or KeptSettings())

    def prepare(self, pair: Pair) -> None:
        """Stand as was best for the pair when it was last in the light."""
        kept = self._kept.get(gap_of(self.owner, pair), self.controller.axes)
        if kept is not None:
            self.controller.actuators(kept.settings)

    def must_climb(self, pair: Pair) -> str:
        """Why it cannot hold what is kept for a pair; empty where it can."""
        kept = self._kept.get(gap_of(self.owner, pair), self.controller.axes)
        return "no setting is known" if kept is None else kept.must_climb

    def approach(self, pair: Pair, count: Callable[[], int], dark: float) -> None:
        """Where nothing is kept for a pair, find settings at which the others can climb; raises as :meth:`climb`."""
        gap = gap_of(self.owner, pair)
        if gap in self._approached or self._kept.get(gap, self.controller.axes) is not None:
            return
        start = self.controller.actuators()
        self._approached[gap] = approach(self.controller.axes, start, self._apply, count, dark_counts=dark)

    def _apply(self, settings: list[float]) -> list[float]:
        self.controller.actuators(settings)
        return self.controller.actuators()

    def climb(self, pair: Pair, count: Callable[[], int], dark: float) -> Climbed:
        """Climb on ``count``, readings of which ``dark`` counts are no light, and keep where that ends.

        Raises CalibrationRefusedError, InstrumentError, and what ``count`` does.
        """
        gap = gap_of(self.owner, pair)
        last = self._kept.get(gap, self.controller.axes)
        start = self._approached.pop(gap, None) if last is None else last.settings
        found = climb(
            self.controller.axes,
            start or self.controller.actuators(),
            self._apply,
            count,
            dark_counts=dark,
            near=start is not None,
            rng=self._rng,
        )
        found.peak.restart_rate(1.0, 1.0)
        self._kept.put(gap, Kept.of(found.settings, found.peak, WALK_RAD, now()))
        logger.info(
            "%s: polarisation of %s climbed by %.2f dB in %d readings; at most %.3f dB below the best",
            self.owner,
            gap,
            found.gained_db,
            found.readings,
            found.below_best_db,
        )
        return found

    def hold(self, testbed: Testbed, pair: Pair, on_tracked: OnCorrection) -> Holding | None:
        """Hold what is kept for a pair through the frames of a block; None where nothing is."""
        kept = self._kept.get(gap_of(self.owner, pair), self.controller.axes)
        return None if kept is None else Holding(self, testbed, pair, kept, on_tracked)

    def keep(self, pair: Pair, kept: Kept) -> None:
        """Keep what holding came to."""
        try:
            self._kept.put(gap_of(self.owner, pair), kept)
        except OSError as error:
            logger.error("%s: settings of polarisation are not kept: %s", self.owner, error)

    def begin_hold(self, testbed: Testbed, kept: Kept) -> Hold:
        """The state machine that goes on from what is kept."""
        return Hold(
            self.controller.axes,
            kept,
            dark_counts=dark_counts(testbed, testbed.protocol.slots_per_frame),
            walk_rad=kept.walk_rad,
            look_db=LOOK_DB,
            rng=self._rng,
        )

    def now(self) -> float:
        """Seconds on a clock that is never set."""
        return self._clock()


class Holding:
    """One block: asked before each frame, told the counts of each."""

    def __init__(
        self, own: OwnPolarization, testbed: Testbed, pair: Pair, kept: Kept, on_tracked: OnCorrection
    ) -> None:
        self._own, self._pair, self._on_tracked = own, pair, on_tracked
        self._hold = own.begin_hold(testbed, kept)
        turns = parties(testbed, pair)
        self._turn, self._turns = turns.index(own.owner), len(turns)
        self._set = kept.settings
        self._held: list[float] | None = None
        self._counted_s = own.now() - max(0.0, (now() - kept.at).total_seconds())
        self._failed = ""

    def before(self, frame: int) -> None:
        """Stand right for a frame.

        A controller that does not answer is left alone for the rest of the block: it stands where it stands.
        """
        if self._failed:
            return
        wanted = (
            self._hold.next() if self._is_own(frame) and not self._hold.must_climb else self._hold.settings
        )
        if wanted == self._set:
            return
        try:
            actuators = self._own.controller.actuators
            actuators(wanted)
            self._set, self._held = wanted, actuators()
        except InstrumentError as error:
            self._failed = str(error)
            logger.warning("%s: polarisation is not held in this block: %s", self._own.owner, error)

    def after(self, frame: int, counts: int) -> None:
        """So many clicks of the frame were announced; a lost frame is not told."""
        if self._failed or not self._is_own(frame) or self._hold.must_climb:
            return
        at_s = self._own.now()
        self._hold.counted(counts, at_s - self._counted_s, self._held)
        self._counted_s = at_s
        if (looked := self._hold.looked) is not None:
            why = f"{looked.frames} frames beside the setting told so"
            self._on_tracked(
                frame, Correction("polarization", looked.lost_db, looked.left_db, "dB below the best", why)
            )

    def _is_own(self, frame: int) -> bool:
        return (frame // FRAMES_A_TURN) % self._turns == self._turn

    def end(self) -> None:
        """The block is over: keep what was learnt, unless the controller failed and nobody knows how it stands."""
        if self._failed:
            return
        if self._hold.must_climb:
            logger.warning(
                "%s: polarisation is climbed next time: %s", self._own.owner, self._hold.must_climb
            )
        hold = self._hold
        self._own.keep(
            self._pair,
            Kept.of(hold.settings, hold.peak, hold.walk_rad, now(), hold.must_climb),
        )
