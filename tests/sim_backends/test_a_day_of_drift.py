"""A simulated day: what the values calibrated in the morning come to when nobody corrects anything.

``python tests/sim_backends/test_a_day_of_drift.py [RING_SEED ...]`` prints the series, and beside it that of the same ring with
its polarisation held.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from driven_ring import TEMPLATE, ring_content

from lab.testbed import Testbed, parse_testbed
from orchestrator.light.carving import carver_pattern
from orchestrator.light.launching import planned_light
from sim_backends.optics import Direction, Drive
from sim_backends.optics_drift import Drift
from sim_backends.optics_hidden import ring_of
from sim_backends.optics_parts import PS_PER_KM
from sim_backends.optics_way import passage_ps

PAIR: dict[str, Direction] = {"alice": "ccw", "bob": "cw"}
SYMBOL_RAD = np.array([0.0, math.pi, math.pi / 2, -math.pi / 2])
SLOT_PS, GATE_PS, N_SLOTS, EXPOSURES = 10_000.0, 1_000.0, 1 << 22, 6
HOUR_S = 3600.0


@dataclass(frozen=True)
class Hour:
    """What the pair counts, and what drifted: decibels of the gaps between polarisers, loop delay, loop phase."""

    hour: float
    sifted: int
    qber: float
    gaps_db: float
    delay_ps: float
    phase_rad: float


class Morning:
    """A ring with everything set by its calibrated values at t = 0, and left alone; the bias controller follows."""

    def __init__(self, ring_seed: int, loop_phase_drift_rad: float) -> None:
        self.s = 0.0
        data = ring_content(N_SLOTS, ring_seed=ring_seed)
        data["simulation"]["loop_phase_drift_rad"] = loop_phase_drift_rad
        testbed = parse_testbed(data, TEMPLATE)
        self.ring = ring_of(testbed, lambda: self.s)
        self.drift = Drift(ring_seed, 1.0)
        self._light_up(testbed)
        light = self.ring.light()
        self.arrivals_ps = [
            light.train.phase_ps + light.optics.length_km * PS_PER_KM + detector.delay_ps
            for detector in light.detectors
        ]
        rng = np.random.default_rng(1)
        self.symbols = [rng.integers(0, 4, N_SLOTS) for _ in PAIR]
        self.drives = {
            user: self._frame(testbed, user, symbols)
            for user, symbols in zip(PAIR, self.symbols, strict=True)
        }

    def _light_up(self, testbed: Testbed) -> None:
        ring = self.ring
        for user in PAIR:
            ring.set_switch(user, False)
            ring.set_user_attenuation(user, testbed.user(user).attenuation_db)
        ring.set_laser(testbed.ring.laser_power_mw * 1e-3, testbed.ring.wavelength_nm)
        pattern, rate_hz = carver_pattern(testbed)
        ring.set_carver_drive(Drive(pattern, 1e12 / rate_hz, testbed.carver.awg_amplitude_vpp))
        ring.set_carver_bias(ring.optics.carver.null_bias_v, follows=True)
        ring.set_launch(
            "launch", planned_light(testbed, *PAIR).attenuation_db + testbed.carver.attenuation_db
        )
        ring.set_detectors(testbed.detectors.bias_ua, True)

    def _frame(self, testbed: Testbed, user: str, symbols: npt.NDArray[np.int64]) -> Drive:
        """Each symbol on its own pulse, 4 ns after the sample's edge, by the public V_pi and gain."""
        known, light = testbed.user(user), self.ring.light()
        full_rad = math.pi * known.rf_gain * known.awg_amplitude_vpp / 2 / known.v_pi_v
        samples = np.zeros(2 * N_SLOTS, np.float32)
        samples[::2] = SYMBOL_RAD[symbols] / full_rad
        station = next(each for each in light.optics.users if each.name == user)
        passes_ps = light.train.phase_ps + passage_ps(light.optics, station, PAIR[user])
        return Drive(samples, SLOT_PS / 2, known.awg_amplitude_vpp, passes_ps - 4_000.0)

    def hold(self, hour: float) -> None:
        """Every controller turns back what its gap does at that hour: relay to alice, alice to bob, bob past the others."""
        to_alice, to_bob, *rest = self.drift.stretches(self.ring.optics, hour * HOUR_S)
        gaps = (to_alice, to_bob, rest[2] @ rest[1] @ rest[0])
        for place, gap in zip(("relay", *PAIR), gaps, strict=True):
            self.ring.set_polarization(place, gap.conj().T)

    def at(self, hour: float) -> Hour:
        """Count for a quarter of a second of light."""
        self.s = hour * HOUR_S
        a, b = self.symbols
        right = wrong = 0
        for seed in range(EXPOSURES):
            clicks = self.ring.expose(self.drives, int(N_SLOTS * SLOT_PS + 4e7), seed)
            d1, d2 = (self._slots(clicks.of(detector), detector) for detector in (0, 1))
            one = np.setxor1d(d1, d2, assume_unique=True)
            kept = one[a[one] // 2 == b[one] // 2]
            agree = (a[kept] == b[kept]) == np.isin(kept, d1, assume_unique=True)
            right, wrong = right + int(agree.sum()), wrong + int((~agree).sum())
        light = self.ring.light()
        return Hour(
            hour,
            right + wrong,
            wrong / max(right + wrong, 1),
            -10 * math.log10(math.prod(light.gaps)),
            (light.optics.length_km - self.ring.optics.length_km) * PS_PER_KM,
            light.optics.loop_phase_rad,
        )

    def _slots(self, times_ps: npt.NDArray[np.int64], detector: int) -> npt.NDArray[np.int64]:
        since_ps = times_ps - self.arrivals_ps[detector]
        slots = np.rint(since_ps / SLOT_PS).astype(np.int64)
        inside = (np.abs(since_ps - slots * SLOT_PS) <= GATE_PS / 2) & (slots >= 0) & (slots < N_SLOTS)
        return np.unique(slots[inside])


@pytest.mark.timeout(60)
def test_without_tracking_the_errors_rise_and_with_polarisation_held_they_do_not() -> None:
    """Light that polarisers take leaves back-scatter and dark counts behind: a few decibels double the error rate."""
    morning = Morning(1, 1e-3)
    start = morning.at(0.0)
    assert start.qber < 0.01
    assert start.gaps_db == pytest.approx(0.0, abs=1e-9)
    left_alone = [morning.at(hour) for hour in (2.0, 6.0, 18.0)]
    for hour in left_alone:
        assert hour.sifted < start.sifted * 10 ** (-0.8 * hour.gaps_db / 10)
        assert hour.qber > start.qber + 3 * math.sqrt(start.qber / hour.sifted)
    assert max(hour.qber for hour in left_alone) > 0.05
    for hour in left_alone:
        morning.hold(hour.hour)
        held = morning.at(hour.hour)
        assert held.qber < 0.01
        assert held.sifted > 0.8 * start.sifted


def test_a_loop_phase_that_drifts_is_an_error_of_every_slot() -> None:
    """Half a radian, polarisation held: sin^2 of half of it on top of what there was."""
    morning = Morning(1, 0.3)
    start = morning.at(0.0)
    morning.hold(16.0)
    later = morning.at(16.0)
    phase_rad = later.phase_rad - start.phase_rad
    assert abs(phase_rad) > 0.3
    added = 0.99 * math.sin(phase_rad / 2) ** 2
    assert later.qber - start.qber == pytest.approx(added, abs=5 * math.sqrt(added / later.sifted))


def main(seeds: Sequence[int]) -> None:
    """Both curves, on a spool and on fibre whose loop phase drifts by 0.3 rad."""
    for seed in seeds:
        for order_rad in (1e-3, 0.3):
            left_alone, tracked = Morning(seed, order_rad), Morning(seed, order_rad)
            print(f"ring_seed {seed}, loop_phase_drift_rad {order_rad}")
            print("hour  sifted  QBER %  gaps dB  delay ps  phase rad | polarisation held: sifted  QBER %")
            for hour in range(0, 25, 2):
                each = left_alone.at(hour)
                tracked.hold(hour)
                held = tracked.at(hour)
                print(
                    f"{hour:4d} {each.sifted:7d} {100 * each.qber:7.2f} {each.gaps_db:8.2f} {each.delay_ps:9.0f} "
                    f"{each.phase_rad:10.4f} {held.sifted:26d} {100 * held.qber:7.2f}"
                )


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [1])
