"""What is followed while key is made, on the simulated ring through the drivers of every instrument."""

from __future__ import annotations

import pytest
from driven_ring import DrivenRing
from key_on_ring import key_of, ring_file

from lab.calibration.steps import Step
from orchestrator.events.process import ProcessEvent, Tracked
from orchestrator.events.status import BlockReport
from orchestrator.postprocessing.block import BlockResult
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.processes.following import Following
from orchestrator.protocols.block_planning import plan_for

PAIR = ("alice", "dave")
"""Of the pairs the one that loses least."""


@pytest.mark.timeout(120)
def test_a_loop_phase_that_went_away_is_corrected_from_a_refused_block() -> None:
    """The block itself gives no key, and wants no calibration, as the next one is right."""
    data = ring_file(21, pulses=1 << 24, slots=1 << 22)
    off_rad = 0.25
    data["calibration"]["loop_phase_rad"] += off_rad
    for user in data["users"]:
        if user.get("loop_phase_rad") is not None:
            user["loop_phase_rad"] += off_rad
    events: list[ProcessEvent] = []
    following = Following("alice", events.append)
    ring = DrivenRing(data, PAIR)
    try:
        plan = plan_for(ring.testbed, *PAIR)
        outcomes, reports = [], []
        for number in range(2):
            followed = following.block(ring.testbed, PAIR)
            phase = ring.phase(ring.testbed.frames_per_block(), correction_rad=followed.played_rad)
            outcome = key_of(ring, phase, number, lambda clicks, f=followed: f.see(plan, 4, clicks))
            outcomes.append(outcome)
            steps = outcome.steps if isinstance(outcome, BlockAborted) else ()
            stored = isinstance(outcome, BlockResult)
            report = BlockReport(1, number, *PAIR, stored=stored, reason=str(outcome), calibrate=steps)
            reports.append(followed.judged(report))
        refused, good = outcomes
        assert isinstance(refused, BlockAborted)
        assert Step.VISIBILITY in refused.steps
        assert reports[0].calibrate == ()
        assert "loop's phase was" in reports[0].reason
        assert isinstance(good, BlockResult), good
        assert good.qber < 0.01
        first = events[0]
        assert isinstance(first, Tracked)
        assert (first.what, first.owner, first.frame) == ("loop phase", "alice", 3)
        assert first.after == pytest.approx(off_rad, abs=0.08)
    finally:
        ring.close()
