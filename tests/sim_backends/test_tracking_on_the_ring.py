"""What is followed while key is made, on the simulated ring through the drivers of every instrument."""

from __future__ import annotations

from typing import Any

import pytest
from driven_ring import DrivenRing
from key_on_ring import key_of, ring_file

from lab.calibration.steps import Step
from orchestrator.events.process import ProcessEvent, Tracked
from orchestrator.events.status import BlockReport
from orchestrator.postprocessing.block import BlockResult
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.processes.following import LOOK_AFTER_S, Following
from orchestrator.protocols.block_planning import plan_for

PAIR = ("alice", "dave")
"""Of the pairs the one that loses least."""


OFF_RAD = 0.25


def off_ring(off_rad: float) -> dict[str, Any]:
    """A ring whose loop phase is by so much not what the file says."""
    data = ring_file(21, pulses=1 << 24, slots=1 << 22)
    data["calibration"]["loop_phase_rad"] += off_rad
    for user in data["users"]:
        if user.get("loop_phase_rad") is not None:
            user["loop_phase_rad"] += off_rad
    return data


@pytest.mark.timeout(120)
@pytest.mark.parametrize("off_rad", [OFF_RAD, -1.2])
def test_a_look_before_the_first_frame_has_it_played_right(off_rad: float) -> None:
    """A phase that went on while the ring served others costs no block; what is known is not looked for again."""
    now_s, events = 0.0, list[ProcessEvent]()
    following = Following("alice", events.append, lambda: now_s)
    ring = DrivenRing(off_ring(off_rad), PAIR)
    try:
        plan = plan_for(ring.testbed, *PAIR)
        followed = following.block(ring.testbed, PAIR)
        phase = ring.phase(2, correction_rad=followed.played_rad, on_look=followed.look(plan))
        assert phase.wrong / phase.sifted < 0.01
        assert phase.slots == 2 << 22, "frames of a look are none of the block"
        told = [each for each in events if isinstance(each, Tracked)]
        assert {(each.what, each.frame) for each in told} == {("loop phase", 0)}
        assert "a look before the first frame" in told[0].why
        assert told[-1].after == pytest.approx(off_rad, abs=0.03)
        assert followed.played_rad == told[-1].after
        assert following.block(ring.testbed, PAIR).look(plan) is None
        now_s = 2 * LOOK_AFTER_S
        assert following.block(ring.testbed, PAIR).look(plan) is not None
    finally:
        ring.close()


@pytest.mark.timeout(120)
def test_a_loop_phase_that_went_away_is_corrected_from_a_refused_block() -> None:
    """The block itself gives no key, and wants no calibration, as the next one is right."""
    data = off_ring(OFF_RAD)
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
        assert first.after == pytest.approx(OFF_RAD, abs=0.08)
    finally:
        ring.close()
