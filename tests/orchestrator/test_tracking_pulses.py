"""Gates that move along with the light."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from orchestrator.light.messages import LightAborted
from orchestrator.light.tracking.pulses import RANGE_PS, PulseTracking

SLOT_PS = 10_000.0
CALIBRATED = (30_390_623, 30_391_391)
WIDTH_PS = 172.0

Times = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def frame(rng: np.random.Generator, off_ps: tuple[float, float], clicks: int = 4000, flat: int = 60) -> Times:
    """Time stamps of one frame with pulses so far from where they were calibrated, on a flat ground."""

    def of(d: int) -> npt.NDArray[np.int64]:
        slots = rng.integers(0, 4_000_000, clicks)
        times = slots * SLOT_PS + CALIBRATED[d] + off_ps[d] + rng.normal(0, WIDTH_PS, clicks)
        return np.sort(np.concatenate([times, rng.uniform(3e7, 4e10, flat)])).astype(np.int64)

    return of(0), of(1)


def in_gate(times: Times, delays_ps: tuple[int, int]) -> float:
    """Part of the time stamps within a gate of 1 ns."""
    inside = 0
    for each, delay in zip(times, delays_ps, strict=True):
        off = (each - delay + SLOT_PS / 2) % SLOT_PS - SLOT_PS / 2
        inside += int(np.count_nonzero(np.abs(off) <= 500))
    return inside / sum(each.size for each in times)


def test_gates_follow_a_day_of_warming_and_cooling() -> None:
    """240 ps up and down over 400 frames: with the gates where they were, a tenth of the light would miss them."""
    rng, tracking = np.random.default_rng(1), PulseTracking()
    followed, stood = [], []
    for k in range(400):
        off = 300 * math.sin(2 * math.pi * k / 400)
        times = frame(rng, (off, off))
        delays = tracking.delays_ps(CALIBRATED)
        followed.append(in_gate(times, delays))
        stood.append(in_gate(times, CALIBRATED))
        tracking.see(times, delays, SLOT_PS)
        if k > 10:
            assert tracking.shift_ps == pytest.approx((off, off), abs=30)
    assert np.mean(followed) > 0.98
    assert np.mean(stood) < 0.95


def test_a_ring_that_stands_still_is_left_alone() -> None:
    rng, tracking = np.random.default_rng(2), PulseTracking()
    moved = sum(len(tracking.see(frame(rng, (0.0, 0.0)), CALIBRATED, SLOT_PS)) for _ in range(200))
    assert moved <= 4  # three sigma, 400 looks
    assert max(map(abs, tracking.shift_ps)) < 20


def test_detectors_are_followed_one_by_one() -> None:
    rng, tracking = np.random.default_rng(3), PulseTracking()
    for _ in range(20):
        tracking.see(frame(rng, (120.0, -80.0)), tracking.delays_ps(CALIBRATED), SLOT_PS)
    assert tracking.shift_ps == pytest.approx((120.0, -80.0), abs=15)


def test_few_clicks_move_nothing_until_they_are_enough() -> None:
    rng, tracking = np.random.default_rng(4), PulseTracking()
    frames = 0
    while tracking.shift_ps == (0.0, 0.0):
        tracking.see(frame(rng, (200.0, 200.0), clicks=20, flat=0), tracking.delays_ps(CALIBRATED), SLOT_PS)
        frames += 1
    assert frames == pytest.approx((WIDTH_PS / 10) ** 2 / 20, abs=8)
    assert not PulseTracking().see((np.zeros(0, np.int64),) * 2, CALIBRATED, SLOT_PS)


def test_beyond_what_fibre_does_a_calibration_is_asked_for() -> None:
    rng, tracking = np.random.default_rng(5), PulseTracking()
    for off in np.arange(0.0, RANGE_PS - 100.0, 100.0):
        tracking.see(frame(rng, (off, off)), tracking.delays_ps(CALIBRATED), SLOT_PS)
    beyond = frame(rng, (RANGE_PS + 200.0,) * 2)
    with pytest.raises(LightAborted, match="calibrate pulses and delays"):
        tracking.see(beyond, tracking.delays_ps(CALIBRATED), SLOT_PS)


def test_each_correction_says_what_moved_from_where_to_where_and_why() -> None:
    rng, tracking = np.random.default_rng(6), PulseTracking()
    first, second = tracking.see(frame(rng, (120.0, -80.0)), CALIBRATED, SLOT_PS)
    assert (first.what, first.before, first.unit) == ("gate of D1", 0.0, "ps")
    assert (second.what, second.after) == ("gate of D2", tracking.shift_ps[1])
    assert "time stamps stood +1" in first.why
