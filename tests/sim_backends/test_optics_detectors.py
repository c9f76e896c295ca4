"""Detectors: bias, dark counts, dead time and recovery, jitter and gate, delays, afterpulses, tag order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from lit_ring import PS_PER_KM, RING

from sim_backends.optics import Clicks, DetectorOptics, Drive, Ring

SLOT_PS = 10_000
GATE_PS = 1_000
LOOP_PS = 6.0 * PS_PER_KM
OPTICS = replace(RING, visibility=1.0, carver=replace(RING.carver, rf_gain=16.0, extinction_db=math.inf))
DETECTOR = DetectorOptics(efficiency_max=0.8, dark_count_probability=0.0, gate_ns=1.0)
BIAS_UA = (20.0, 20.0)


def expose(
    detectors: DetectorOptics | tuple[DetectorOptics, DetectorOptics],
    photons: float,
    n_slots: int,
    seed: int = 1,
    loop_phase_rad: float = 0.0,
    clock_hz: float = 1e8,
) -> Clicks:
    """Clicks when ``photons`` per slot are to be detected in all, in D1 unless the phase says otherwise.

    All stations are bypassed, pulses last a picosecond and reach the detectors at whole slots.
    """
    slot_ps = 1e12 / clock_hz
    pair = detectors if isinstance(detectors, tuple) else (detectors, detectors)
    ring = Ring(replace(OPTICS, loop_phase_rad=loop_phase_rad), pair)
    ring.set_detectors(BIAS_UA, True)
    ring.set_carver_drive(
        Drive(np.eye(1, 10_000, dtype=np.float32)[0], slot_ps / 10_000, 0.5, -LOOP_PS % slot_ps)
    )
    if photons:
        ring.set_laser(1.0, 1550.0)
        arriving = sum(
            ring.mean_photon_number("alice", direction) * ring.home_transmission("alice", direction)
            for direction in ("cw", "ccw")
        )
        ring.set_launch("launch", 10 * math.log10(0.8 * arriving / photons))
    return ring.expose({}, round(n_slots * slot_ps), seed)


def in_gate(times: npt.NDArray[np.int64], delay_ps: float = 0.0) -> npt.NDArray[np.bool_]:
    shifted = times - delay_ps
    return np.abs(shifted - np.round(shifted / SLOT_PS) * SLOT_PS) <= GATE_PS / 2


def within_five_sigma(observed: float, expected: float, variance: float | None = None) -> bool:
    return abs(observed - expected) <= 5 * math.sqrt(expected if variance is None else variance) + 1


def test_efficiency_saturates_on_a_plateau() -> None:
    bias = np.linspace(0, 30, 200)
    efficiency = np.array([DETECTOR.efficiency(b) for b in bias])
    assert np.all(np.diff(efficiency) >= 0)
    assert DETECTOR.efficiency(DETECTOR.bias_half_ua) == pytest.approx(0.4)
    assert DETECTOR.efficiency(20.0) == pytest.approx(0.8, rel=1e-6)
    assert DETECTOR.efficiency(5.0) < 1e-5
    assert DETECTOR.efficiency(0.0) == 0.0


def test_dark_counts_grow_by_e_per_width_of_bias_and_end_at_the_critical_current() -> None:
    """1e-7 per gate of 1 ns are 100 a second at the operating bias; a microampere more brings e times as many."""
    detector = replace(DETECTOR, dark_count_probability=1e-7, dark_width_ua=1.0, critical_ua=24.0)
    rates = [detector.dark_rate_per_s(bias_ua) for bias_ua in (18.0, 20.0, 21.0, 23.0)]
    assert rates == pytest.approx([100 * math.exp(more) for more in (-2, 0, 1, 3)], rel=1e-6)
    assert [detector.dark_rate_per_s(bias_ua) for bias_ua in (0.0, 24.0, 30.0)] == [0.0, 0.0, 0.0]
    assert detector.efficiency(23.9) > 0.79
    assert detector.efficiency(24.0) == 0.0


def test_a_bias_above_the_critical_current_counts_nothing() -> None:
    noisy = replace(DETECTOR, dark_count_probability=1e-3, critical_ua=24.0)
    ring = Ring(OPTICS, (noisy, noisy))
    ring.set_detectors((20.0, 24.0), True)
    assert set(ring.expose({}, 10**9, seed=1).detector) == {0}
    assert ring.detector_count_rates()[1] == 0.0


@pytest.mark.parametrize("dead_ns", [0.0, 20.0])
def test_efficiency_returns_gradually_after_a_click(dead_ns: float) -> None:
    """Bright pulses every 10 ns: the k-th after the dead time is missed by exp(-x (1 - exp(-t / 30 ns)))."""
    photons = 1.5
    clicks = expose(replace(DETECTOR, dead_time_ns=dead_ns, recovery_ns=30.0), photons, 200_000)
    gaps = np.rint(np.diff(clicks.of(0)) / SLOT_PS).astype(int)
    missed = 1.0
    for gap in range(max(1, round(dead_ns / 10)), 8):
        since_ns = 10 * gap - dead_ns
        seen = -math.expm1(-photons * -math.expm1(-since_ns / 30.0))
        expected = gaps.size * missed * seen
        assert within_five_sigma(int((gaps == gap).sum()), expected)
        missed *= 1 - seen


def test_dark_counts_fill_the_gate_with_their_probability() -> None:
    """pd per gate inside it, the same rate density outside."""
    n_slots = 1_000_000
    clicks = expose(replace(DETECTOR, dark_count_probability=1e-2), 0.0, n_slots)
    for detector in (0, 1):
        times = clicks.of(detector)
        gated = times[in_gate(times)]
        slots_hit = np.unique(np.round(gated / SLOT_PS)).size
        assert within_five_sigma(slots_hit, 1e-2 * n_slots)
        assert within_five_sigma(times.size, -math.log(0.99) * 10 * n_slots)


def test_dark_counts_are_poissonian_in_time() -> None:
    clicks = expose(replace(DETECTOR, dark_count_probability=1e-3), 0.0, 2_000_000)
    counts = np.histogram(clicks.of(0), bins=100, range=(0, 2e10))[0]
    chi2 = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    assert abs(chi2 - 99) < 5 * math.sqrt(2 * 99)
    gaps = np.diff(clicks.of(0))
    assert np.mean(gaps > gaps.mean()) == pytest.approx(math.exp(-1), abs=0.02)


@pytest.mark.parametrize("dead_ns", [30.0, 200.0, 1000.0])
def test_dead_time_divides_the_rate(dead_ns: float) -> None:
    """R / (1 + R tau) for counts at random times, rate 1e7/s; variance of a renewal process."""
    noisy = replace(DETECTOR, dark_count_probability=-math.expm1(-0.01), dead_time_ns=dead_ns)
    clicks = expose(noisy, 0.0, 1_000_000)
    load = 1e7 * dead_ns * 1e-9
    expected = 1e7 * 1e-2 / (1 + load)
    for detector in (0, 1):
        times = clicks.of(detector)
        assert within_five_sigma(times.size, expected, expected / (1 + load) ** 2)
        assert np.diff(times).min() >= dead_ns * 1e3 - 1


def test_dead_time_spans_slots_of_light() -> None:
    """In pulsed light a click blocks the next 9 pulses: p / (1 + 9 p) of the slots click."""
    p = -math.expm1(-0.1)
    clicks = expose(replace(DETECTOR, dead_time_ns=95.0), 0.1, 500_000)
    expected = 500_000 * p / (1 + 9 * p)
    assert within_five_sigma(clicks.of(0).size, expected)
    assert np.rint(np.diff(clicks.of(0)) / SLOT_PS).min() == 10


@pytest.mark.parametrize("clock_hz", [1e8, 3e7, 7.7e7, 1.234567e8])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_dead_time_of_whole_slots_is_over_for_the_pulse_at_its_end(clock_hz: float, slots: int) -> None:
    """Bright light: every pulse that is not blocked clicks, so clicks are ``slots`` apart, everywhere alike."""
    detector = replace(DETECTOR, dead_time_ns=slots * 1e9 / clock_hz)
    clicks = expose(detector, 200.0, 30_000, clock_hz=clock_hz)
    apart = np.diff(clicks.of(0)) * clock_hz * 1e-12
    assert np.unique(np.round(apart)).tolist() == [slots]


def test_dead_detectors_do_not_block_each_other() -> None:
    """Strong light at a quarter turn: both detectors click at their own pace."""
    clicks = expose(replace(DETECTOR, dead_time_ns=15.0), 50.0, 100_000, loop_phase_rad=math.pi / 2)
    assert clicks.of(0).size == clicks.of(1).size == 50_000


@pytest.mark.parametrize("sigma_ps", [100.0, 300.0, 500.0])
def test_jitter_loses_what_leaves_the_gate(sigma_ps: float) -> None:
    """A gaussian of the tag time; erf(gate / 2 / (sqrt2 sigma)) stays inside."""
    clicks = expose(replace(DETECTOR, jitter_ps=sigma_ps), 0.05, 500_000)
    times = clicks.of(0)
    inside = math.erf((GATE_PS + 1) / 2 / (math.sqrt(2) * sigma_ps))
    assert within_five_sigma(in_gate(times).sum(), inside * times.size, times.size * inside * (1 - inside))
    offsets = times - np.round(times / SLOT_PS) * SLOT_PS
    assert offsets.std() == pytest.approx(sigma_ps, rel=0.03)


def test_delays_shift_the_tags_and_light_before_the_start_arrives_after_it() -> None:
    """31.2 and 31.65 ns: pulses of slots -3 on are tagged in the record, and all tags stay sorted."""
    pair = (replace(DETECTOR, delay_ps=31_200), replace(DETECTOR, delay_ps=31_650))
    clicks = expose(pair, 40.0, 1000, loop_phase_rad=math.pi / 2)
    for detector, first_ps in ((0, 1_200), (1, 1_650)):
        expected = first_ps + SLOT_PS * np.arange(1000)
        assert np.abs(clicks.of(detector) - expected).max() <= 3
    assert np.all(np.diff(clicks.time_ps) >= 0)


def test_tags_of_a_long_cable_are_sorted_among_those_of_a_short_one() -> None:
    """2 us between the detectors: the clicks of 200 slots overtake."""
    pair = (replace(DETECTOR, delay_ps=2_000_000), DETECTOR)
    clicks = expose(pair, 1.0, 5000, loop_phase_rad=math.pi / 2)
    assert np.all(np.diff(clicks.time_ps) >= 0)
    assert abs(clicks.of(0).size - clicks.of(1).size) < 5 * math.sqrt(clicks.time_ps.size)


def test_afterpulses_follow_clicks_by_dead_time_and_an_exponential() -> None:
    """Each click begets another with probability p, and so on: 1/(1-p) clicks per photon."""
    leaky = replace(DETECTOR, dead_time_ns=50.0, afterpulse_probability=0.1, afterpulse_decay_ns=40.0)
    times = expose(leaky, 5e-4, 4_000_000).of(0)
    light = int(in_gate(times).sum())
    extra = times.size - light
    fraction = 0.9 * 0.1 / 0.9
    assert within_five_sigma(extra, fraction * light, fraction * light * 1.3)
    follow = np.diff(times)[np.diff(times) < 400_000]
    follow = follow[np.abs(follow - np.rint(follow / SLOT_PS) * SLOT_PS) > 5]
    assert follow.min() >= 50_000
    assert (follow.mean() - 50_000) / 1000 == pytest.approx(40.0, rel=0.15)


def test_tags_stay_within_the_exposure() -> None:
    noisy = replace(
        DETECTOR, dark_count_probability=0.3, jitter_ps=400.0, delay_ps=-3_000, afterpulse_probability=0.3
    )
    for seed in range(20):
        clicks = expose(noisy, 0.5, 40, seed=seed)
        assert clicks.time_ps.min(initial=0) >= 0
        assert clicks.time_ps.max(initial=0) < 40 * SLOT_PS
        assert np.all(np.diff(clicks.time_ps) >= 0)


def test_an_exposure_of_no_length_is_empty() -> None:
    assert expose(replace(DETECTOR, dark_count_probability=0.1), 0.5, 0).time_ps.size == 0


def test_more_clicks_than_expected_find_room() -> None:
    """A chain of afterpulses, ten clicks per photon on average, overruns the first estimate of the buffers."""
    storm = replace(DETECTOR, afterpulse_probability=0.9, afterpulse_decay_ns=1.0)
    times = expose(storm, 1e-3, 4_000_000).time_ps
    light = int((np.abs(times - np.rint(times / SLOT_PS) * SLOT_PS) <= 3).sum())
    assert light > 3500
    assert within_five_sigma(times.size, 10 * light, 90 * light)
