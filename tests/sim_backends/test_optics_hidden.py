"""What a simulated ring hides: drawn from its seed, by name, around its order; and what a survey makes known."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from lit_ring import PS_PER_KM

import lab.testbed
from lab.needs import MODULATOR
from lab.testbed import Testbed, parse_testbed, read_testbed
from sim_backends.bench import Bench
from sim_backends.optics import Ring
from sim_backends.optics_hidden import Hidden, lines_of, ring_of
from sim_backends.powermeters.keysight_8163b import Keysight8163BTwin
from sim_backends.survey import surveyed

PATH = Path(lab.testbed.__file__).parent / "testbeds" / "simulated-four-node.toml"


def content(ring_seed: int = 1, spread: float = 1.0) -> dict[str, Any]:
    data = read_testbed(PATH)
    data["simulation"] = {**data["simulation"], "ring_seed": ring_seed, "spread": spread}
    return data


def order(ring_seed: int = 1, spread: float = 1.0) -> Testbed:
    return parse_testbed(content(ring_seed, spread), PATH)


def hidden_numbers(ring: Ring) -> dict[str, float]:
    """Every number of the ring by its place."""
    found: dict[str, float] = {}

    def collect(place: str, value: object) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                collect(f"{place}.{key}", each)
        elif isinstance(value, (list, tuple)):
            for number, each in enumerate(value):
                collect(f"{place}.{number}", each)
        elif isinstance(value, (int, float)):
            found[place] = float(value)

    collect("optics", asdict(ring.optics))
    collect("detectors", [asdict(each) for each in ring.detectors])
    return found


SPREAD = ("v_pi_v", "rf_gain", "modulator_db", "position_km", "attenuator_error_db", "attenuator_slope")
"""Of a station, never twice the same."""


def test_one_seed_makes_one_ring_and_another_seed_another() -> None:
    first, again, other = (ring_of(order(seed)) for seed in (1, 1, 2))
    assert (first.optics, first.detectors) == (again.optics, again.detectors)
    one, two = hidden_numbers(first), hidden_numbers(other)
    for name in SPREAD:
        for user in range(4):
            assert one[f"optics.users.{user}.{name}"] != two[f"optics.users.{user}.{name}"]
    for name in ("efficiency_max", "dark_count_probability", "delay_ps", "recovery_ns", "latch_rate_hz"):
        for detector in range(2):
            assert one[f"detectors.{detector}.{name}"] != two[f"detectors.{detector}.{name}"]
    for name in ("carver.null_bias_v", "carver.extinction_db", "polarizer_db", "leak_db", "loop_phase_rad"):
        assert one[f"optics.{name}"] != two[f"optics.{name}"]
    assert lines_of(order(1)).trigger_ps != lines_of(order(2)).trigger_ps


def test_the_users_and_detectors_of_a_ring_differ_from_each_other() -> None:
    ring = ring_of(order())
    for name in ("v_pi_v", "rf_gain", "modulator_db", "attenuator_error_db", "attenuator_slope"):
        assert len({getattr(station, name) for station in ring.optics.users}) == 4, name
    assert ring.detectors[0] != ring.detectors[1]
    lines = lines_of(order())
    assert len(set(lines.ppm.values())) == len(lines.ppm)
    assert max(abs(ppm) for ppm in lines.ppm.values()) <= 2.0


def test_a_draw_depends_on_its_name_alone() -> None:
    """One more part changes no other."""
    draw = Hidden(seed=3, spread=1.0)
    before = draw.within("alice v_pi", 0.05)
    draw.within("one more part", 1.0)
    assert draw.within("alice v_pi", 0.05) == before
    assert Hidden(seed=3, spread=0.5).within("alice v_pi", 0.05) == before / 2


@pytest.mark.parametrize("ring_seed", range(1, 6))
def test_what_was_built_lies_within_the_tolerances_of_its_parts(ring_seed: int) -> None:
    """What parts keep: V_pi and gain 5 %, attenuator 0.1 dB and 1 %, cables 20 ns, leakage 50 to 55 dB, 35 dB extinction."""
    built = order(ring_seed)
    ring, lines = ring_of(built), lines_of(built)
    for station in ring.optics.users:
        assert abs(station.v_pi_v / 4.0 - 1) <= 0.05
        assert abs(station.rf_gain / 20.0 - 1) <= 0.05
        assert abs(station.attenuator_error_db) <= 0.1
        assert abs(station.attenuator_slope) <= 0.01
    assert 50.0 <= ring.optics.leak_db <= 55.0
    assert 35.0 <= ring.optics.carver.extinction_db <= 38.0
    cables = list(lines.trigger_ps.values())
    assert max(cables) - min(cables) <= 40e3
    assert max(cables) != min(cables)


def test_without_spread_the_ring_is_exactly_what_was_ordered() -> None:
    for ring_seed in (1, 2):
        perfect = ring_of(order(ring_seed, spread=0.0))
        for station, km in zip(perfect.optics.users, (0.75, 2.25, 3.75, 5.25), strict=True):
            assert (station.position_km, station.v_pi_v, station.rf_gain, station.modulator_db) == (
                km,
                4.0,
                20.0,
                3.7,
            )
            assert (station.attenuator_error_db, station.attenuator_slope) == (0.0, 0.0)
        assert perfect.optics.fibre_loss_db_per_km == 0.2
        assert (perfect.optics.relay_loss_db, perfect.optics.polarizer_db, perfect.optics.loop_phase_rad) == (
            3.0,
            0,
            0,
        )
        assert perfect.optics.carver.extinction_db == 35.0
        for detector in perfect.detectors:
            assert (detector.efficiency_max, detector.dark_count_probability) == (0.75, 1e-7)
        assert len(set(lines_of(order(ring_seed, spread=0.0)).trigger_ps.values())) == 1


def test_without_spread_sensors_read_what_is_there() -> None:
    """Noise and a zero that was never taken apart, a perfect ring has sensors of the right scale."""
    with Bench(order(spread=0.0)) as perfect, Bench(order()) as usual:
        scales = []
        for bench in (perfect, usual):
            heads = bench.twins["sensors_alice"]
            assert isinstance(heads, Keysight8163BTwin)
            scales.append([(sensor.scale, sensor.zero_w) for sensor in heads.sensors.all])
        assert scales[0] == [(1.0, 0.0), (1.0, 0.0)]
        assert all(scale != 1.0 and zero_w != 0.0 for scale, zero_w in scales[1])


def test_no_hidden_value_comes_from_the_public_section() -> None:
    """The public values of every kind are changed beyond recognition: the ring is the same to the last bit."""
    data = content()
    other = copy.deepcopy(data)
    other["ring"].update(fibre_loss_db_per_km=0.25, relay_loss_db=5.0, launch_loss_db=19.0)
    other["carver"].update(v_pi_v=5.0, rf_gain=9.0, extinction_db=31.0)
    other["calibration"].update(
        visibility=0.9, dark_count_probability=3e-7, detector_efficiency=0.5, loop_phase_rad=0.01
    )
    other["calibration"]["detector_delays_ps"] = [30_300_000, 30_300_500]
    for user in other["users"]:
        user.update(
            position_km=user["position_km"] + 0.05,
            v_pi_v=4.5,
            rf_gain=22.0,
            station_loss_db=13.0,
            sensor_to_output_db=[9.0, 9.1],
        )
    one, two = (ring_of(parse_testbed(each, PATH)) for each in (data, other))
    assert one.optics == two.optics
    assert one.detectors == two.detectors
    assert lines_of(parse_testbed(data, PATH)) == lines_of(parse_testbed(other, PATH))


@pytest.mark.parametrize("ring_seed", [1, 7])
def test_a_survey_writes_down_what_the_ring_became(ring_seed: int) -> None:
    """From an uncalibrated file: stations, phases, losses and delays within the digits that the file has."""
    data = content(ring_seed)
    known = surveyed(data, parse_testbed(data, PATH))
    public = parse_testbed(known, PATH)
    ring, lines = ring_of(public), lines_of(public)
    assert (ring.optics, ring.detectors) == (ring_of(parse_testbed(data, PATH)).optics, ring.detectors)
    for user, station in zip(public.users, ring.optics.users, strict=True):
        assert user.v_pi_v == pytest.approx(station.v_pi_v, rel=2e-5)
        assert user.rf_gain == pytest.approx(station.rf_gain, rel=1e-5)
        set_db = user.attenuation_db
        set_db += station.attenuator_slope * set_db + station.attenuator_error_db
        inside_db = station.modulator_db + station.attenuator_db + set_db
        assert user.station_loss_db == pytest.approx(2 * 0.6 + 20 * math.log10(2) + inside_db, abs=1e-3)
        assert user.sensor_to_output_db[0] == pytest.approx(inside_db + 10 * math.log10(2) + 0.6, abs=1e-3)
        awg = public.servers(user.name)[MODULATOR.name].instrument
        cw_ps, ccw_ps = user.modulator_delays_ps
        around_ps = (6.0 - 2 * station.position_km) * PS_PER_KM
        assert ccw_ps - cw_ps == pytest.approx(around_ps, abs=1.5)
        home_ps = public.calibration.detector_delays_ps[0] - (
            cw_ps + lines.trigger_ps[awg] + lines.latency_ps[awg]
        )
        way_ps = (6.0 - station.position_km) * PS_PER_KM + ring.detectors[0].delay_ps
        assert home_ps == pytest.approx(way_ps - lines.trigger_ps["tagger"], abs=2)
    assert public.ring.relay_loss_db == pytest.approx(
        ring.optics.relay_loss_db + ring.optics.polarizer_db, abs=1e-3
    )


def test_a_station_that_steps_aside_still_shows_its_sensor_some_light() -> None:
    """50 dB of crosstalk in the switch, hidden from nobody who looks at a sensor in bright light."""
    ring = ring_of(order(spread=0.0))
    ring.set_laser(2e-3, 1550.12)
    ring.set_switch("alice", False)
    taken_in = ring.sensor_power_w("alice", "cw")
    ring.set_switch("alice", True)
    assert ring.sensor_power_w("alice", "cw") / taken_in == pytest.approx(10 ** (-(50.0 - 0.6) / 10))


def test_an_attenuator_is_off_by_its_slope_and_its_offset() -> None:
    """From 1 to 11 dB the light falls by 10.1 dB where the slope is one per cent; the offset is there all along."""
    perfect = ring_of(order(spread=0.0))
    off = replace(perfect.optics.users[0], attenuator_slope=0.01, attenuator_error_db=-0.07)
    crooked = Ring(replace(perfect.optics, users=(off, *perfect.optics.users[1:])), perfect.detectors)
    photons: dict[float, list[float]] = {}
    for set_db in (1.0, 11.0):
        for ring in (perfect, crooked):
            ring.set_laser(2e-3, 1550.12)
            ring.set_carver_bias(perfect.optics.carver.null_bias_v + 4.0)
            ring.set_switch("alice", False)
            ring.set_user_attenuation("alice", set_db)
            photons.setdefault(set_db, []).append(ring.home_transmission("bob", "ccw"))
    for set_db, (right, wrong) in photons.items():
        assert 10 * math.log10(right / wrong) == pytest.approx(0.01 * set_db - 0.07, abs=1e-9)


def test_what_the_polarisers_take_is_lost_once_around() -> None:
    perfect = ring_of(order(spread=0.0))
    turned = Ring(replace(perfect.optics, polarizer_db=0.04), perfect.detectors)
    ratio = turned.home_transmission("alice", "ccw") / perfect.home_transmission("alice", "ccw")
    assert ratio == pytest.approx(10**-0.004, rel=1e-9)
