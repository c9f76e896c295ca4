"""A latched detector in the ring: noticed before the light and in it, brought back in the dark, told, and not for ever.

Drivers and twins of a whole ring; the ring's model latches as a flash of light would leave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from driven_ring import DrivenRing, Phase, ring_content

from lab import needs
from orchestrator.light.messages import LightAborted

pytestmark = pytest.mark.early

FRAMES, SLOTS = 4, 1 << 18


@pytest.fixture(scope="module")
def made() -> Iterator[DrivenRing]:
    ring = DrivenRing(ring_content(SLOTS))
    ring.phase(1)
    yield ring
    ring.close()


@pytest.fixture
def driven(made: DrivenRing) -> Iterator[DrivenRing]:
    made.latched.clear()
    detectors = made.bench.ring.detectors
    yield made
    made.bench.ring.detectors = detectors
    made.stations["relay"].get(needs.DETECTORS).enabled(False)


def latch(driven: DrivenRing, *which: int) -> None:
    ring = driven.bench.ring
    with ring._lock:
        for each in which:
            ring._latched[each] = True
        ring._look()


def frames_of(phase: Phase, outcome: int) -> set[int]:
    """The frames in which one detector alone clicked."""
    return set(phase.first.frame[phase.first.outcome == outcome].tolist())


@pytest.mark.parametrize(("which", "name"), [((0,), "D1"), ((1,), "D2"), ((0, 1), "D1 and D2")])
def test_one_that_is_latched_before_the_light_is_brought_back(
    driven: DrivenRing, which: tuple[int, ...], name: str
) -> None:
    dark = driven.bench.ring.set_detectors
    open_w: list[float] = []

    def noting(bias_ua: list[float], enabled: bool) -> None:
        ring = driven.bench.ring
        open_w.append(sum(ring.light().entering_w("cw")))
        dark(bias_ua, enabled)

    driven.relay.set_up()
    latch(driven, *which)
    driven.bench.ring.set_detectors = noting  # type: ignore[method-assign, assignment]
    try:
        phase = driven.phase(FRAMES)
    finally:
        driven.bench.ring.set_detectors = dark  # type: ignore[method-assign]
    (told,) = driven.latched
    assert told.startswith(f"{name} latched (no count at 20 dB below the planned light)")
    assert max(open_w) < 1e-18, "the launch was open while the bias was moved"
    assert frames_of(phase, 1) == frames_of(phase, 2) == set(range(FRAMES))
    assert driven.bench.ring.latched() == (False, False)


@pytest.mark.parametrize(("which", "name"), [((1,), "D2"), ((0, 1), "D1 and D2")])
def test_one_that_latches_in_the_light_costs_its_frame_and_both_users_are_told_why(
    driven: DrivenRing, which: tuple[int, ...], name: str
) -> None:
    lost: list[str] = []
    for light in driven.users:
        run = light.run
        light.run = lambda *given, run=run, **more: run(*given, **more, on_lost=lost.append)  # type: ignore[method-assign, misc]
    try:
        phase = driven.phase(FRAMES, lambda frame: latch(driven, *which) if frame == 1 else None)
    finally:
        for light in driven.users:
            del light.run  # type: ignore[method-assign]
    (told,) = driven.latched
    assert told.startswith(f"{name} latched (no time stamp in frame 2)")
    assert len(lost) == 2
    assert all(each.startswith(f"frame 2: the relay says: {name} latched") for each in lost)
    assert frames_of(phase, 1) == frames_of(phase, 2) == {0, 1, 3}


def test_one_that_latches_again_ends_the_light_phase_with_what_to_check(driven: DrivenRing) -> None:
    """It bears less than it gets: a hundredth of the light passes, all of it does not."""
    ring = driven.bench.ring
    ring.detectors = (ring.detectors[0], replace(ring.detectors[1], latch_rate_hz=1500.0))
    with pytest.raises(LightAborted, match="D2 latched again") as raised:
        driven.phase(8)
    for what in ("launch attenuation", "both stations", "in bypass"):
        assert what in str(raised.value)
    assert len(driven.latched) == 1
    assert sum(ring.light().entering_w("cw")) < 1e-18


def test_light_that_goes_out_in_a_frame_latches_nothing(driven: DrivenRing) -> None:
    """Both are silent but for their dark counts; the users see why."""
    with pytest.raises(LightAborted, match=r"no light arrives|off the planned"):
        driven.phase(FRAMES, lambda frame: driven.instruments.launch.block() if frame == 1 else None)
    assert not driven.latched
