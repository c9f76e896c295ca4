"""A light phase over real drivers and twins counts what the planner foresees, on a perfect ring and on built ones."""

from __future__ import annotations

import math

import pytest
from driven_ring import DrivenRing, ring_content

from orchestrator.light.calibration.exposures import Exposures
from orchestrator.light.own_station import OWN_DIRECTION
from orchestrator.light.tracking.correction import Correction
from orchestrator.protocols.block_planning import plan_for

pytestmark = pytest.mark.early

SLOTS_PER_FRAME, FRAMES = 1 << 18, 8
SENSOR_NOISE = math.sqrt(2) * 0.03 / math.sqrt(10) / 0.5
"""Of an intensity: 0.03 pW in one second, ten of them for a reading and for its zero, on half a picowatt of own light."""
PULSE_PS = math.hypot(400 / 2.3548, 30)
"""Standard deviation of a tag: a pulse of 0.4 ns and 30 ps of jitter."""


@pytest.mark.parametrize(("ring_seed", "spread"), [(1, 0.0), (11, 1.0), (12, 1.0), (13, 1.0)])
def test_gain_and_error_rate_are_those_of_the_plan(ring_seed: int, spread: float) -> None:
    """Users set the intensities of the plan as well as their sensors allow; what arrives counts within five sigma."""
    ring = DrivenRing(ring_content(SLOTS_PER_FRAME, ring_seed=ring_seed, spread=spread))
    sent: list[list[float]] = []
    try:
        plan = plan_for(ring.testbed, *ring.pair)

        def look(frame: int) -> None:
            sent.append([*map(ring.bench.ring.mean_photon_number, ring.pair, OWN_DIRECTION)])

        phase = ring.phase(FRAMES, look)
    finally:
        ring.close()
    assert not set(ring.bench.unsafe()) & set(ring.bench.twins)
    shares = [mu / planned for mu, planned in zip(sent[0], (plan.mu_a, plan.mu_b), strict=True)]
    assert shares == pytest.approx([1.0, 1.0], abs=0.06 * spread + 5 * SENSOR_NOISE)
    share = sum(shares) / 2
    # What the planner leaves out: tags outside the gate, and the time in which a detector is dead or recovers.
    in_gate = math.erf(500 / PULSE_PS / math.sqrt(2))
    dead_ns = 20 + 10 * spread
    alive = 1 - plan.gain / 2 * 1e8 * dead_ns * 1e-9
    expected = plan.gain * share * in_gate * alive * phase.slots
    assert abs(phase.clicks - expected) <= 5 * math.sqrt(expected)
    wrong = plan.qber * phase.sifted
    assert abs(phase.wrong - wrong) <= 5 * math.sqrt(wrong)


def test_light_that_is_too_bright_is_attenuated_once_though_both_users_see_it() -> None:
    """The launch loses 1 dB less than the file says: one user takes it away, and the other finds it gone."""
    content = ring_content(SLOTS_PER_FRAME, spread=0.0)
    content["ring"]["launch_loss_db"] += 1.0
    ring = DrivenRing(content)
    sent: list[float] = []
    try:
        planned = plan_for(ring.testbed, *ring.pair).mu_a
        ring.phase(1, lambda frame: sent.append(ring.bench.ring.mean_photon_number("alice", "ccw")))
    finally:
        ring.close()
    assert 0.92 * planned < sent[0] < planned * 1.05


@pytest.mark.parametrize("more_db", [0.35, -0.35, -1.2])
def test_a_launch_that_is_wrong_is_levelled(more_db: float) -> None:
    """What the launch loses more than the file says is made up for by counts, before the first frame."""
    content = ring_content(SLOTS_PER_FRAME, spread=0.0)
    content["ring"]["launch_loss_db"] -= more_db
    ring = DrivenRing(content)
    sent: list[float] = []
    corrected: list[tuple[str, Correction]] = []
    try:
        planned = plan_for(ring.testbed, *ring.pair).mu_a
        for _ in range(2):
            ring.phase(
                1,
                lambda frame: sent.append(ring.bench.ring.mean_photon_number("alice", "ccw")),
                on_tracked=lambda owner, frame, correction: corrected.append((owner, correction)),
            )
    finally:
        ring.close()
    assert sent == pytest.approx([planned, planned], rel=0.03), "0.35 dB are 8 %, 1.2 dB a quarter"
    (owner, told), *_ = corrected
    assert (owner, told.what, told.before, told.unit) == ("relay", "launch attenuation", 0.0, "dB")
    assert told.after == pytest.approx(-more_db, abs=0.1), "what it is attenuated by more than planned"


def test_where_nobody_reads_the_light_a_launch_is_set_no_further_off_than_values_are_wrong_by(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = ring_content(SLOTS_PER_FRAME, spread=0.0)
    content["ring"]["launch_loss_db"] += 1.2
    content["protocol"]["monitoring"] = "calibrated"
    ring = DrivenRing(content)
    corrected: list[Correction] = []
    try:
        ring.phase(1, on_tracked=lambda owner, frame, correction: corrected.append(correction))
    finally:
        ring.close()
    assert not [each for each in corrected if each.what == "launch attenuation"]
    assert "too much to be made up for" in caplog.text


def test_light_at_rest_is_counted_where_the_gates_were_followed_to() -> None:
    """Pulses that stand 350 ps from where they were calibrated would else be taken for light that is missing."""
    content = ring_content(1 << 20, spread=0.0)
    off_ps = 350
    delays_ps = [each - off_ps for each in content["calibration"]["detector_delays_ps"]]
    content["calibration"]["detector_delays_ps"] = delays_ps
    ring = DrivenRing(content)
    try:
        ring.phase(2)
        found_ps = ring.relay.gates_ps()
        assert found_ps == pytest.approx([each + off_ps for each in delays_ps], abs=60)
        other = ring.testbed.model_copy(update={"ring": ring.testbed.ring})
        ring.relay.use(other)
        assert ring.relay.gates_ps() == found_ps, "calibrated anew, but not its pulses"
        ring.light()
        followed, stood = (
            exposures.gated(clicks=2e4, longest_s=0.2).arriving
            for exposures in (ring.relay._exposures(), Exposures(ring.testbed, ring.instruments.tagger))
        )
        assert followed == pytest.approx(ring.plan().arriving, rel=0.05)
        assert stood < 0.9 * followed
    finally:
        ring.close()
