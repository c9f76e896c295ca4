"""A bias controller that says that it holds the null, and does not: light between pulses tells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driven_ring import DrivenRing, ring_content

from lab.calibration.steps import Step
from orchestrator.light.messages import LightAborted
from orchestrator.light.tracking.correction import Correction
from sim_backends.bias_controllers.thorlabs_mbx import ThorlabsMBXTwin

SLOTS = 1 << 18
PAIR = ("alice", "dave")
OFF_V = 0.6


@pytest.fixture
def ring() -> Iterator[DrivenRing]:
    ring = DrivenRing(ring_content(SLOTS), PAIR)
    yield ring
    ring.close()


def misled(ring: DrivenRing, monkeypatch: pytest.MonkeyPatch, *, for_good: bool) -> None:
    """The controller holds beside the null from here on, until it looks for it anew, or for good."""
    (twin,) = (each for each in ring.bench.twins.values() if isinstance(each, ThorlabsMBXTwin))
    really, find, off_v = ring.bench.ring.set_carver_bias, twin._calibrate, [OFF_V]

    def calibrate() -> None:
        off_v[0] = OFF_V if for_good else 0.0
        find()

    monkeypatch.setattr(twin, "_on_bias", lambda bias_v, follows: really(bias_v + off_v[0], follows))
    monkeypatch.setattr(twin, "_calibrate", calibrate)


@pytest.mark.timeout(120)
def test_the_null_is_found_anew_before_the_first_frame(
    ring: DrivenRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Correction] = []

    def phase() -> float:
        seen = ring.phase(1, on_tracked=lambda owner, frame, correction: told.append(correction))
        return seen.wrong / seen.sifted

    phase()
    assert "light between pulses" not in {each.what for each in told}, "known light is none to follow"
    misled(ring, monkeypatch, for_good=False)
    assert phase() < 0.02
    (found,) = (each for each in told if each.what == "light between pulses")
    assert found.before > -15
    assert found.after < -25
    assert "null was found anew" in found.why


@pytest.mark.timeout(120)
def test_a_null_that_is_not_found_ends_the_light_with_the_calibration_to_run(
    ring: DrivenRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.phase(1)
    misled(ring, monkeypatch, for_good=True)
    with pytest.raises(LightAborted, match="found anew it does still: calibrate carver") as caught:
        ring.phase(1)
    assert caught.value.steps == (Step.CARVER,)
