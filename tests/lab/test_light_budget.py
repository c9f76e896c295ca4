"""The light of a pair, each figure against a formula or a sum that is written out here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lab.light_budget import (
    LATCHING_CPS,
    NS_PER_KM,
    SEPARATION_LIMITS,
    PairLight,
    RelayLight,
    RingLight,
    StationLight,
    pulse_place,
)

POSITIONS_KM = (0.75, 2.25, 3.75, 5.25)
CARVED_DB = 3.5 + 10 * math.log10(10 / 0.4 / 1.0645)
"""Insertion, and pulses of 0.4 ns (a Gaussian) cut out of 10 ns."""
RELAY = RelayLight(
    laser_w=2e-3,
    launch_loss_db=CARVED_DB + 0.8 + 3.01,  # circulator, and the coupler's half
    relay_loss_db=3.0,
    efficiency=0.75,
    dark_count=1e-7,
    visibility=0.99,
    extinction_db=35.0,
)


def station(name: str, km: float) -> StationLight:
    """Light of both directions starts at the relay at once, over 6 km of fibre in all."""
    return StationLight(name, km, (km * NS_PER_KM, (6.0 - km) * NS_PER_KM))


STATIONS = tuple(station(f"user-{place}", km) for place, km in enumerate(POSITIONS_KM))
RING = RingLight(RELAY, STATIONS, length_km=6.0)
PAIRS = [(i, j) for i in range(4) for j in range(i + 1, 4)]


def db(ratio: float) -> float:
    return 10 * math.log10(ratio)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_light_is_followed_part_by_part_from_the_laser_to_the_clicks(first: int, second: int) -> None:
    """Both ways around, each part of a station where it stands (switch .6, tap 3.01, modulator 3.7, attenuator 1.0, tap
    3.01, switch .6, and the sensor of a direction at the first tap): mu, sensors, other light, arrivals and launch come out."""
    pair, mu_a = PairLight(RING, first, second), 0.01
    budget = pair.budget(mu_a)
    photon_j = 6.62607015e-34 * 299_792_458 / 1550.12e-9
    at_port_w = 2e-3 * 10 ** (-(budget.launch_attenuation_db + CARVED_DB + 0.8) / 10) / 2
    sensors: dict[int, list[float]] = {first: [], second: []}
    outputs: dict[int, list[float]] = {first: [], second: []}
    arrivals = []
    for order in (range(4), range(3, -1, -1)):
        watts, at_km = at_port_w, 0.0
        for index in order:
            along_km = POSITIONS_KM[index] if order.step > 0 else 6.0 - POSITIONS_KM[index]
            watts *= 10 ** (-0.02 * (along_km - at_km))
            at_km = along_km
            watts *= 10**-0.06
            if index in (first, second):
                sensors[index].append(watts / 2)
                watts *= 10 ** (-(3.7 + 1.0 + 0.6) / 10) / 4
                outputs[index].append(watts)
        watts *= 10 ** (-0.02 * (6.0 - at_km))
        arrivals.append(watts * 10**-0.3 * 0.75 / photon_j / 1e8)
    assert arrivals[0] == pytest.approx(arrivals[1])
    loss_a, loss_b = pair.arms_db
    own = {first: 1, second: 0}  # counter-clockwise light is that of the first user
    mu_b = mu_a * 10 ** ((loss_b - loss_a) / 10)
    for index, mu, reading, rho in zip(
        (first, second), (mu_a, mu_b), budget.sensors, pair.other_light, strict=True
    ):
        out = outputs[index]
        assert out[own[index]] / photon_j / 1e8 == pytest.approx(mu, rel=1e-3)
        assert out[1 - own[index]] / out[own[index]] == pytest.approx(rho, rel=1e-3)
        assert reading.own_w == pytest.approx(sensors[index][own[index]], rel=1e-3)
        assert reading.other_w == pytest.approx(sensors[index][1 - own[index]], rel=1e-3)
    assert arrivals[0] == pytest.approx(mu_a * 10 ** (-loss_a / 10), rel=1e-3)
    assert arrivals[0] == pytest.approx(mu_b * 10 ** (-loss_b / 10), rel=1e-3)
    counted = arrivals[0] * 1e8 + budget.backscatter_per_gate * 1e9 + 1e-7 * 1e9
    assert budget.detector_rate_cps == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_back_scatter_is_the_integral_over_the_fibre(first: int, second: int) -> None:
    """Every metre sends 10^-7.2 of the light in it back the way it came, from both ends of the loop."""
    pair = PairLight(RING, first, second)
    metres = np.arange(0.5, 6000)
    returned = 0.0
    for clockwise in (True, False):
        along = metres if clockwise else 6000 - metres
        loss_db = 2e-4 * metres
        for index, km in enumerate(POSITIONS_KM):
            passed = along > km * 1e3 if clockwise else along < km * 1e3
            loss_db = loss_db + np.where(passed, 11.9206 if index in (first, second) else 0.6, 0.0)
        returned += float(np.sum(10**-7.2 * 10 ** (-2 * loss_db / 10)))
    loop_db = 1.2 + 2 * 0.6 + 2 * 11.9206
    arriving = 10 ** (-(loop_db + 3.0) / 10) * 0.75
    of_a_gate = returned / 2 * 10**-0.3 * 0.75 / 10
    assert pair.backscatter == pytest.approx(of_a_gate / arriving, rel=2e-3)


def test_every_10_db_of_the_stations_make_back_scatter_tenfold() -> None:
    def with_loss(more_db: float) -> float:
        lossy = tuple(replace(each, loss_db=11.92 + more_db / 2) for each in STATIONS)
        return PairLight(replace(RING, stations=lossy), 0, 3).backscatter

    assert with_loss(10) / with_loss(0) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize(("place", "expected_ns"), [(0, 5.24), (1, 5.08), (2, 4.92), (3, 4.76)])
def test_the_two_directions_pass_half_a_slot_apart(place: int, expected_ns: float) -> None:
    km = POSITIONS_KM[place]
    transits = ((6.0 - km) * 4896.72, km * 4896.72)
    assert RING.separation_ns(STATIONS[place]) == pytest.approx((transits[0] - transits[1]) % 10, abs=0.05)
    assert RING.separation_ns(STATIONS[place]) == pytest.approx(expected_ns, abs=0.01)


def test_what_the_modulator_remembers_is_the_filtered_waveform_at_the_pulse() -> None:
    """Own phase for 5 ns, then nothing, through a single pole of 1.5 ns; also when the next sample has begun.

    The own pulse sits 4 to 4.5 ns after its edge, so that the other one can sit as late after the next.
    """
    tau_ns, step_ns = 1.5 / math.log(9), 1e-4
    times = np.arange(0, 15, step_ns)
    for apart_ns, place_ns in ((3.2, 4.5), (4.4, 4.5), (4.6, 4.4), (5.1, 4.0), (5.8, 4.0), (6.7, 4.0)):
        assert pulse_place(5.0, apart_ns) == pytest.approx(place_ns)
        far = replace(STATIONS[3], passes_ns=(30.0, 30.0 + apart_ns))
        ring = replace(RING, stations=(*STATIONS[:3], far))
        drive = ((times % 10) < 5).astype(float)
        drive[times >= 10] = 1.0  # the next symbol, taken as just as large
        level, levels = 0.0, []
        for each in drive:
            level += (each - level) * step_ns / tau_ns
            levels.append(level)
        seen = levels[int((place_ns + apart_ns) / step_ns)]
        assert PairLight(ring, 0, 3).memory[1] == pytest.approx(seen, rel=0.02, abs=1e-4)


def test_a_bench_has_light_a_seventh_of_the_time() -> None:
    """Fresh symbols at 4 bytes a sample, two samples a slot, over gigabit Ethernet: 0.29 s for 42 ms."""
    assert RING.duty == pytest.approx(2**22 / 1e8 / (2**22 * 2 * 4 / 116e6))
    assert RING.duty == pytest.approx(0.145, abs=1e-3)
    assert replace(RING, link_bytes_per_s=1e12).duty == 1.0


def test_what_cannot_work_is_told_with_its_figures() -> None:
    pair, mu = PairLight(RING, 0, 1), 0.0074
    assert list(pair.unworkable(mu, monitored=True)) == []

    def told(ring: RingLight, mu: float = mu, *, monitored: bool = True) -> str:
        return "; ".join(PairLight(ring, 0, 1).unworkable(mu, monitored=monitored))

    blind = replace(RING, stations=tuple(replace(each, sensor_floor_w=10e-12) for each in STATIONS))
    assert "user-0's own light at the sensor is 0.643 pW, below the 10 pW" in told(blind)
    assert told(blind, monitored=False) == ""
    unknown = replace(RING, stations=tuple(replace(each, sensor_floor_w=None) for each in STATIONS))
    assert "nobody says how little that sensor tells from none" in told(unknown)
    assert told(unknown, monitored=False) == ""
    moved = (replace(STATIONS[0], passes_ns=(0.0, 22.74)), *STATIONS[1:])
    words = told(replace(RING, stations=moved))
    assert "user-0 the two directions pass 2.74 ns apart" in words
    assert "trim the fibre by 0.46 m on one side" in words
    short = replace(RING, relay=replace(RELAY, launch_limit_db=45.0))
    assert "attenuated by 56.1 dB, and its attenuators allow 45 dB" in told(short)
    weak = replace(RING, relay=replace(RELAY, laser_w=1e-9))
    assert "6.9 dB too weak" in told(weak)
    bright = PairLight(RING, 0, 1)
    mu_limit = LATCHING_CPS / 1e8 * 10 ** (bright.arms_db[0] / 10)
    assert "may latch" in told(RING, 1.1 * mu_limit)
    assert "may latch" not in told(RING, 0.9 * mu_limit)
    assert SEPARATION_LIMITS == (0.3, 0.7)


def test_a_pair_is_named_in_ring_order() -> None:
    for places in ((1, 0), (1, 1), (0, 4)):
        with pytest.raises(ValueError, match="ring order"):
            PairLight(RING, *places)
