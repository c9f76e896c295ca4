"""Powers and losses on the way round the ring, the direction switches, and light that nobody attenuates."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from sim_backends.optics import DetectorOptics, Drive, Ring, RingOptics, StationOptics

H_C = 6.62607015e-34 * 299_792_458.0
USERS = tuple(
    StationOptics(name, km, v_pi_v=4.0, rf_gain=20.0, monitor_ratio=9.0)
    for name, km in (("alice", 1.0), ("bob", 2.0), ("carol", 3.5), ("dave", 5.0))
)
RING = RingOptics(
    clock_hz=1e8,
    samples_per_slot=2,
    users=USERS,
    length_km=6.0,
    fibre_loss_db_per_km=0.5,
    station_pass_loss_db=0.7,
    relay_loss_db=2.0,
    splitter_ratio=0.6,
)
DETECTOR = DetectorOptics(efficiency_max=0.8, dark_count_probability=1e-6, gate_ns=1.0, dead_time_ns=20.0)
STILL = Drive(np.zeros(2, np.float32), 2e8, 0.5)
FRAME_PS = 10**9


def running() -> Ring:
    """1 mW at 1550 nm, 20 dB launch attenuation, shutter open, detectors on."""
    ring = Ring(RING, (DETECTOR, DETECTOR))
    ring.set_laser(1e-3, 1550.0)
    ring.set_launch(20.0, True)
    ring.set_detectors([25.0, 25.0], True)
    return ring


def power(launched_w: float, loss_db: float) -> float:
    return launched_w * 10 ** (-loss_db / 10)


class TestPowers:
    """What the monitors read and what leaves the stations."""

    def test_the_monitor_sees_the_light_of_the_own_direction(self) -> None:
        """Carol, clockwise: 60 %, 3.5 km and two stations; counter-clockwise: 40 %, 2.5 km and one."""
        ring = running()
        assert ring.monitor_power_w("carol", "cw") == pytest.approx(power(1e-5 * 0.6, 3.5 * 0.5 + 1.4) * 0.1)
        assert ring.monitor_power_w("carol", "ccw") == pytest.approx(power(1e-5 * 0.4, 2.5 * 0.5 + 0.7) * 0.1)

    def test_monitor_times_ratio_and_attenuation_give_the_photons(self) -> None:
        """mu = P_monitor * ratio * 10^(-A/10) / (h nu f), as the users compute it."""
        ring = running()
        ring.set_user_attenuation("bob", 37.5)
        arriving = ring.monitor_power_w("bob") * 9.0
        expected = arriving * 10**-3.75 / (H_C / 1550e-9 * 1e8)
        assert ring.mean_photon_number("bob") == pytest.approx(expected, rel=1e-9)

    def test_photon_number_follows_the_wavelength(self) -> None:
        ring = running()
        before = ring.mean_photon_number("bob")
        ring.set_laser(1e-3, 775.0)
        assert ring.mean_photon_number("bob") == pytest.approx(before / 2)

    def test_no_light_without_laser_or_with_a_closed_shutter(self) -> None:
        ring = running()
        ring.set_launch(0.0, False)
        assert ring.monitor_power_w("alice") == 0.0
        ring.set_launch(0.0, True)
        ring.set_laser(0.0, 1550.0)
        assert ring.monitor_power_w("alice") == 0.0

    def test_the_arms_are_the_short_ways_home(self) -> None:
        """Bob goes 2 km past alice, carol 2.5 km past dave; 2 dB relay, 0.97 dB detector."""
        bob, carol = running().arm_loss_db("bob", "carol")
        assert bob == pytest.approx(1.0 + 0.7 + 2.0 - 10 * math.log10(0.8))
        assert carol == pytest.approx(1.25 + 0.7 + 2.0 - 10 * math.log10(0.8))

    def test_a_pair_in_the_wrong_order_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'carol' does not come before 'bob'"):
            running().arm_loss_db("carol", "bob")

    def test_light_reaches_the_detectors_through_the_arm(self) -> None:
        """One user bright, the other one dark: clicks per slot equal 1 - exp(-mu eta) on both detectors."""
        ring = running()
        ring.set_armed(["bob", "carol"])
        ring.set_user_attenuation("carol", 300.0)
        ring.set_user_attenuation("bob", 10 * math.log10(ring.mean_photon_number("bob") / 0.05))
        eta = 10 ** (-ring.arm_loss_db("bob", "carol")[0] / 10)
        rates = ring.detector_count_rates()
        dark = DETECTOR.dark_rate_per_s()
        for rate, share in zip(rates, (0.6, 0.4), strict=True):
            raw = 1e8 * (1 - math.exp(-0.05 * eta * share)) + dark
            assert rate == pytest.approx(raw / (1 + raw * 20e-9), rel=1e-6)

    def test_count_rates_agree_with_the_clicks(self) -> None:
        """Phase noise, offset, finite visibility, darks and dead time; weak light, so the mean is enough."""
        optics = replace(RING, visibility=0.9, phase_noise_rad=0.8, phase_offset_rad=0.5)
        detector = replace(DETECTOR, dark_count_probability=1e-4, afterpulse_probability=0.05)
        ring = Ring(optics, (detector, detector))
        ring.set_laser(1e-3, 1550.0)
        ring.set_launch(20.0, True)
        ring.set_detectors([25.0, 25.0], True)
        ring.set_armed(["alice", "dave"])
        for user in ("alice", "dave"):
            ring.set_user_attenuation(user, 10 * math.log10(ring.mean_photon_number(user) / 0.01))
        clicks = ring.expose({}, 5 * 10**10, seed=6)
        for detector_number, rate in enumerate(ring.detector_count_rates()):
            expected = rate * 0.05
            assert abs(clicks.of(detector_number).size - expected) < 5 * math.sqrt(1.1 * expected)


class TestDirections:
    """The switch in front of attenuator and monitor."""

    def test_a_pair_turns_its_stations(self) -> None:
        ring = running()
        ring.set_armed(["carol", "bob"])
        assert ring.monitor_power_w("bob") == ring.monitor_power_w("bob", "ccw")
        assert ring.monitor_power_w("carol") == ring.monitor_power_w("carol", "cw")
        ring.set_armed(["alice", "bob"])
        assert ring.monitor_power_w("bob") == ring.monitor_power_w("bob", "cw")

    def test_a_switch_stays_when_the_pair_is_gone(self) -> None:
        ring = running()
        ring.set_armed(["alice", "bob"])
        ring.set_armed([])
        assert ring.monitor_power_w("bob") == ring.monitor_power_w("bob", "cw")

    def test_at_first_the_switch_points_along_the_short_way_home(self) -> None:
        ring = running()
        assert [ring.monitor_power_w(u.name) == ring.monitor_power_w(u.name, "ccw") for u in USERS] == [
            True,
            True,
            False,
            False,
        ]

    def test_a_switch_can_be_turned_by_hand(self) -> None:
        ring = running()
        ring.set_direction("alice", "cw")
        assert ring.monitor_power_w("alice") == ring.monitor_power_w("alice", "cw")


class TestUnattenuatedLight:
    """Directions without an armed user carry everything that was launched."""

    @pytest.mark.parametrize("armed", [[], ["bob"], ["alice", "bob", "carol", "dave"]])
    def test_bright_light_saturates_at_the_dead_time_and_does_not_hang(self, armed: list[str]) -> None:
        """10 mW unattenuated: 1e10 photons per slot, 1 click per 20 ns and detector at most."""
        ring = running()
        ring.set_laser(1e-2, 1550.0)
        ring.set_launch(0.0, True)
        begin = time.process_time()
        clicks = ring.expose(dict.fromkeys(armed, STILL), 10 * FRAME_PS, seed=1)
        assert time.process_time() - begin < 20
        for detector in (0, 1):
            assert 0.9 * 5e5 < clicks.of(detector).size <= 5e5 + 1

    def test_one_armed_user_attenuates_one_direction_only(self) -> None:
        ring = running()
        ring.set_user_attenuation("bob", 80.0)
        alone = ring.expose({"bob": STILL}, FRAME_PS, seed=1)
        ring.set_user_attenuation("carol", 80.0)
        pair = ring.expose({"bob": STILL, "carol": STILL}, FRAME_PS, seed=1)
        assert alone.time_ps.size > 50_000
        assert pair.time_ps.size < 1000

    def test_armed_users_attenuate_while_nothing_plays(self) -> None:
        """A second trigger finds the generators armed but silent: no volts, and no bright light either."""
        ring = running()
        ring.set_user_attenuation("bob", 80.0)
        ring.set_user_attenuation("carol", 80.0)
        ring.set_armed(["bob", "carol"])
        assert ring.expose({}, FRAME_PS, seed=1).time_ps.size < 1000
        ring.set_armed([])
        assert ring.expose({}, FRAME_PS, seed=1).time_ps.size > 50_000

    def test_three_drives_add_their_phases(self) -> None:
        """Half a turn from each of the two outer stations and a full one in the middle: equal phases."""
        ring = running()
        half = 4.0 / (20.0 * 0.25)
        for user in ("alice", "dave"):
            ring.set_user_attenuation(user, 10 * math.log10(ring.mean_photon_number(user) / 0.3))
        wave = np.zeros((1000, 2), np.float32)
        wave[:, 1] = half
        pi = Drive(wave.reshape(-1), 2e8, 0.5)
        two = ring.expose({"alice": pi, "dave": STILL}, 10**7, seed=3)
        three = ring.expose({"alice": pi, "bob": pi, "dave": STILL}, 10**7, seed=3)
        assert two.of(1).size > 5 * two.of(0).size
        assert three.of(0).size > 5 * three.of(1).size

    def test_dark_counts_only_when_the_shutter_is_closed(self) -> None:
        ring = running()
        ring.set_launch(0.0, False)
        clicks = ring.expose({}, 100 * FRAME_PS, seed=8)
        expected = 2 * DETECTOR.dark_rate_per_s() * 0.1
        assert abs(clicks.time_ps.size - expected) < 5 * math.sqrt(expected)
        assert ring.detector_count_rates() == pytest.approx([1000.0, 1000.0], rel=1e-3)

    def test_nothing_clicks_without_bias(self) -> None:
        ring = running()
        ring.set_detectors([25.0, 25.0], False)
        assert ring.expose({}, FRAME_PS, seed=8).time_ps.size == 0
        ring.set_detectors([0.0, 25.0], True)
        assert set(ring.expose({}, FRAME_PS, seed=8).detector) == {1}
        assert ring.detector_count_rates()[0] == 0.0


class TestMistakes:
    """Values that make no sense are refused by name."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"samples_per_slot": 1}, "samples_per_slot must be at least 2"),
            ({"clock_hz": 0.0}, "clock_hz must be positive"),
            ({"visibility": 1.2}, "visibility must lie in 0..1"),
            ({"splitter_ratio": 1.0}, "splitter_ratio must lie between"),
            ({"fibre_loss_db_per_km": -0.2}, "fibre_loss_db_per_km must not be negative"),
            ({"thinning_margin": 0.5}, "thinning_margin must be at least 1"),
            ({"users": USERS[::-1]}, "in ring order"),
            ({"users": (USERS[0], USERS[0])}, "distinct names"),
            ({"length_km": 4.0}, "strictly between 0 and 4.0 km"),
            ({"users": (replace(USERS[0], monitor_ratio=0.0), USERS[1])}, "alice: monitor_ratio"),
        ],
    )
    def test_ring(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(RING, **change)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "change",
        [
            {"efficiency_max": 1.1},
            {"dark_count_probability": 1.0},
            {"afterpulse_probability": 1.0},
            {"gate_ns": 0.0},
            {"dead_time_ns": -1.0},
            {"jitter_ps": -1.0},
        ],
    )
    def test_detector(self, change: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(change))):
            replace(DETECTOR, **change)

    def test_an_unknown_user_is_named_with_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="no user 'eve' in the ring; there are alice, bob, carol, dave"):
            running().set_user_attenuation("eve", 3.0)

    def test_a_waveform_of_another_type_is_refused(self) -> None:
        drive = Drive(np.zeros(4), 2e8, 0.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="float32"):
            running().expose({"alice": drive, "bob": drive}, FRAME_PS, seed=0)

    def test_a_drive_does_not_show_its_samples(self) -> None:
        assert repr(STILL) == "Drive(2 samples, 2e+08 Hz, 0.5 Vpp)"


def test_many_threads_may_set_and_expose_at_once() -> None:
    """Every exposure sees one consistent state: all light or no light, never a mixture."""
    ring = running()
    ring.set_launch(0.0, False)
    sizes: list[int] = []
    stop = threading.Event()

    def toggle() -> None:
        while not stop.is_set():
            ring.set_launch(0.0, True)
            ring.set_launch(0.0, False)

    setter = threading.Thread(target=toggle)
    setter.start()
    workers = [
        threading.Thread(
            target=lambda seed=seed: sizes.extend(  # type: ignore[misc]
                ring.expose({}, 10**7, seed=seed * 100 + k).time_ps.size for k in range(50)
            )
        )
        for seed in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    setter.join()
    assert len(sizes) == 150
    assert all(size <= 2 or size > 900 for size in sizes)
