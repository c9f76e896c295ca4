"""What the relay finds from its own records: right within what it says, and refused where there is nothing to find."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special

from lab.calibration.arm_loss import ArmLosses, OutputLight, arm_losses, launch_loss
from lab.calibration.bias import Sweep, plateau
from lab.calibration.carver import extinction_db, pulse_of
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Measured
from lab.calibration.flat_light import (
    backscatter_db_per_m,
    backscatter_per_gate,
    dark_count_probability,
    detector_ratio,
)
from lab.calibration.gates import GateCounts, gate_counts
from lab.calibration.visibility import visibility_of

SLOTS = 100_000_000
GATE_NS, SLOT_NS = 1.0, 10.0


def counted(pulsed: tuple[float, float], flat_per_ns: float, seed: int, slots: int = SLOTS) -> GateCounts:
    """Poisson counts for clicks of pulses per slot at either detector, and a flat rate per ns of each slot."""
    rng = np.random.default_rng(seed)
    inside = rng.poisson([(each + flat_per_ns * GATE_NS) * slots for each in pulsed]).astype(float)
    quiet = rng.poisson([flat_per_ns * 4.0 * slots] * 2).astype(float)
    return GateCounts(inside, quiet, slots, GATE_NS, SLOT_NS)


def numbers(found: Measured) -> tuple[float, float]:
    assert isinstance(found.value, float)
    assert isinstance(found.uncertainty, float)
    return found.value, found.uncertainty


def test_tags_are_sorted_by_their_place_in_the_slot() -> None:
    delays = (5_000_000.0, 5_000_700.0)
    d1 = np.array([5_000_000, 5_010_400, 5_012_000, 5_025_000, 4_990_000, 6_000_000_000], np.int64)
    d2 = np.array([5_000_700, 5_000_700 + 10_600, 5_000_700 + 17_500], np.int64)
    found = gate_counts((d1, d2), delays, slots=1000, gate_ns=GATE_NS, slot_ns=SLOT_NS)
    assert found.inside.tolist() == [2, 1]
    assert found.quiet.tolist() == [
        1,
        1,
    ]  # 2 ns after, 2.5 ns before a pulse; the leak half a slot off is neither


@pytest.mark.parametrize("loop_rad", [0.0, 0.4, -0.4])
def test_visibility_is_right_within_its_error(loop_rad: float) -> None:
    true, pulls = 0.985, []
    for seed in range(40):
        contrast = true * math.cos(loop_rad)
        counts = counted((0.007 * (1 + contrast) / 2, 0.007 * (1 - contrast) / 2), 1.2e-5, seed)
        value, sigma = numbers(visibility_of(counts, loop_rad))
        pulls.append((value - true) / sigma)
    assert np.abs(pulls).max() < 5
    assert np.mean(np.abs(pulls) < 2) >= 0.9


def test_no_interference_is_refused() -> None:
    with pytest.raises(CalibrationRefusedError, match=r"visibility is 0\.5"):
        visibility_of(counted((0.0075, 0.0025), 1e-6, 1), 0.0)
    with pytest.raises(CalibrationRefusedError, match="too few"):
        visibility_of(counted((0.0, 0.0), 1e-6, 1), 0.0)
    with pytest.raises(CalibrationRefusedError, match=r"1\.50 rad"):
        visibility_of(counted((0.0055, 0.0045), 1e-6, 1), 1.5)


def test_a_detector_that_recovers_is_counted_as_if_it_were_always_awake() -> None:
    """Blind for 40 ns after each click: of light at rest D1 misses two per cent, of key frames both miss one."""
    slots, share, dead = 20_000_000, (0.0049, 0.0001), 4
    rng = np.random.default_rng(5)

    def seen(rate: float) -> npt.NDArray[np.int64]:
        came = np.flatnonzero(rng.random(slots) < rate)
        kept, last = [], -dead - 1
        for slot in came.tolist():
            if slot > last + dead:
                kept.append(slot)
                last = slot
        return np.array(kept)

    def counts(rates: tuple[float, float]) -> GateCounts:
        tags = [np.round(seen(rate) * SLOT_NS * 1e3).astype(np.int64) for rate in rates]
        return gate_counts((tags[0], tags[1]), (0.0, 0.0), slots=slots, gate_ns=GATE_NS, slot_ns=SLOT_NS)

    rest, together = counts(share), sum(share)
    assert float(rest.inside.sum()) / slots < 0.99 * together, "nearly two per cent are missing"
    assert rest.pulsed / slots == pytest.approx(share, rel=0.01, abs=8e-6)
    key_frames = float(counts((together / 2, together / 2)).inside.sum()) / slots / 2
    assert rest.arriving == pytest.approx(key_frames, rel=0.012)
    darkness = counts((1e-6, 1e-6))
    assert np.abs(darkness.missed).max() < 1e-3
    both = rest + darkness
    assert both.missed == pytest.approx(rest.missed, rel=0.02, abs=3e-4)


TRUE_DB, FILE_DB, THOUGHT_DB, ARRIVING = 3.4, 3.0, (4.0, 5.0), 0.003


def measured(
    scales: tuple[float, float], seed: int = 1, known_db: tuple[float, float] = (0.0, 0.0)
) -> ArmLosses:
    """Bob and dave of four users, whose arms beside the relay lose 4 and 5 dB, read their light with these errors."""
    rng = np.random.default_rng(seed)
    users = []
    for arm_db, scale, offset_db in zip(THOUGHT_DB, scales, known_db, strict=True):
        mu = ARRIVING * 10 ** ((arm_db + TRUE_DB - FILE_DB) / 10)
        reading = mu * scale * (1 + 0.01 * rng.standard_normal())
        users.append(OutputLight(reading, 0.01 * mu, arm_db + offset_db))
    counts = counted((2 * ARRIVING * 0.99, 2 * ARRIVING * 0.01), 1e-5, seed)
    offsets_db = np.zeros((4, 2))
    offsets_db[1, 1], offsets_db[3, 0] = known_db
    return arm_losses(counts, (users[0], users[1]), ((1, 1), (3, 0)), FILE_DB, offsets_db, 0.21)


def test_the_relay_loss_follows_the_counted_light() -> None:
    """A relay of 3.4 dB, which the file has as 3.0, by sensors whose scales are up to 5 % wrong."""
    pulls = []
    for seed in range(40):
        first, second = 1 + 0.05 * np.random.default_rng([seed, 1]).uniform(-1, 1, 2)
        value, sigma = numbers(measured((first, second), seed).relay_db)
        pulls.append((value - TRUE_DB) / sigma)
    assert np.abs(pulls).max() < 5
    assert np.mean(np.abs(pulls) < 2) >= 0.9


def test_every_arm_keeps_what_its_own_sensor_makes_of_it() -> None:
    """A sensor 5 % high beside one 5 % low: what either reads of light that was counted is what its arm says."""
    found = measured((1.05, 0.95))
    cw, ccw = np.array(found.offsets_cw_db.value), np.array(found.offsets_ccw_db.value)
    relay_db, _ = numbers(found.relay_db)
    for offset, scale in ((ccw[1], 1.05), (cw[3], 0.95)):
        assert relay_db + offset == pytest.approx(TRUE_DB + 10 * math.log10(scale), abs=0.1)
    assert ccw[1] - cw[3] == pytest.approx(10 * math.log10(1.05 / 0.95), abs=0.15)
    assert np.count_nonzero(cw) == np.count_nonzero(ccw) == 1, "nobody has measured another arm"
    sigmas = found.offsets_cw_db.uncertainty
    assert isinstance(sigmas, list)
    assert sigmas[0] == 0.21 > sigmas[3]


def test_an_arm_that_is_measured_again_leaves_the_others_what_they_are() -> None:
    """More arms tell the relay better; the sum of relay and offset stays that of each arm."""
    offsets_db = np.zeros((4, 2))
    offsets_db[0, 1], offsets_db[2, 0] = 0.3, -0.3
    counts = counted((2 * ARRIVING * 0.99, 2 * ARRIVING * 0.01), 1e-5, 1)
    users = [OutputLight(ARRIVING * 10 ** (arm / 10), 1e-5, arm) for arm in THOUGHT_DB]
    found = arm_losses(counts, (users[0], users[1]), ((1, 1), (3, 0)), FILE_DB, offsets_db, 0.21)
    relay_db, _ = numbers(found.relay_db)
    assert relay_db == pytest.approx(FILE_DB, abs=0.02)
    assert relay_db + np.array(found.offsets_ccw_db.value)[0] == pytest.approx(FILE_DB + 0.3)
    assert relay_db + np.array(found.offsets_cw_db.value)[2] == pytest.approx(FILE_DB - 0.3)


@pytest.mark.parametrize("launch_off_db", [0.6, -0.4])
def test_the_launch_loses_what_is_missing_of_the_counts_and_is_not_the_relays(launch_off_db: float) -> None:
    """Both sensors of the pair read 5 % too much; arms measured before say what light the relay takes."""
    offsets_db = np.zeros((4, 2))
    for arm, off_db in (((0, 1), 0.1), ((1, 0), -0.1), ((2, 0), 0.05), ((2, 1), -0.05)):
        offsets_db[arm] = TRUE_DB - FILE_DB + off_db
    counts = counted((2 * ARRIVING * 0.99, 2 * ARRIVING * 0.01), 1e-5, 1)
    users = [
        OutputLight(1.05 * ARRIVING * 10 ** ((arm + TRUE_DB - FILE_DB) / 10), 1e-5, arm) for arm in THOUGHT_DB
    ]
    relay_db = arm_losses(counts, (users[0], users[1]), ((1, 1), (3, 0)), FILE_DB, offsets_db, 0.21).relay_db
    planned = ARRIVING * 10 ** ((TRUE_DB - FILE_DB + launch_off_db) / 10)
    value, sigma = numbers(launch_loss(counts, planned, relay_db, (21.1, FILE_DB)))
    of_two_sensors_db = 10 * math.log10(1.05)
    assert value == pytest.approx(21.1 + launch_off_db - of_two_sensors_db / 3, abs=0.02)
    assert of_two_sensors_db / 3 < 2 * sigma < 0.2


BESIDE = ((0, 1), (1, 0)), 3.0, np.zeros((2, 2)), 0.21


def test_users_that_disagree_are_refused() -> None:
    counts = counted((0.006, 0.0), 1e-6, 1)
    with pytest.raises(CalibrationRefusedError, match="first user's"):
        arm_losses(counts, (OutputLight(0.01, 1e-4, 4.0), OutputLight(0.02, 1e-4, 4.0)), *BESIDE)
    with pytest.raises(CalibrationRefusedError, match="no pulse"):
        arm_losses(counted((0.0, 0.0), 0.0, 1), (OutputLight(0.01, 1e-4, 4.0),) * 2, *BESIDE)


def test_dark_counts_are_right_within_their_error() -> None:
    pulls = []
    for seed in range(60):
        counts = counted((0.0, 0.0), 1e-7 / GATE_NS, seed, slots=5 * SLOTS)
        value, sigma = numbers(dark_count_probability(counts))
        pulls.append((value - 1e-7) / sigma)
    assert 0.7 < np.std(pulls) < 1.3


def test_a_silent_detector_and_light_are_no_dark_counts() -> None:
    silent = GateCounts(np.array([40.0, 0.0]), np.array([200.0, 0.0]), SLOTS, GATE_NS, SLOT_NS)
    with pytest.raises(CalibrationRefusedError, match="D2 counts nothing"):
        dark_count_probability(silent)
    with pytest.raises(CalibrationRefusedError, match="in pulses"):
        dark_count_probability(counted((1e-5, 1e-5), 1e-7, 1))
    with pytest.raises(CalibrationRefusedError, match="too few"):
        dark_count_probability(counted((0.0, 0.0), 1e-7, 1, slots=100_000))


def test_backscatter_is_what_is_left_above_the_dark_counts() -> None:
    dark = Measured(1e-7, 2e-9)
    value, sigma = numbers(backscatter_per_gate(counted((0.0, 0.0), 1.21e-5, 1), dark))
    assert abs(value - 1.2e-5) < 5 * sigma
    assert sigma < 2e-7
    db, _ = numbers(backscatter_db_per_m(Measured(value, sigma), value / 2, -72.0))
    assert db == pytest.approx(-72.0 + 10 * math.log10(2))
    with pytest.raises(CalibrationRefusedError, match="nothing to measure"):
        backscatter_per_gate(counted((0.0, 0.0), 1e-7, 1), dark)


def carved(extinction_db: float, seed: int, scattered: float = 2e-7) -> GateCounts:
    """Light that leaves by D1 whole, with the rest of a carver, back-scatter and dark counts at either detector."""
    pulse = 0.0096
    rng, flat = np.random.default_rng(seed), np.array([pulse * 10 ** (-extinction_db / 10), 0.0])
    flat += scattered + 1e-7
    inside = rng.poisson((flat + np.array([pulse, 0.0])) * SLOTS).astype(float)
    return GateCounts(inside, rng.poisson(flat * 4 * SLOTS).astype(float), SLOTS, GATE_NS, SLOT_NS)


@pytest.mark.parametrize("true_db", [32.0, 35.0, 38.0])
def test_extinction_is_right_within_its_error(true_db: float) -> None:
    found = [numbers(extinction_db(carved(true_db, seed), 1e-7, 2e-7)) for seed in range(40)]
    pulls = [(value - true_db) / sigma for value, sigma in found]
    assert np.abs(pulls).max() < 5
    assert np.mean(np.abs(pulls) < 2) >= 0.9


def test_light_that_is_hardly_pulsed_is_refused() -> None:
    with pytest.raises(CalibrationRefusedError, match="less than 30 dB"):
        extinction_db(carved(15.0, 1), 1e-7, 2e-7)


@pytest.mark.parametrize("middle_ns", [0.05, 4.0, 9.98])
def test_the_pulse_is_found_wherever_it_stands(middle_ns: float) -> None:
    pulls = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        at_ns = rng.integers(0, 4_000_000, 20_000) * SLOT_NS + middle_ns + rng.normal(0, 0.17, 20_000)
        at_ns = np.concatenate([at_ns, rng.uniform(0, 4e7, 300)])
        pulse = pulse_of(np.sort(at_ns * 1e3).astype(np.int64), SLOT_NS, "D1")
        off_ns = (pulse.middle_ns - middle_ns + SLOT_NS / 2) % SLOT_NS - SLOT_NS / 2
        pulls.append(off_ns / pulse.middle_sigma_ns)
        assert pulse.width_ns == pytest.approx(0.17, rel=0.1)
    assert 0.6 < np.std(pulls) < 1.4


def test_flat_light_has_no_pulse() -> None:
    tags = np.sort(np.random.default_rng(1).uniform(0, 4e10, 20_000)).astype(np.int64)
    with pytest.raises(CalibrationRefusedError, match="no pulse"):
        pulse_of(tags, SLOT_NS, "D1")
    with pytest.raises(CalibrationRefusedError, match="300 clicks"):
        pulse_of(tags[:300], SLOT_NS, "D1")


def swept(operating_ua: float, seed: int) -> Sweep:
    """A nanowire of plateau, dark counts rising by e for each uA, and a critical current of 24 uA."""
    bias_ua = np.linspace(10, 26, 17)
    rng = np.random.default_rng(seed)
    efficiency = 0.5 * (1 + special.erf((bias_ua - 12) / 2)) * (bias_ua < 24)
    dark = 50 * np.exp(bias_ua - operating_ua) * (bias_ua < 24)
    return Sweep(
        bias_ua, rng.poisson(1e5 * efficiency + dark).astype(float), rng.poisson(dark).astype(float), 0.5
    )


def test_a_bias_sweep_finds_plateau_dark_counts_and_the_critical_current() -> None:
    found = plateau(swept(20.0, 1), 20.0, "D1")
    slope, error = numbers(found["D1_slope_per_percent"])
    assert abs(slope) < 5 * error
    assert abs(numbers(found["D1_critical_ua"])[0] - 24.0) <= 0.5
    width, sigma = numbers(found["D1_dark_width_ua"])
    assert abs(width - 1.0) < 5 * sigma


def test_a_bias_off_the_plateau_is_refused() -> None:
    with pytest.raises(CalibrationRefusedError, match="no plateau at 12 uA"):
        plateau(swept(20.0, 1), 12.0, "D1")
    silent = Sweep(np.linspace(10, 26, 17), np.zeros(17), np.zeros(17), 0.5)
    with pytest.raises(CalibrationRefusedError, match="counts nothing at any bias"):
        plateau(silent, 20.0, "D1")


def test_detectors_that_are_not_alike_are_told_by_scattered_light_and_change_no_key() -> None:
    """D2 counts 6 % more: at rest D1 has the light, in key frames both, and errors come to each as often."""
    visibility, arriving, efficiencies = 0.99, 0.0032, np.array([0.97, 1.03])
    closed = counted_flat(efficiencies * 1.4e-5, 1)
    ratio, sigma = numbers(detector_ratio(closed, counted_flat(np.array([1e-7, 1.2e-7]), 2)))
    assert abs(ratio - 1.03 / 0.97) < 5 * sigma < 0.025
    at_rest = efficiencies * arriving * np.array([1 + visibility, 1 - visibility])
    seen = counted((at_rest[0], at_rest[1]), 1e-5, 3, slots=10 * SLOTS)
    assert replace(seen, ratio=ratio).arriving == pytest.approx(arriving, rel=0.004)
    assert seen.arriving == pytest.approx(0.97 * arriving, rel=0.004), "as if both were D1"
    value, _ = numbers(visibility_of(replace(seen, ratio=ratio), 0.0))
    assert value == pytest.approx(visibility, abs=2.5e-4)
    with pytest.raises(CalibrationRefusedError, match=r"of the same light D2 counts 0\.31"):
        detector_ratio(counted_flat(np.array([1.6e-5, 5e-6]), 1), counted_flat(np.array([1e-7, 1e-7]), 2))


def counted_flat(per_gate: npt.NDArray[np.float64], seed: int) -> GateCounts:
    rng = np.random.default_rng(seed)
    inside, quiet = (rng.poisson(each * per_gate * 20 * SLOTS).astype(float) for each in (1.0, 4.0))
    return GateCounts(inside, quiet, 20 * SLOTS, GATE_NS, SLOT_NS)
