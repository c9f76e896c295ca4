"""The light against closed forms that the model does not contain.

Every case plays random symbols of a pair, counts exactly-one-click slots inside the receiver's gate and compares gain
and error rate with the formulas of two coherent pulses on one coupler, within five standard deviations of the count.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lit_ring import (
    AMPLITUDE_VPP,
    BIAS_UA,
    DETECTOR,
    FIRST_PS,
    RING,
    SAMPLE_PS,
    SLOT_PS,
    Counted,
    count,
    frame,
    lit,
    passage_ps,
)

from sim_backends import optics_kernel
from sim_backends.optics import DetectorOptics, Direction, Drive, Ring, RingOptics

CLEAN = replace(RING, visibility=1.0, carver=replace(RING.carver, rf_gain=16.0, extinction_db=math.inf))
"""Two pulses, a coupler and nothing else."""
NARROW = Drive(np.eye(1, 10_000, dtype=np.float32)[0], 1.0, 0.5, FIRST_PS - 0.5)
"""Pulses of a picosecond, so that no tag leaves the gate."""
OWN: dict[str, Direction] = {"alice": "ccw", "bob": "cw"}
BASIS = {"X": (0, 2), "Y": (2, 4)}


def dimmed(optics: RingOptics, x: float, detector: DetectorOptics = DETECTOR) -> Ring:
    """A lit ring in which ``x`` photons of each pulse are detected per slot where the coupler is balanced."""
    ring = lit(optics, detector, launch_db=0.0)
    ring.set_carver_drive(NARROW)
    arriving = sum(
        ring.mean_photon_number(user, way) * ring.home_transmission(user, way) for user, way in OWN.items()
    )
    ring.set_launch("launch", 10 * math.log10(arriving * detector.efficiency(BIAS_UA[0]) / (2 * x)))
    return ring


def of_basis(basis: str, seed: int, n_slots: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(*BASIS[basis], n_slots)


def played(ring: Ring, basis: str, n_slots: int = 1 << 20, seed: int = 7) -> Counted:
    a, b = of_basis(basis, 2 * seed, n_slots), of_basis(basis, 2 * seed + 1, n_slots)
    return count(ring, a, b, {"alice": frame("alice", "ccw", a), "bob": frame("bob", "cw", b)}, seed=seed)


def theory(x: float, visibility: float, dark: float) -> tuple[float, float]:
    """Gain and error rate of two pulses of ``x`` detected photons each."""
    bright, dim = x * (1 + visibility), x * (1 - visibility)
    right = (1 - dark) * math.exp(-dim) * (1 - (1 - dark) * math.exp(-bright))
    wrong = (1 - dark) * math.exp(-bright) * (1 - (1 - dark) * math.exp(-dim))
    return right + wrong, wrong / (right + wrong)


def assert_five_sigma(observed: int, trials: int, probability: float) -> None:
    """``observed`` of ``trials`` fits a binomial law."""
    sigma = math.sqrt(trials * probability * (1 - probability))
    assert abs(observed - trials * probability) <= 5 * sigma + 1, (
        f"{observed} of {trials}, expected {trials * probability:.1f} +- {sigma:.1f}"
    )


def assert_matches(counted: Counted, x: float, visibility: float, dark: float) -> None:
    gain, qber = theory(x, visibility, dark)
    sifted = counted.right + counted.wrong
    assert_five_sigma(sifted, counted.of, gain)
    # The rise of the drivers leaves 9 mrad where the other direction passes: 2e-5 of error at most.
    sigma = math.sqrt(sifted * qber * (1 - qber))
    assert abs(counted.wrong - sifted * qber) <= 5 * sigma + 2e-4 * sifted + 1


@pytest.mark.parametrize("basis", ["X", "Y"])
@pytest.mark.parametrize("visibility", [1.0, 0.99, 0.96, 0.9])
@pytest.mark.parametrize("x", [3e-2, 3e-3, 3e-4])
def test_gain_and_error_rate_over_light_and_visibility(x: float, visibility: float, basis: str) -> None:
    ring = dimmed(replace(CLEAN, visibility=visibility), x)
    assert_matches(played(ring, basis), x, visibility, 1e-7)


@pytest.mark.long
@pytest.mark.parametrize("x", [1.58e-3, 2.8e-4])
def test_gain_and_error_rate_at_full_size(x: float) -> None:
    """1e9 pulses in frames of 2^22: eight frames of symbols, each lit thirty times, as symbols cost more than light."""
    ring = dimmed(replace(CLEAN, visibility=0.99), x)
    parts = []
    for first in range(0, 240, 30):
        a, b = of_basis("X", 2 * first, 1 << 22), of_basis("X", 2 * first + 1, 1 << 22)
        drives = {"alice": frame("alice", "ccw", a), "bob": frame("bob", "cw", b)}
        parts += [count(ring, a, b, drives, seed=first + again) for again in range(30)]
    total = Counted(
        sum(part.right for part in parts), sum(part.wrong for part in parts), sum(part.of for part in parts)
    )
    assert_matches(total, x, 0.99, 1e-7)


def test_strong_light_and_many_dark_counts() -> None:
    """Terms of second order: double clicks, and dark counts in the slot of a photon."""
    noisy = replace(DETECTOR, dark_count_probability=0.02)
    counted = played(dimmed(replace(CLEAN, visibility=0.95), 0.5, noisy), "X", 1 << 18)
    assert_matches(counted, 0.5, 0.95, 0.02)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_phase_noise_multiplies_the_visibility(sigma: float) -> None:
    """V e^{-sigma^2/2}."""
    ring = dimmed(replace(CLEAN, visibility=0.99, phase_noise_rad=sigma), 5e-3)
    assert_matches(played(ring, "Y"), 5e-3, 0.99 * math.exp(-(sigma**2) / 2), 1e-7)


@pytest.mark.parametrize("offset", [0.2, -0.4, math.pi])
def test_a_loop_phase_multiplies_the_visibility_by_its_cosine(offset: float) -> None:
    """V cos phi0; at pi the detectors swap their roles."""
    ring = dimmed(replace(CLEAN, visibility=0.98, loop_phase_rad=offset), 5e-3)
    assert_matches(played(ring, "X"), 5e-3, 0.98 * math.cos(offset), 1e-7)


def test_a_coupler_off_the_middle_costs_visibility() -> None:
    """Either way takes one transmission and one reflection to D1: equal there, and T^2 against R^2 at D2.

    With equal phases D2 gets (T - R)^2 x_total, D1 4 R T x_total; with opposite ones the reverse.
    """
    share, x = 0.6, 5e-3
    ring = dimmed(replace(CLEAN, splitter_ratio=share), x)
    n_slots = 1 << 20
    still = np.zeros(n_slots, np.int64)
    drives = {"alice": frame("alice", "ccw", still)}
    counted = count(ring, still, still, drives)
    wrong = (2 * share - 1) ** 2
    assert_five_sigma(counted.right, n_slots, 1 - math.exp(-2 * x * (1 - wrong)))
    assert_five_sigma(counted.wrong, n_slots, 1 - math.exp(-2 * x * wrong))


def test_different_bases_share_the_clicks_equally() -> None:
    """A quarter turn apart both detectors click alike."""
    n_slots = 1 << 18
    ring = dimmed(CLEAN, 5e-3)
    quarter = frame("alice", "ccw", of_basis("Y", 1, n_slots))
    half = frame("bob", "cw", of_basis("X", 2, n_slots))
    clicks = ring.expose({"alice": quarter, "bob": half}, int(n_slots * SLOT_PS) + 10**8, seed=5)
    playing = clicks.time_ps > FIRST_PS + 2.94e7
    playing &= clicks.time_ps < FIRST_PS + 2.938e7 + n_slots * SLOT_PS
    assert_five_sigma(int((clicks.detector[playing] == 1).sum()), int(playing.sum()), 0.5)


def test_a_modulator_acts_on_both_directions_each_at_its_own_time() -> None:
    """Alice turns one direction, or the other, or both at once: what both get cancels in the loop."""
    n_slots = 2000
    ring = dimmed(CLEAN, 0.5, replace(DETECTOR, dark_count_probability=0.0))
    pi = np.ones(n_slots, np.int64)

    def shares(drive: Drive) -> list[int]:
        clicks = ring.expose({"alice": drive}, int(n_slots * SLOT_PS + 2.9e7), seed=4)
        inside = clicks.time_ps > FIRST_PS + 2.94e7
        return [int((clicks.detector[inside] == d).sum()) for d in (0, 1)]

    own, other = frame("alice", "ccw", pi), frame("alice", "cw", pi)
    start_ps = passage_ps("alice", "cw") - 1000.0
    level = float(own.samples.max())
    steady = Drive(np.full(4 * n_slots + 8000, level, np.float32), SAMPLE_PS, AMPLITUDE_VPP, start_ps)
    for drive in (own, other):
        d1, d2 = shares(drive)
        assert d2 > 500
        assert d1 <= 2
    d1, d2 = shares(steady)
    assert d1 > 500
    assert d2 <= 2


def test_clicks_are_spread_evenly_over_the_slots() -> None:
    """Chi-square over 64 stretches of a frame, with a bound much above the least one as well."""
    for margin in (1.0, 3.7):
        n_slots = 1 << 20
        ring = dimmed(replace(CLEAN, thinning_margin=margin), 0.01)
        clicks = ring.expose({}, int(n_slots * SLOT_PS), seed=21)
        observed = np.histogram(clicks.time_ps, bins=64, range=(0, n_slots * SLOT_PS))[0]
        mean = observed.mean()
        chi2 = float(((observed - mean) ** 2 / mean).sum())
        assert mean > 300
        assert abs(chi2 - 63) < 5 * math.sqrt(2 * 63)


@pytest.mark.parametrize("margin", [1.0, 1.3, 2.0, 10.0])
def test_the_result_does_not_depend_on_the_thinning_bound(margin: float) -> None:
    """A looser bound proposes more candidates and rejects them again."""
    ring = dimmed(replace(CLEAN, visibility=0.9, thinning_margin=margin), 0.15)
    assert_matches(played(ring, "X", 1 << 18), 0.15, 0.9, 1e-7)


def test_detectors_of_different_efficiency_are_thinned_apart() -> None:
    """The bound belongs to the better detector; the other one must not profit from it."""
    n_slots = 1 << 18
    pair = (replace(DETECTOR, efficiency_max=0.9), replace(DETECTOR, efficiency_max=0.3))
    for loop_rad, detector in ((0.0, 0), (math.pi, 1)):
        ring = Ring(replace(CLEAN, loop_phase_rad=loop_rad), pair)
        ring.set_laser(1.0, 1550.0)
        ring.set_carver_drive(NARROW)
        ring.set_detectors(BIAS_UA, True)
        ring.set_launch("launch", 60.0)
        x = 2 * ring.mean_photon_number("alice", "cw") * ring.home_transmission("alice", "cw")
        clicks = ring.expose({}, int(n_slots * SLOT_PS), seed=9)
        assert clicks.of(1 - detector).size < 10
        efficiency = pair[detector].efficiency_max
        assert_five_sigma(clicks.of(detector).size, n_slots, 1 - math.exp(-x * efficiency))


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    ring = dimmed(replace(CLEAN, visibility=0.9, phase_noise_rad=0.1), 0.05)
    first, again, other = (ring.expose({}, 10**9, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.time_ps, again.time_ps)
    assert np.array_equal(first.detector, again.detector)
    assert not np.array_equal(first.time_ps[:50], other.time_ps[:50])


def test_count_rates_agree_with_the_clicks() -> None:
    """Phase noise, loop phase, residue, scatter, leak, dark counts, dead time and afterpulses; weak light."""
    optics = replace(
        RING,
        visibility=0.9,
        phase_noise_rad=0.8,
        loop_phase_rad=0.5,
        backscatter_db_per_m=72.0,
        leak_db=55.0,
        leak_delay_ps=5_000.0,
    )
    detector = replace(DETECTOR, dark_count_probability=1e-4, dead_time_ns=20.0, afterpulse_probability=0.05)
    ring = lit(optics, detector, launch_db=54.0)
    clicks = ring.expose({}, 5 * 10**10, seed=6)
    for number, rate in enumerate(ring.detector_count_rates()):
        expected = rate * 0.05
        assert abs(clicks.of(number).size - expected) < 5 * math.sqrt(1.1 * expected)


def test_bright_light_saturates_at_the_dead_time_and_does_not_hang() -> None:
    """2 mW and no attenuation: a click per 20 ns and detector at most."""
    detector = replace(DETECTOR, dead_time_ns=20.0)
    ring = lit(replace(RING, loop_phase_rad=0.7), detector, pair=(), launch_db=0.0)
    clicks = ring.expose({}, 10**10, seed=1)
    for number in (0, 1):
        assert 0.9 * 5e5 < clicks.of(number).size <= 5e5 + 1


def test_a_third_station_that_plays_is_refused_and_a_bypassed_one_is_not_seen() -> None:
    ring = dimmed(CLEAN, 0.3)
    pi = np.ones(1000, np.int64)
    drives = {"alice": frame("alice", "ccw", pi), "carol": frame("carol", "ccw", pi)}
    clicks = ring.expose(drives, 4 * 10**7, seed=3)
    assert clicks.of(1).size > 100
    ring.set_switch("carol", False)
    with pytest.raises(ValueError, match="two stations in the ring can modulate at once"):
        ring.expose({**drives, "bob": frame("bob", "cw", pi)}, 10**7, seed=3)


def test_a_waveform_of_another_type_is_refused() -> None:
    drive = Drive(np.zeros(4), SAMPLE_PS, AMPLITUDE_VPP)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32"):
        dimmed(CLEAN, 0.1).expose({"alice": drive}, 10**7, seed=0)


def test_a_drive_does_not_show_its_samples() -> None:
    assert repr(Drive(np.zeros(2, np.float32), SAMPLE_PS, 0.5)) == "Drive(2 samples of 5000 ps, 0.5 Vpp)"


def test_an_unknown_user_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no user 'eve' in the ring; there are alice, bob, carol, dave"):
        dimmed(CLEAN, 0.1).set_user_attenuation("eve", 3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visibility": 1.2}, "visibility must lie in 0..1"),
        ({"splitter_ratio": 1.0}, "splitter_ratio must lie between"),
        ({"fibre_loss_db_per_km": -0.2}, "fibre_loss_db_per_km must not be negative"),
        ({"polarizer_db": -0.1}, "polarizer_db must not be negative"),
        ({"thinning_margin": 0.5}, "thinning_margin must be at least 1"),
        ({"users": RING.users[::-1]}, "in ring order"),
        ({"users": (RING.users[0], RING.users[0])}, "distinct names"),
        ({"length_km": 4.0}, "strictly between 0 and 4.0 km"),
        ({"users": (replace(RING.users[0], tap_share=0.0), RING.users[1])}, "alice: tap_share"),
    ],
)
def test_a_ring_that_makes_no_sense_is_refused(change: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RING, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"efficiency_max": 1.1}, "efficiency_max must lie in 0..1"),
        ({"dark_count_probability": 1.0}, "a gate cannot always count"),
        ({"afterpulse_probability": 1.0}, "afterpulses must end"),
        ({"gate_ns": 0.0}, "gate_ns must be positive"),
        ({"dead_time_ns": -1.0}, "dead_time_ns must not be negative"),
        ({"recovery_ns": -1.0}, "recovery_ns must not be negative"),
        ({"jitter_ps": -1.0}, "jitter_ps must not be negative"),
        ({"dark_width_ua": 0.0}, "dark_width_ua must be positive"),
    ],
)
def test_a_detector_that_makes_no_sense_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DETECTOR, **change)


def test_many_threads_may_set_and_expose_at_once() -> None:
    """Every exposure sees one consistent state: all light or no light, never a mixture."""
    ring = dimmed(CLEAN, 0.5)
    sizes: list[int] = []
    stop = threading.Event()

    def toggle() -> None:
        while not stop.is_set():
            ring.set_launch("shutter", math.inf)
            ring.set_launch("shutter", 0.0)

    def expose(seed: int) -> None:
        sizes.extend(ring.expose({}, 10**7, seed=seed * 100 + k).time_ps.size for k in range(50))

    setter = threading.Thread(target=toggle)
    workers = [threading.Thread(target=expose, args=(seed,)) for seed in range(3)]
    for thread in (setter, *workers):
        thread.start()
    for worker in workers:
        worker.join()
    stop.set()
    setter.join()
    assert len(sizes) == 150
    assert all(size <= 2 or size > 400 for size in sizes)


class TestCoupler:
    """The coupler alone."""

    @settings(max_examples=100, deadline=None, derandomize=True)
    @example(light=[1.0, 1.0, 0.5], transmission=0.6, phase=0.3)
    @given(
        light=st.lists(st.floats(0, 10), min_size=3, max_size=3),
        transmission=st.floats(0.01, 0.99),
        phase=st.floats(-7, 7),
    )
    def test_conserves_energy_for_every_phase(
        self, light: Sequence[float], transmission: float, phase: float
    ) -> None:
        out = optics_kernel.split(optics_kernel.Fields(*light, transmission), phase)
        assert sum(out) == pytest.approx(sum(amplitude**2 for amplitude in light), abs=1e-9)
        assert min(out) >= -1e-9

    def test_equal_phases_light_d1(self) -> None:
        fields = optics_kernel.Fields(1.0, 1.0, 0.0, math.sqrt(0.5))
        assert optics_kernel.split(fields, 0.0) == pytest.approx((2.0, 0.0), abs=1e-12)
        assert optics_kernel.split(fields, math.pi) == pytest.approx((0.0, 2.0), abs=1e-12)

    @pytest.mark.parametrize(("cw", "ccw", "shares"), [(1.0, 0.0, (0.3, 0.7)), (0.0, 1.0, (0.7, 0.3))])
    def test_imbalance_has_the_right_sign(self, cw: float, ccw: float, shares: tuple[float, float]) -> None:
        """Of one way's light alone: clockwise is transmitted to D2, counter-clockwise to D1."""
        fields = optics_kernel.Fields(cw, ccw, 0.0, math.sqrt(0.7))
        assert optics_kernel.split(fields, 1.0) == pytest.approx(shares)
