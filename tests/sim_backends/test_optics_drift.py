"""What drifts in the ring: reproducible, exact at the start, as far and as fast as said; and what it does to the light."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from driven_ring import TEMPLATE, ring_content
from lit_ring import BIAS_UA, DETECTOR, PULSES, RING

from lab.testbed import TestbedError, parse_testbed
from sim_backends.bench import Bench
from sim_backends.bias_controllers.thorlabs_mbx import ThorlabsMBXTwin
from sim_backends.optics import CarverOptics, DetectorOptics, Ring, RingOptics
from sim_backends.optics_drift import Course, Drift, PhysicsClock, Wander, seeded
from sim_backends.optics_hidden import ring_of

HOUR_S, DAY_S = 3600.0, 86_400.0
TIMES_S = (60.0, HOUR_S, DAY_S, 10 * DAY_S)
BOTH = (DETECTOR, DETECTOR)
WITH_CARVER = replace(RING, carver=CarverOptics(rf_gain=16.0))


class Time:
    """A physics clock that a test turns."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def rings_at(t_s: float, **simulation: Any) -> Ring:
    data = ring_content(1 << 14)
    data["simulation"].update(simulation)
    return ring_of(parse_testbed(data, TEMPLATE), lambda: t_s)


def drifting(
    time: Time, drift: Drift, optics: RingOptics, detector: DetectorOptics, launch_db: float
) -> Ring:
    """Lit, all stations in bypass, the null followed."""
    ring = Ring(optics, (detector, detector), drift, time)
    ring.set_laser(2e-3, 1550.12)
    ring.set_carver_drive(PULSES)
    ring.set_carver_bias(optics.carver.null_bias_v, follows=True)
    ring.set_launch("launch", launch_db)
    ring.set_detectors(BIAS_UA, True)
    return ring


def look(ring: Ring) -> dict[str, Any]:
    """Everything that drifts."""
    light = ring.light()
    return asdict(light.optics) | {
        "detectors": [asdict(each) for each in light.detectors],
        "gaps": light.gaps,
    }


# Reproducible, exact, or off


def test_one_seed_and_time_make_one_ring() -> None:
    for t_s in TIMES_S:
        assert look(rings_at(t_s)) == look(rings_at(t_s))
        assert look(rings_at(t_s)) != look(rings_at(t_s, ring_seed=2))
        assert look(rings_at(t_s)) != look(rings_at(t_s + 60.0))


def test_asking_at_other_times_changes_nothing() -> None:
    time = Time()
    data = ring_content(1 << 14)
    ring = ring_of(parse_testbed(data, TEMPLATE), time)
    for time.s in (0.0, DAY_S, 77.0, HOUR_S):
        seen = look(ring)
    assert seen == look(rings_at(HOUR_S))


def test_at_the_start_the_ring_is_what_was_surveyed_to_the_last_bit() -> None:
    ring = rings_at(0.0)
    light = ring.light()
    assert light.optics == ring.optics
    assert light.detectors == ring.detectors
    assert light.gaps == (1.0,), "nobody is in: one gap around the loop"
    late = rings_at(HOUR_S)
    assert (late.optics, late.detectors) == (ring.optics, ring.detectors), "of the start, whenever asked for"
    assert late.light().optics != ring.optics


def test_without_drift_nothing_ever_changes() -> None:
    still = look(rings_at(0.0, drift=0.0))
    for t_s in TIMES_S:
        assert look(rings_at(t_s, drift=0.0)) == still


def test_twice_the_drift_is_twice_as_far() -> None:
    start = rings_at(0.0).optics
    once, twice = (rings_at(HOUR_S, drift=scale).light().optics for scale in (1.0, 2.0))
    for name in ("relay_loss_db", "circulator_db", "loop_phase_rad", "length_km"):
        offset = getattr(once, name) - getattr(start, name)
        assert offset != 0
        assert getattr(twice, name) - getattr(start, name) == pytest.approx(2 * offset, rel=1e-6)


def test_what_drifts_by_itself_does_not_drift_alike() -> None:
    start, later = rings_at(0.0).light(), rings_at(HOUR_S).light()
    gone = [
        b.modulator_db - a.modulator_db for a, b in zip(start.optics.users, later.optics.users, strict=True)
    ]
    warmed = [b.v_pi_v / a.v_pi_v for a, b in zip(start.optics.users, later.optics.users, strict=True)]
    assert len(set(gone)) == len(set(warmed)) == 4
    assert later.detectors[0].efficiency_max / start.detectors[0].efficiency_max != pytest.approx(
        later.detectors[1].efficiency_max / start.detectors[1].efficiency_max, rel=1e-9
    )
    fibre = Drift(seed=1, scale=1.0).stretches(RING, HOUR_S)
    assert not np.allclose(fibre[1], fibre[2]), "both a kilometre and a half long"


# As far and as fast as said


def test_a_value_walks_between_its_periods_and_stays_beyond() -> None:
    """Mean square offset over many seeds: grows like time, as a random walk's, and is rms^2 in the long run."""
    course = Course(rms=2.0, fastest_s=60.0, slowest_s=60.0 * 2**12)
    wanders = [Wander(course, seeded(seed, "walk")) for seed in range(400)]
    assert all(wander(0.0) == 0.0 for wander in wanders)

    def mean_square(t_s: float) -> float:
        return float(np.mean([wander(t_s) ** 2 for wander in wanders]))

    assert mean_square(course.slowest_s * 40) == pytest.approx(course.rms**2, rel=0.2)
    short, long = 600.0, 600.0 * 2**5
    assert mean_square(long) / mean_square(short) == pytest.approx(2**5, rel=0.3)
    assert mean_square(1.0) / mean_square(2.0) == pytest.approx(0.25, rel=0.05), "smooth below the fastest"


def test_polarisation_costs_tenths_of_a_decibel_in_minutes_and_decibels_in_hours() -> None:
    """Median over fifty rings of what the three gaps of a pair lose together, nobody holding."""

    def lost_db(t_s: float) -> float:
        lost = []
        for seed in range(50):
            ring = Ring(RING, BOTH, Drift(seed, 1.0), lambda: t_s)
            for user in ("alice", "bob"):
                ring.set_switch(user, False)
            lost.append(-10 * math.log10(math.prod(ring.light().gaps)))
        return float(np.median(lost))

    assert 0.05 < lost_db(600.0) < 0.5
    assert 1.0 < lost_db(4 * HOUR_S) < 8.0


def test_fibre_grows_by_forty_picoseconds_a_kilometre_and_kelvin() -> None:
    """All delays follow one room: the loop's change over a station's is their lengths; +-1 K is 240 ps of 6 km."""
    start, later = (rings_at(t_s).light().optics for t_s in (0.0, 6 * HOUR_S))
    ps_per_km = 1.468 / 299_792_458.0 * 1e15
    around_ps = (later.length_km - start.length_km) * ps_per_km
    station_ps = (later.users[1].position_km - start.users[1].position_km) * ps_per_km
    assert station_ps / around_ps == pytest.approx(start.users[1].position_km / start.length_km, rel=1e-6)
    kelvin = around_ps / (40.0 * start.length_km)
    assert 0.05 < abs(kelvin) < 3.0
    offsets = []
    for seed in range(60):
        optics = Drift(seed, 1.0).optics(RING, DAY_S * 3.3)
        offsets.append((optics.length_km - 6.0) * ps_per_km / 240.0)
    assert 0.4 < float(np.sqrt(np.mean(np.square(offsets)))) < 1.1


def test_losses_move_by_tenths_of_a_decibel_within_hours() -> None:
    moved = [abs(Drift(seed, 1.0).optics(RING, 8 * HOUR_S).users[0].modulator_db - 3.7) for seed in range(60)]
    assert 0.03 < float(np.median(moved)) < 0.2
    assert max(moved) < 0.6


def test_the_physics_clock_runs_as_many_times_faster() -> None:
    bench = Time()
    bench.s = 1000.0
    clock = PhysicsClock(bench, 1440.0, 1000.0)
    assert clock() == 0.0
    bench.s += 60.0
    assert clock() == pytest.approx(DAY_S)


def test_a_bench_drifts_by_its_physics_clock_and_not_by_its_own() -> None:
    data = ring_content(1 << 14)
    data["simulation"]["time_scale"] = 1e5
    bench = Bench(parse_testbed(data, TEMPLATE))
    first = bench.ring.light().optics
    assert bench.ring.light().optics != first
    time = Time()
    held = Bench(parse_testbed(data, TEMPLATE), physics=time)
    assert held.ring.light().optics == held.ring.light().optics == held.ring.optics
    time.s = HOUR_S
    assert held.ring.light().optics == rings_at(HOUR_S).light().optics


# What it does to the light


def test_the_loop_phase_moves_light_from_d1_to_d2() -> None:
    """D2 of both, dark counts and residue aside: sin^2 of half the phase that has drifted."""
    optics = replace(RING, visibility=1.0, carver=CarverOptics(rf_gain=16.0, extinction_db=math.inf))
    time = Time()
    drift = Drift(seed=3, scale=1.0, loop_phase_rad=0.6)
    ring = drifting(time, drift, optics, replace(DETECTOR, dark_count_probability=0.0), 90.0)
    phases = set()
    for time.s in (0.0, HOUR_S, 5 * HOUR_S, 20 * HOUR_S):
        first, second = ring.detector_count_rates()
        phase = ring.light().optics.loop_phase_rad
        phases.add(phase)
        share = [each.efficiency_max for each in ring.light().detectors]
        lit_2 = (second / share[1]) / (first / share[0] + second / share[1])
        assert lit_2 == pytest.approx(math.sin(phase / 2) ** 2, rel=1e-3, abs=1e-9)
    assert len(phases) == 4
    assert max(map(abs, phases)) > 0.1


def test_a_followed_null_keeps_the_extinction_that_a_fixed_bias_loses() -> None:
    """A bias d from the null puts sin^2(pi d / (2 V_pi)) between the pulses, on top of the residue."""
    built = replace(RING, carver=CarverOptics(rf_gain=16.0, extinction_db=35.0, null_bias_v=1.0))
    drift, time = Drift(seed=4, scale=1.0), Time()
    extinction = {}
    for follows in (True, False):
        time.s = 0.0
        ring = Ring(built, BOTH, drift, time)
        ring.set_carver_drive(PULSES)
        ring.set_carver_bias(1.0, follows)
        trains = []
        for time.s in (0.0, 6 * HOUR_S):
            trains.append(ring.light().train)
        assert trains[0].flat / trains[0].pulsed == pytest.approx(10.0 * 10**-3.5, rel=1e-6)
        extinction[follows] = trains[1].flat / trains[1].pulsed
    off_v = drift.null_bias_v(built.carver, 6 * HOUR_S) - 1.0
    assert abs(off_v) > 0.1
    assert extinction[True] == pytest.approx(10.0 * 10**-3.5, rel=1e-9)
    between = 24 / 25 * math.sin(math.pi * off_v / 8) ** 2
    pulse = 1 / 25 * math.sin(math.pi * (4.0 - off_v) / 8) ** 2
    assert extinction[False] == pytest.approx(10.0 * 10**-3.5 + between / pulse, rel=1e-6)


def test_the_bias_controller_finds_the_null_where_it_has_gone() -> None:
    """The twin's own loop, on nothing but the light: its voltage is the null's, hours later too."""
    built = replace(RING, carver=CarverOptics(rf_gain=16.0, null_bias_v=0.4))
    drift, time = Drift(seed=4, scale=1.0), Time()
    ring = Ring(built, BOTH, drift, time)
    ring.set_laser(2e-3, 1550.12)
    ring.set_carver_drive(PULSES)
    twin = ThorlabsMBXTwin(power=ring.carver_power_w, on_bias=ring.set_carver_bias)
    twin._receive(b"MZM:MODE: 2\n")
    nulls_v = []
    for step in range(200):
        time.s = step * 144.0
        twin.tick()
        nulls_v.append(drift.null_bias_v(built.carver, time.s))
        assert twin.state()["bias_v"] == pytest.approx(nulls_v[-1], abs=0.01)
    assert max(nulls_v) - min(nulls_v) > 0.2


def test_light_that_comes_back_by_itself_can_blind() -> None:
    """Nobody touches anything: the fibre turns back, and a detector that bore the lossy ring latches."""
    time, drift = Time(), Drift(seed=5, scale=1.0, controlled=("relay", "alice", "bob", "carol", "dave"))
    ring = drifting(time, drift, WITH_CARVER, replace(DETECTOR, latch_rate_hz=math.inf), 60.0)
    passed = {}
    for time.s in (hours * HOUR_S for hours in range(12)):
        passed[math.prod(ring.light().gaps)] = time.s
    time.s = passed[min(passed)]
    bears_hz = 2 * sum(ring.detector_count_rates())
    careful = drifting(time, drift, WITH_CARVER, replace(DETECTOR, latch_rate_hz=bears_hz), 60.0)
    assert careful.latched() == (False, False)
    time.s = passed[max(passed)]
    assert careful.detector_count_rates()[0] == 0.0
    assert careful.latched()[0]


# The file


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("drift", -0.1, "greater than or equal to 0"),
        ("drift", 11.0, "less than or equal to 10"),
        ("time_scale", 0.0, "greater than 0"),
        ("time_scale", 1e6, "less than or equal to 100000"),
        ("time_scale", "fast", "valid number"),
        ("loop_phase_drift_rad", -1.0, "greater than or equal to 0"),
        ("loop_phase_drift_rad", 1e-9, "not plausible"),
    ],
)
def test_a_drift_that_cannot_be_is_refused_with_its_place(key: str, value: object, text: str) -> None:
    data = ring_content(1 << 14)
    data["simulation"][key] = value
    with pytest.raises(TestbedError, match=rf"simulation\.{key}: .*{text}"):
        parse_testbed(data, TEMPLATE)
