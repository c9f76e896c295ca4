"""The ring against formulas written here: times, losses, phases, scattered light, clocks, latching."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from lit_ring import (
    AMPLITUDE_VPP,
    DETECTOR,
    FIRST_PS,
    FULL_SCALE_RAD,
    POSITIONS_KM,
    PS_PER_KM,
    RING,
    SAMPLE_PS,
    SLOT_PS,
    STATIONS,
    count,
    frame,
    lit,
    passage_ps,
    symbols,
)

from sim_backends import optics_kernel
from sim_backends.optics_way import StationSetting, around, backscattered

PHOTON_J = 6.62607015e-34 * 299_792_458.0 / 1550.12e-9
STATION_DB = 0.6 + 3.0103 + 3.7 + 1.0 + 3.0103 + 0.6
"""Switch, tap, modulator, attenuator, tap, switch."""


def pair_drives(first=None, second=None, **how):
    a, b = symbols(1) if first is None else first, symbols(2) if second is None else second
    return a, b, {"alice": frame("alice", "ccw", a, **how), "bob": frame("bob", "cw", b, **how)}


# Times


def test_the_bundled_stations_keep_the_two_directions_apart():
    apart_ns = [(passage_ps(user, "cw") - passage_ps(user, "ccw")) % SLOT_PS * 1e-3 for user in POSITIONS_KM]
    assert apart_ns == pytest.approx([4.76, 4.92, 5.08, 5.24], abs=0.005)
    assert pytest.approx(29_380_330, abs=10) == 6.0 * PS_PER_KM


def test_a_symbol_meets_its_pulse_and_no_other():
    """Bob rests; alice turns one pulse by pi: that slot alone clicks in D2."""
    mark = 1000
    turned = np.zeros(4096, np.int64)
    turned[mark] = 1
    optics = replace(RING, visibility=1.0, carver=replace(RING.carver, extinction_db=math.inf))
    ring = lit(optics, replace(DETECTOR, dark_count_probability=0.0), launch_db=36.0)
    clicks = ring.expose({"alice": frame("alice", "ccw", turned)}, int(4096 * SLOT_PS + 3e7), seed=3)
    slots = np.rint((clicks.of(1) - FIRST_PS - 6.0 * PS_PER_KM) / SLOT_PS)
    assert set(slots.tolist()) == {mark}


@pytest.mark.parametrize("late_ps", [0.0, 5_000.0, 10_000.0])
def test_a_delay_that_is_half_a_slot_off_makes_chance_of_everything(late_ps):
    a, b, drives = pair_drives()
    late = drives["alice"]
    drives["alice"] = replace(late, start_ps=late.start_ps + late_ps)
    counted = count(lit(), a, b, drives)
    assert counted.qber < 0.02 if late_ps == 0 else abs(counted.qber - 0.5) < 0.03


def test_clocks_that_share_nothing_run_slots_apart_within_a_frame():
    """1 ppm over 2^20 slots of 10 ns is 10 ns: one slot."""
    a, b, drives = pair_drives()
    own = drives["alice"]
    drives["alice"] = replace(own, sample_ps=own.sample_ps * (1 + 1e-6))
    assert 0.2 < count(lit(), a, b, drives).qber < 0.5


@pytest.mark.parametrize("shift_ps", [1_234.0, -3_000.0])
def test_pulses_of_a_clock_that_ran_apart_come_later_or_earlier(shift_ps):
    ring = lit()
    plain, moved = (ring.expose({}, 10**9, seed=1, carver_shift_ps=by_ps) for by_ps in (0.0, shift_ps))
    came_ps, comes_ps = (np.median(clicks.of(0) % SLOT_PS) for clicks in (plain, moved))
    off_ps = (comes_ps - came_ps - shift_ps + SLOT_PS / 2) % SLOT_PS - SLOT_PS / 2
    assert off_ps == pytest.approx(0.0, abs=30)


# Losses and balance


@pytest.mark.parametrize("split_db", [(0.0, 0.0), (3.0, 0.0), (0.0, 3.0), (7.0, 2.0)])
def test_both_pulses_arrive_equal_however_attenuation_is_split(split_db):
    """mu at each output times the transmission home is the same for both."""
    ring = lit(launch_db=50.0)
    for user, attenuation_db in zip(("alice", "bob"), split_db, strict=True):
        ring.set_user_attenuation(user, attenuation_db)
    arrives = [
        ring.mean_photon_number(user, direction) * ring.home_transmission(user, direction)
        for user, direction in (("alice", "ccw"), ("bob", "cw"))
    ]
    assert arrives[0] == pytest.approx(arrives[1], rel=1e-12)


def test_sensors_and_outputs_follow_the_parts():
    """Clockwise light of 2 mW: carver, circulator, coupler, fibre, and half of what the switch lets in."""
    ring = lit(launch_db=50.0)
    entering_w = 2e-3 * (0.4 / 10) * 10 ** (-(3.5 + 50.0 + 0.8) / 10) / 2
    cw_w = entering_w * 10 ** (-(0.75 * 0.2 + 0.6) / 10) / 2
    residue = 1 + 10 * 10**-3.5
    assert ring.sensor_power_w("alice", "cw") == pytest.approx(cw_w * residue, rel=1e-3)
    output_w = cw_w * 10 ** (-(3.7 + 1.0 + 3.0103 + 0.6) / 10)
    assert ring.mean_photon_number("alice", "cw") == pytest.approx(output_w / PHOTON_J * 1e-8, rel=1e-3)
    ring.set_user_attenuation("alice", 4.0)
    assert ring.sensor_power_w("alice", "cw") == pytest.approx(cw_w * residue, rel=1e-3)
    assert ring.mean_photon_number("alice", "cw") == pytest.approx(
        output_w / PHOTON_J * 1e-8 / 10**0.4, rel=1e-3
    )


def test_a_bypassed_station_costs_one_pass_of_its_switch():
    settings = {each.name: StationSetting(crossed=True) for each in STATIONS}
    assert -10 * math.log10(around(RING, settings)) == pytest.approx(1.2 + 4 * 0.6)
    settings["carol"] = StationSetting(crossed=False)
    assert -10 * math.log10(around(RING, settings)) == pytest.approx(1.2 + 3 * 0.6 + STATION_DB, abs=1e-3)


@pytest.mark.parametrize("launch_db", [56.0, 50.0])
def test_gain_and_error_rate_are_those_of_the_closed_form(launch_db):
    """P1 and P2 of two coherent pulses behind a coupler, x = eta mu, within five sigma; residue and scatter off."""
    optics = replace(RING, carver=replace(RING.carver, extinction_db=math.inf))
    detector = replace(DETECTOR, jitter_ps=0.0)
    ring = lit(optics, detector, launch_db=launch_db)
    n_slots = 1 << 22
    a, b, drives = pair_drives(symbols(1, n_slots), symbols(2, n_slots))
    x = ring.mean_photon_number("alice", "ccw") * ring.home_transmission("alice", "ccw")
    x *= detector.efficiency(20.0) * math.erf(500 / (400 / 2.3548) / math.sqrt(2))
    bright, dim = (x + x + 2 * 0.99 * x) / 2, (x + x - 2 * 0.99 * x) / 2
    dark = 1e-7
    p1 = (1 - dark) * math.exp(-dim) * (1 - (1 - dark) * math.exp(-bright))
    p2 = (1 - dark) * math.exp(-bright) * (1 - (1 - dark) * math.exp(-dim))
    counted = count(ring, a, b, drives)
    sifted = counted.right + counted.wrong
    assert sifted == pytest.approx((p1 + p2) * counted.of, abs=5 * math.sqrt(sifted))
    assert counted.wrong == pytest.approx(
        p2 * counted.of, abs=5 * math.sqrt(p2 * counted.of) + 0.0001 * sifted
    )


# Phases


def test_a_wrong_v_pi_is_an_error_of_every_phase():
    """A drive 5 % short: equal bits of X differ by nothing, pi is pi (1 - .05); errors as sin^2 of half of that."""
    a, b = symbols(1) % 2, np.zeros(1 << 20, np.int64)
    ring = lit(replace(RING, visibility=1.0, carver=replace(RING.carver, extinction_db=math.inf)))
    short = frame("alice", "ccw", a)
    counted = count(ring, a, b, {"alice": replace(short, amplitude_vpp=0.95 * AMPLITUDE_VPP)})
    expected = math.sin(math.pi * 0.05 / 2) ** 2 / 2
    sigma = math.sqrt(expected / (counted.right + counted.wrong))
    assert counted.qber == pytest.approx(expected, abs=5 * sigma + 2e-4)


@pytest.mark.parametrize(("position_ps", "residue_rad"), [(2_500.0, 0.080), (4_000.0, 0.009)])
def test_what_the_rise_time_leaves_on_the_other_direction(position_ps, residue_rad):
    """Alice turns every counter-clockwise pulse by pi; the clockwise ones keep pi exp(-t / tau), tau = 1.5 ns / ln 9."""
    tau_ps = 1500.0 / math.log(9)
    expected = math.pi * math.exp(-position_ps / tau_ps)
    assert expected == pytest.approx(residue_rad, rel=0.12)
    own = frame("alice", "ccw", np.ones(1 << 12, np.int64), position_ps=position_ps)
    ahead = optics_kernel.Ahead(np.array([40]), *(np.zeros(1) for _ in range(4)))
    met_rad = []
    for later_ps in (0.0, 5_000.0):
        at_ps = passage_ps("alice", "ccw") - own.start_ps + later_ps
        place = optics_kernel.Place(at_ps / SAMPLE_PS, SLOT_PS / SAMPLE_PS)
        samples = own.samples.view()
        samples.flags.writeable = False
        modulator = optics_kernel.Modulator(samples, FULL_SCALE_RAD, SAMPLE_PS / tau_ps, place, place)
        ahead.phase_rad[0] = 0.0
        optics_kernel.turn(modulator, place, 1.0, ahead)
        met_rad.append(ahead.phase_rad[0])
    assert met_rad[0] == pytest.approx(math.pi - expected, rel=1e-3)
    assert met_rad[1] == pytest.approx(expected, rel=0.01)


# Light that nobody wants


def test_backscatter_is_the_integral_over_the_lit_stretches():
    """S times the light that gets there and back, summed over short pieces of fibre."""
    optics = replace(RING, backscatter_db_per_m=72.0)
    settings = {each.name: StationSetting(crossed=each.name not in ("alice", "bob")) for each in STATIONS}
    for direction in ("cw", "ccw"):
        total, power, last_km = 0.0, 1.0, 0.0
        met = POSITIONS_KM.items() if direction == "cw" else reversed(POSITIONS_KM.items())
        stops = [(km if direction == "cw" else 6.0 - km, name) for name, km in met] + [(6.0, "")]
        for at_km, name in stops:
            pieces = np.linspace(last_km, at_km, 2001)
            middle = (pieces[1:] + pieces[:-1]) / 2 - last_km
            total += float(np.sum(10**-7.2 * np.diff(pieces) * 1e3 * (power * 10 ** (-0.02 * middle)) ** 2))
            power *= 10 ** (-0.02 * (at_km - last_km))
            power *= 10 ** (-(STATION_DB if name in ("alice", "bob") else 0.6) / 10) if name else 1.0
            last_km = at_km
        assert backscattered(optics, settings, direction) == pytest.approx(total, rel=0.05)


def test_backscatter_comes_at_any_time_half_to_each_detector():
    optics = replace(RING, backscatter_db_per_m=72.0, carver=replace(RING.carver, extinction_db=math.inf))
    quiet = replace(DETECTOR, dark_count_probability=0.0)
    with_it, without = (
        lit(optics, quiet, launch_db=50.0),
        lit(replace(optics, backscatter_db_per_m=math.inf), quiet),
    )
    without.set_launch("launch", 50.0)
    entering_w = 2e-3 * (0.4 / 10) * 10 ** (-(3.5 + 50.0 + 0.8) / 10) / 2
    settings = {each.name: StationSetting(crossed=each.name not in ("alice", "bob")) for each in STATIONS}
    back = sum(backscattered(optics, settings, direction) for direction in ("cw", "ccw"))
    rate = entering_w * back / PHOTON_J * 10**-0.3 * 0.75 / 2
    more = np.array(with_it.detector_count_rates()) - np.array(without.detector_count_rates())
    assert more == pytest.approx([rate, rate], rel=0.05)


def test_a_carver_that_nobody_holds_gives_light_without_pulses():
    ring = lit(launch_db=70.0)
    before = ring.mean_photon_number("alice", "ccw")
    ring.set_carver_bias(2.0)
    assert before > 0
    assert ring.mean_photon_number("alice", "ccw") == 0.0
    assert ring.sensor_power_w("alice", "cw") > 0


# Detectors


def test_too_much_light_latches_until_the_bias_is_cycled():
    detector = replace(DETECTOR, latch_rate_hz=3e7)
    ring = lit(detector=detector, launch_db=56.0)
    assert ring.latched() == (False, False)
    for user in ("alice", "bob"):
        ring.set_switch(user, True)
    assert ring.latched()[0]
    for user in ("alice", "bob"):
        ring.set_switch(user, False)
    assert ring.latched()[0]
    assert ring.detector_count_rates()[0] == 0.0
    ring.set_detectors((20.0, 20.0), False)
    ring.set_detectors((20.0, 20.0), True)
    assert ring.latched() == (False, False)
    assert ring.detector_count_rates()[0] > 1e5


def test_opening_everything_before_a_station_is_in_blinds():
    """Two stations in bypass put about 1e8 photons a second on the detectors."""
    taken_in, bypassed = lit(), lit(pair=())
    assert sum(taken_in.detector_count_rates()) < 1e6
    assert sum(bypassed.detector_count_rates()) > 3e7
