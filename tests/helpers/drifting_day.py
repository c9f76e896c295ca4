"""A simulated day: light phase, post-processing, suspension and calibration of real roles on a ring on which all drifts.

Time is the ring's own.  It goes on with every frame, by as much as if a frame were so long, and between two blocks, in which
the ring serves others.  What follows drift reads the same clock, so a day passes in minutes and nobody can tell.

A pair that is left alone has everything as it was calibrated in the morning, its polarisation too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from driven_ring import DrivenRing
from fewer_users import ring_of_users
from key_on_ring import key_of
from turning_ring import turning_content

from lab.calibration.book import Book, Value, calibrated, fingerprint, now
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.steps import LEASED, Step
from lab.runs.calibrating.hands import NoHands
from lab.runs.calibrating.rig import Rig
from lab.testbed import parse_testbed
from orchestrator.events.process import ProcessEvent, Tracked
from orchestrator.events.status import BlockReport
from orchestrator.light.calibration.procedures import RELAY_PROCEDURES, USER_PROCEDURES
from orchestrator.light.messages import LightAborted
from orchestrator.light.tracking import polarization
from orchestrator.light.tracking.correction import Correction
from orchestrator.light.tracking.pulses import PulseTracking
from orchestrator.postprocessing.block import BlockResult
from orchestrator.postprocessing.cascade import compile_kernels
from orchestrator.processes.following import FollowedBlock, Following, tracked
from orchestrator.protocols.block_planning import plan_for
from orchestrator.scheduling.entries import Entry
from orchestrator.scheduling.leases import Lease, Outcome
from orchestrator.scheduling.queue_store import QUEUE_FILE, QueueStore
from orchestrator.scheduling.ring_queue import RingQueue
from orchestrator.scheduling.suspending import Suspensions
from orchestrator.wire.messages import calibration

PAIR = ("alice", "dave")
OWNERS = ("relay", *PAIR)
SLOTS, FRAMES, FRAME_S = 1 << 20, 24, 10.0
HOUR_S = 3600.0
MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)


class RingTime:
    """Seconds since the morning."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s

    def now(self) -> datetime:
        return MORNING + timedelta(seconds=self.s)


class Standing(PulseTracking):
    """Gates that stay where they were calibrated."""

    def see(self, *_: object) -> list[Correction]:
        return []


@dataclass(frozen=True)
class BlockSeen:
    """A block: when it began, its errors in both bases together, what became of it, and what was corrected in it.

    ``calibrated``: the steps that suspension had done after it.  ``gaps_db``: what all gaps between polarisers lost together in its
    last frame, NaN where there was none; and the loop's phase at its end: what no instrument shows.
    """

    hour: float
    rounds: int
    wrong: int
    secret_bits: int
    reason: str
    corrections: tuple[Tracked, ...]
    calibrated: tuple[str, ...]
    suspended: str
    gaps_db: float
    loop_phase_rad: float

    @property
    def qber(self) -> float:
        """Errors by rounds; NaN where the light ended early."""
        return self.wrong / self.rounds if self.rounds else math.nan

    @property
    def sigma(self) -> float:
        """Of the error rate."""
        return math.sqrt(self.qber * (1 - self.qber) / self.rounds) if self.rounds else math.nan


def day_content(
    ring_seed: int, slots: int, loop_phase_drift_rad: float, *, controlled: bool
) -> dict[str, Any]:
    """A ring of the pair's two stations, surveyed in the morning."""
    drifts = {"loop_phase_drift_rad": loop_phase_drift_rad}
    data = turning_content(OWNERS if controlled else (), slots, ring_seed=ring_seed, **drifts)
    data["protocol"]["pulses_per_block"] = slots * FRAMES
    return ring_of_users(data, PAIR)


class DriftingDay:
    """One pair on one ring, followed or left alone."""

    def __init__(
        self,
        ring_seed: int,
        folder: Path,
        patch: pytest.MonkeyPatch,
        *,
        is_tracked: bool,
        loop_phase_drift_rad: float = 0.1,
        slots: int = SLOTS,
    ) -> None:
        """``slots`` of a frame: with few of them a block is too small for key, and shows its errors all the same."""
        self.is_tracked = is_tracked
        self.time = RingTime()
        self.events: list[ProcessEvent] = []
        self.number = 0
        self._lost_db = math.nan
        compile_kernels()
        self._data = day_content(ring_seed, slots, loop_phase_drift_rad, controlled=is_tracked)
        self._book = Book(ring=fingerprint(self._data))
        self.ring = DrivenRing(self._data, PAIR, folder=folder, physics=self.time)
        self._folder = folder
        self._store = QueueStore(folder / QUEUE_FILE)
        clocks: dict[str, Any] = {"clock": self.time, "wall": lambda: self.time.now().timestamp()}
        self._queue = RingQueue(self._store, (PAIR,), tuple(Step), **clocks)
        self.suspensions = Suspensions(self._queue, self._store, tuple(LEASED), **clocks)
        self._following = Following(PAIR[0], self.events.append, self.time)
        patch.setattr(polarization, "now", self.time.now)
        for role in (self.ring.relay, *self.ring.users):
            if role.polarization is not None:
                patch.setattr(role.polarization, "_clock", self.time)
        if not is_tracked:
            patch.setattr(self.ring.relay, "_tracking", Standing())

    def close(self) -> None:
        self.ring.close()
        self._store.close()

    def block(self, hour: float) -> BlockSeen:
        """A block that begins at that hour, or later where calibrations took so long; what follows from it is done."""
        self.time.s = max(self.time.s, hour * HOUR_S)
        begun_h = self.time.s / HOUR_S
        self.number += 1
        self.events.clear()
        followed = self._following.block(self.ring.testbed, PAIR)
        self._lost_db = math.nan
        report, rounds, wrong = self._key(followed)
        loop_rad = self.ring.bench.ring.light().optics.loop_phase_rad
        calibrated_now: tuple[str, ...] = ()
        if self.is_tracked:
            report = followed.judged(report)
            if report.calibrate:
                self.suspensions.refused(PAIR, report.reason, report.calibrate)
                calibrated_now = tuple(self._calibrate())
            elif report.stored:
                self.suspensions.made_key(PAIR)
        corrections = tuple(each for each in self.events if isinstance(each, Tracked))
        why, bits = self.suspensions.why(PAIR), report.secret_bits
        return BlockSeen(
            begun_h,
            rounds,
            wrong,
            bits,
            report.reason,
            corrections,
            calibrated_now,
            why,
            self._lost_db,
            loop_rad,
        )

    def _key(self, followed: FollowedBlock) -> tuple[BlockReport, int, int]:
        """Light and post-processing of one block: its report, the rounds of equal bases and the errors in them."""
        plan = plan_for(self.ring.testbed, *PAIR)

        def on_frame(frame: int) -> None:
            self._lost_db = -10 * math.log10(math.prod(self.ring.bench.ring.light().gaps))
            self.time.s += FRAME_S

        def on_tracked(owner: str, frame: int, moved: Correction) -> None:
            self.events.append(tracked(moved, owner, PAIR, frame))

        def on_told(clicks: npt.NDArray[np.int64]) -> None:
            if self.is_tracked:
                followed.see(plan, FRAMES, clicks)

        report = BlockReport(1, self.number, *PAIR, stored=False)
        try:
            look = followed.look(plan) if self.is_tracked else None
            phase = self.ring.phase(FRAMES, on_frame, on_tracked, followed.played_rad, look)
        except LightAborted as ended:
            return _refused(report, ended), 0, 0
        outcome = key_of(self.ring, phase, self.number, on_told)
        if not isinstance(outcome, BlockResult):
            return _refused(report, outcome), phase.sifted, phase.wrong
        about = (outcome.key is not None, outcome.no_key_reason)
        report = BlockReport(1, self.number, *PAIR, *about, secret_bits=outcome.secret_bits)
        return report, phase.sifted, phase.wrong

    # -- what suspension has queued ------------------------------------------------------------------

    def _calibrate(self) -> list[str]:
        """Serve the queue until nothing of it is left."""
        done = []
        while self._queue.entries:
            entry = self._queue.entries[0]
            step, failed = Step(entry.steps_left[0]), ""
            try:
                self._find(step)
            except (CalibrationRefusedError, LightAborted) as error:
                failed = str(error)
            self._lease_over(entry, step, failed)
            done.append(f"{step} (refused)" if failed else str(step))
            self.suspensions.time()
        return done

    def _find(self, step: Step) -> None:
        """One step of the pair, with the ring's own instruments; what is found is used from here on."""
        rig = Rig(self.ring.testbed, self.ring.stations, self._book, NoHands(), self._folder)
        rig.relay_light = self.ring.relay
        rig.users = {
            user: replace(rig.users[user], light=light)
            for user, light in zip(PAIR, self.ring.users, strict=True)
        }
        rig.set_up()
        if step in USER_PROCEDURES:
            found = [rig.of_user(step, user, PAIR, lambda done: None) for user in PAIR]
        else:
            found = [RELAY_PROCEDURES[step](rig.relay_means(), "relay", PAIR, lambda done: None)]
        for each in found:
            values = {
                name: Value(value=v.value, uncertainty=v.uncertainty, step=step, measured=now())
                for name, v in each.values.items()
            }
            self._book = self._book.with_values(each.owner, values)
        data = self.ring.testbed.model_dump(mode="json", exclude_unset=True)
        testbed = parse_testbed(calibrated(data, self._book), Path("day.toml"))
        self.ring.testbed = testbed
        self.ring.relay.use(testbed)
        for light in self.ring.users:
            light.use(testbed)

    def _lease_over(self, entry: Entry, step: Step, failed: str) -> None:
        self.number += 1
        lease = Lease(1, self.number, *PAIR, FRAMES, 100.0, calibration(step), entry.number)
        self._queue.lit(lease)
        self._queue.lease_over(Outcome(lease, not failed, False, failed, 1.0))


def _refused(report: BlockReport, ended: Any) -> BlockReport:
    return BlockReport(
        report.epoch,
        report.lease_number,
        *report.pair,
        stored=False,
        reason=str(ended)[:400],
        calibrate=ended.steps,
    )
