"""A ring that nobody has calibrated learns when its light is where, from its instruments alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from uncalibrated_ring import ALL, Uncalibrated, uncalibrated_ring

from lab.calibration.book import now, read_book
from lab.calibration.steps import Step
from lab.runs.calibrating.rig import Rig, opened_rig
from lab.runs.calibrating.runner import Outcome, plan, run
from lab.testbed import read_testbed
from orchestrator.light.calibration import timing
from sim_backends.lines import ReferenceLine

pytestmark = [pytest.mark.early, pytest.mark.usefixtures("no_guards")]

Floats = npt.NDArray[np.float64]
SLOT_PS = 10_000.0
STEPS = (Step.PULSES, Step.DELAYS, Step.SEPARATION)


def calibrated(rig: Rig, ring: Uncalibrated, steps: Sequence[Step] = STEPS) -> list[Outcome]:
    testbed = ring.testbed()
    book = read_book(ring.path, read_testbed(ring.path))
    due = plan(testbed.user_names(), testbed.pairs(), book, now(), steps=steps)
    return list(run(rig, ring.path, due, progress=lambda due, part: None))


def errors_ps(ring: Uncalibrated) -> dict[str, Floats]:
    """Found less true, by owner.  Which slot is number 0 is the relay's choice: all share it, whole slots off the truth."""
    found = ring.testbed()
    errors = {
        "relay": np.subtract(
            found.calibration.detector_delays_ps, ring.truth["calibration"]["detector_delays_ps"]
        ),
        **{
            user.name: np.subtract(user.modulator_delays_ps, ring.of_user(user.name)["modulator_delays_ps"])
            for user in found.users
        },
    }
    shared = SLOT_PS * np.rint(errors["relay"][0] / SLOT_PS)
    return {owner: each.astype(float) - shared for owner, each in errors.items()}


def sigmas_ps(ring: Uncalibrated, owner: str) -> Floats:
    name = "detector_delays_ps" if owner == "relay" else "modulator_delays_ps"
    return np.array(read_book(ring.path, read_testbed(ring.path)).part(owner)[name].uncertainty)


def pulls(ring: Uncalibrated) -> Floats:
    """Errors over what is said of them; errors in ps are checked at once."""
    errors = errors_ps(ring)
    assert np.abs(errors["relay"]).max() < 50
    assert np.abs(list(errors.values())).max() < 100
    return np.concatenate([each / sigmas_ps(ring, owner) for owner, each in errors.items()])


def test_delays_of_a_fresh_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has cables and latencies off by tens of ns; then frames are laid out by what was found."""
    monkeypatch.setattr(timing, "SCAN_CLICKS", 20_000)
    monkeypatch.setattr(timing, "CHECK_CLICKS", 2_000)
    ring = uncalibrated_ring(tmp_path, ring_seed=5)
    wrong_ps = np.subtract(
        ring.testbed().user("alice").modulator_delays_ps, ring.of_user("alice")["modulator_delays_ps"]
    )
    assert np.abs(wrong_ps).max() > 1000, "something is to be found"
    with opened_rig(ring.path) as rig:
        outcomes = calibrated(rig, ring)
    assert [(str(each.due), each.refused) for each in outcomes] == [
        (due, "")
        for due in (
            "pulses of relay",
            "delays of alice",
            "delays of bob",
            "separation of alice",
            "separation of bob",
        )
    ]
    assert np.abs(pulls(ring)).max() < 5
    alice = ring.testbed().user("alice").modulator_delays_ps
    findings = {str(each.due): each.finding for each in outcomes if each.finding}
    apart = findings["separation of alice"].values["separation_ns"]
    assert apart.value == pytest.approx((alice[1] - alice[0]) * 1e-3 % 10, abs=2e-3)
    assert findings["pulses of relay"].light_s > 0


def test_clocks_that_follow_one_reference_and_one_that_only_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The carver's generator is fed by another source of 10 MHz, 0.02 ppm off: it is locked, and no instrument objects."""
    ring = uncalibrated_ring(tmp_path, ring_seed=5)
    with opened_rig(ring.path) as rig:
        (outcome,) = calibrated(rig, ring, [Step.REFERENCE])
        assert outcome.finding is not None, outcome.refused
        offset, jitter = (outcome.finding.values[name] for name in ("clock_offset_ppm", "trigger_jitter_ps"))
        assert np.abs([offset.value]).max() < 1e-4
        assert np.max([jitter.value]) < 10, "20 ps are allowed to what rests on it"
        before = ReferenceLine.rate_error
        monkeypatch.setattr(
            ReferenceLine,
            "rate_error",
            lambda line, name, *, external: (
                (2e-8 if name == "awg_relay" else 0.0) + before(line, name, external=external)
            ),
        )
        rig.set_up()
        (outcome,) = calibrated(rig, ring, [Step.REFERENCE])
    assert "the carver's generator runs +0.0200" in outcome.refused or "-0.0200" in outcome.refused
    assert "10 MHz reference of both" in outcome.refused
    assert (
        read_book(ring.path, read_testbed(ring.path)).part("relay")["clock_offset_ppm"].step is Step.REFERENCE
    )
    assert ring.testbed().calibration.visibility > 0, "nothing of it is in the testbed file"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1, 21, 4))
def test_delays_of_twenty_rings(tmp_path: Path, first: int) -> None:
    """Two sigma in nine of ten, never beyond five, a tenth of a nanosecond."""
    all_pulls = []
    for seed in range(first, first + 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ring = uncalibrated_ring(folder, ring_seed=seed, users=ALL, slots_per_frame=1 << 22)
        with opened_rig(ring.path) as rig:
            for outcome in calibrated(rig, ring, STEPS[:2]):
                assert outcome.finding is not None, outcome.refused
        all_pulls += list(pulls(ring))
    assert np.abs(all_pulls).max() < 5
    assert np.mean(np.abs(all_pulls) < 2) >= 0.9
