"""When pulses reach the detectors: right within what is said, one slot number for both, no pulse refused."""

from __future__ import annotations

import numpy as np
import pytest

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.pulses import FLOOR_PS, Tags, pulse_positions

SLOT_PS, SLOTS = 10_000.0, 4_000_000


def tags_of(
    seed: int, delay_ps: float, clicks: int, ground: int, *, width_ps: float = 172.0, ppm: float = 0.0
) -> Tags:
    """Time stamps around pulses and at any time, sorted."""
    rng = np.random.default_rng(seed)
    pulsed = delay_ps + rng.integers(0, SLOTS, clicks) * SLOT_PS + width_ps * rng.standard_normal(clicks)
    flat = rng.uniform(delay_ps, delay_ps + SLOTS * SLOT_PS, ground)
    return np.sort(np.rint(np.concatenate([pulsed, flat]) * (1 + ppm * 1e-6)).astype(np.int64))


def test_positions_are_right_within_their_error() -> None:
    pulls = []
    for seed in range(60):
        true = np.random.default_rng(seed).uniform(30_380_000, 30_400_000, 2)
        true[1] = true[0] + (true[1] - true[0]) % 8_000 - 4_000
        tags = tags_of(seed, true[0], 20_000, 2_000), tags_of(1000 + seed, true[1], 800, 2_000)
        found = pulse_positions(tags, (30_390_000, 30_390_000), SLOT_PS)
        off = [each.delay_ps - at for each, at in zip(found, true, strict=True)]
        slots = round(off[0] / SLOT_PS)
        assert round(off[1] / SLOT_PS) == slots, "both detectors count slots alike"
        assert abs(found[0].delay_ps - 30_390_000) <= SLOT_PS / 2
        pulls += [(each - slots * SLOT_PS) / f.sigma_ps for each, f in zip(off, found, strict=True)]
        assert found[0].width_ps == pytest.approx(172, abs=10)
        assert found[0].sigma_ps < 1.1 * FLOOR_PS
    assert np.abs(pulls).max() < 5
    assert np.mean(np.abs(pulls) < 2) >= 0.9


def test_a_difference_between_cables_that_the_file_knows_counts_for_the_slot() -> None:
    """D2 hangs on 3 m more of cable, 1.5 slots: only the file can say so."""
    tags = tags_of(1, 30_390_000, 20_000, 100), tags_of(2, 30_405_000, 20_000, 100)
    found = pulse_positions(tags, (30_394_000, 30_394_000 + 14_000), SLOT_PS)
    assert found[1].delay_ps - found[0].delay_ps == pytest.approx(15_000, abs=20)


def test_no_pulse_is_refused() -> None:
    good = tags_of(1, 30_390_000, 20_000, 100)
    expected = (30_390_000, 30_390_000)
    with pytest.raises(CalibrationRefusedError, match=r"D2: .* no pulse to time"):
        pulse_positions((good, tags_of(2, 30_390_000, 0, 20_000)), expected, SLOT_PS)
    with pytest.raises(CalibrationRefusedError, match="one reference"):
        pulse_positions((tags_of(2, 30_390_000, 20_000, 0, ppm=1.0), good), expected, SLOT_PS)
    with pytest.raises(CalibrationRefusedError, match=r"D1: pulses are 4\d\d ps wide"):
        pulse_positions((tags_of(2, 30_390_000, 20_000, 0, width_ps=900), good), expected, SLOT_PS)
    with pytest.raises(CalibrationRefusedError, match="no pulse to time"):
        pulse_positions((np.zeros(0, np.int64), good), expected, SLOT_PS)
