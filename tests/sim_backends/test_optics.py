"""The light against the formulas of QKD.md section 2, which the model does not contain.

Every case plays random symbols on a ring of two users, counts exactly-one-click slots inside the receiver's
gate and compares gain and QBER with the closed forms, within five standard deviations of the count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim_backends import optics_kernel
from sim_backends.optics import Clicks, DetectorOptics, Drive, Ring, RingOptics, StationOptics

CLOCK_HZ = 1e8
SLOT_PS = 10_000
GATE_PS = 1_000
SAMPLES = 2
V_PI_V, RF_GAIN, AMPLITUDE_VPP = 5.0, 20.0, 0.5
SYMBOL_RAD = np.array([0.0, np.pi, np.pi / 2, -np.pi / 2])
BASIS = {"X": np.array([0, 1]), "Y": np.array([2, 3])}
STATIONS = (
    StationOptics("alice", 1.0, V_PI_V, RF_GAIN, 99.0),
    StationOptics("bob", 5.0, V_PI_V, RF_GAIN, 99.0),
)
RING = RingOptics(
    clock_hz=CLOCK_HZ,
    samples_per_slot=SAMPLES,
    users=STATIONS,
    length_km=6.0,
    fibre_loss_db_per_km=0.2,
    station_pass_loss_db=0.5,
    relay_loss_db=0.0,
)
DETECTOR = DetectorOptics(efficiency_max=0.9, dark_count_probability=1e-7, gate_ns=1.0, delay_ps=2_500)


def lit_ring(
    optics: RingOptics,
    mu: tuple[float, float],
    detector: DetectorOptics = DETECTOR,
    loss_db: float | None = None,
) -> Ring:
    """A running ring whose two users send ``mu`` photons per slot; ``loss_db`` is that of both arms."""
    if loss_db is not None:
        arm_db = 1.0 * optics.fibre_loss_db_per_km - 10 * math.log10(detector.efficiency_max)
        optics = replace(optics, relay_loss_db=loss_db / 2 - arm_db)
    ring = Ring(optics, (detector, detector))
    ring.set_laser(1e-3, 1550.0)
    ring.set_launch(20.0, True)
    ring.set_detectors([25.0, 25.0], True)
    ring.set_armed(["alice", "bob"])
    for user, target in zip(("alice", "bob"), mu, strict=True):
        ring.set_user_attenuation(user, 10 * math.log10(ring.mean_photon_number(user) / target))
    return ring


def waveform(symbols: npt.NDArray[np.int64], sample: int, samples: int = SAMPLES) -> Drive:
    """The drive of a user who modulates one of the samples of every slot."""
    wave = np.zeros((symbols.size, samples), np.float32)
    wave[:, sample] = SYMBOL_RAD[symbols] * V_PI_V / (np.pi * RF_GAIN * AMPLITUDE_VPP / 2)
    return Drive(wave.reshape(-1), CLOCK_HZ * samples, AMPLITUDE_VPP)


def outcomes(clicks: Clicks, n_slots: int, delay_ps: float = 2_500) -> npt.NDArray[np.uint8]:
    """What the relay announces per slot: bit 0 for D1, bit 1 for D2, clicks outside the gate dropped."""
    slot = np.round((clicks.time_ps - delay_ps) / SLOT_PS).astype(np.int64)
    inside = np.abs(clicks.time_ps - delay_ps - slot * SLOT_PS) <= GATE_PS / 2
    inside &= (slot >= 0) & (slot < n_slots)
    seen = np.zeros(n_slots, np.uint8)
    np.bitwise_or.at(seen, slot[inside], np.uint8(1) << clicks.detector[inside])
    return seen


@dataclass
class Counted:
    """Rounds of one basis: emitted, exactly one click, and of those with the wrong detector."""

    pulses: int = 0
    kept: int = 0
    errors: int = 0
    both: int = 0


def count(ring: Ring, basis: str, exposures: int, n_slots: int = 1 << 17, seed: int = 7) -> Counted:
    """Play fresh random symbols of one basis on both sides."""
    rng = np.random.default_rng(seed)
    a, b = (rng.choice(BASIS[basis], n_slots) for _ in range(2))
    drives = {"alice": waveform(a, SAMPLES // 2), "bob": waveform(b, 0)}
    total = Counted()
    for k in range(exposures):
        seen = outcomes(ring.expose(drives, n_slots * SLOT_PS, seed=1000 * seed + k), n_slots)
        one = (seen == 1) | (seen == 2)
        total.pulses += n_slots
        total.kept += int(one.sum())
        total.errors += int((one & ((a != b) != (seen == 2))).sum())
        total.both += int((seen == 3).sum())
    return total


def theory(x_a: float, x_b: float, visibility: float, dark: float) -> tuple[float, float]:
    """Gain and QBER by QKD.md section 2."""

    def clicks(phi: float) -> tuple[float, float]:
        cross = 2 * visibility * math.sqrt(x_a * x_b) * math.cos(phi)
        i1, i2 = (x_a + x_b + cross) / 2, (x_a + x_b - cross) / 2
        p1 = (1 - dark) * math.exp(-i2) * (1 - (1 - dark) * math.exp(-i1))
        p2 = (1 - dark) * math.exp(-i1) * (1 - (1 - dark) * math.exp(-i2))
        return p1, p2

    p1, p2 = clicks(0.0)
    return p1 + p2, p2 / (p1 + p2)


def assert_five_sigma(observed: int, trials: int, probability: float) -> None:
    """``observed`` of ``trials`` fits a binomial law."""
    sigma = math.sqrt(trials * probability * (1 - probability))
    assert abs(observed - trials * probability) <= 5 * sigma + 1, (
        f"{observed} of {trials}, expected {trials * probability:.1f} +- {sigma:.1f}"
    )


def assert_matches(counted: Counted, x: tuple[float, float], visibility: float, dark: float) -> None:
    gain, qber = theory(*x, visibility, dark)
    assert_five_sigma(counted.kept, counted.pulses, gain)
    assert_five_sigma(counted.errors, counted.kept, qber)


@pytest.mark.parametrize("basis", ["X", "Y"])
@pytest.mark.parametrize("visibility", [1.0, 0.99, 0.96, 0.9])
@pytest.mark.parametrize(
    ("loss_db", "mu"), [(5.0, 0.02), (10.0, 0.005), (17.0, 0.02), (25.0, 0.05), (35.0, 0.1)]
)
def test_gain_and_qber_follow_the_formulas(loss_db: float, mu: float, visibility: float, basis: str) -> None:
    """Both bases, five losses, four visibilities; x = eta mu with eta from the losses alone."""
    ring = lit_ring(replace(RING, visibility=visibility), (mu, mu), loss_db=loss_db)
    x = mu * 10 ** (-loss_db / 20)
    assert_matches(count(ring, basis, exposures=20), (x, x), visibility, 1e-7)


@pytest.mark.long
@pytest.mark.parametrize(("loss_db", "mu"), [(10.0, 0.005), (17.0, 0.002), (25.0, 0.0006)])
def test_the_published_points_at_full_size(loss_db: float, mu: float) -> None:
    """The table of QKD.md: Q and E at 10, 17 and 25 dB, 4e9 pulses each."""
    table = {10.0: (3.157432e-03, 0.005023), 17.0: (5.650537e-04, 0.005174), 25.0: (6.767864e-05, 0.006463)}
    ring = lit_ring(replace(RING, visibility=0.99), (mu, mu), loss_db=loss_db)
    counted = count(ring, "X", exposures=1000, n_slots=1 << 22)
    gain, qber = table[loss_db]
    assert_five_sigma(counted.kept, counted.pulses, gain)
    assert_five_sigma(counted.errors, counted.kept, qber)


def test_strong_light_and_many_dark_counts_follow_the_formulas() -> None:
    """Terms of second order: double clicks, and darks in the slot of a photon."""
    noisy = replace(DETECTOR, dark_count_probability=0.02)
    ring = lit_ring(replace(RING, visibility=0.95), (0.9, 0.6), noisy, loss_db=2.0)
    eta = 10**-0.1
    counted = count(ring, "X", exposures=4)
    assert_matches(counted, (0.9 * eta, 0.6 * eta), 0.95, 0.02)
    gain, qber = theory(0.9 * eta, 0.6 * eta, 0.95, 0.02)
    p1, p2 = gain * (1 - qber), gain * qber
    none = (1 - 0.02) ** 2 * math.exp(-1.5 * eta)
    assert_five_sigma(counted.both, counted.pulses, 1 - p1 - p2 - none)


@pytest.mark.parametrize("basis", ["X", "Y"])
def test_unequal_arrival_lowers_the_effective_visibility(basis: str) -> None:
    """Arms of 0.2 and 3 dB with equal intensities, and no other imperfection."""
    stations = (STATIONS[0], replace(STATIONS[1], position_km=3.0))
    ring = lit_ring(replace(RING, users=stations, fibre_loss_db_per_km=1.0), (0.01, 0.01))
    losses = ring.arm_loss_db("alice", "bob")
    assert losses[1] - losses[0] == pytest.approx(2.0)
    x_a, x_b = (0.01 * 10 ** (-loss / 10) for loss in losses)
    counted = count(ring, basis, exposures=30)
    assert_matches(counted, (x_a, x_b), 1.0, 1e-7)
    v_eff = 2 * math.sqrt(x_a * x_b) / (x_a + x_b)
    assert counted.errors / counted.kept == pytest.approx((1 - v_eff) / 2, rel=0.1)


def test_attenuation_that_balances_the_arrival_restores_the_visibility() -> None:
    """The same arms with intensities set for equal arrival."""
    stations = (STATIONS[0], replace(STATIONS[1], position_km=3.0))
    ring = lit_ring(replace(RING, users=stations, fibre_loss_db_per_km=1.0), (0.01, 0.01 * 10**0.2))
    assert count(ring, "X", exposures=10).errors <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_phase_noise_multiplies_the_visibility(sigma: float) -> None:
    """V e^{-sigma^2/2}."""
    ring = lit_ring(replace(RING, visibility=0.99, phase_noise_rad=sigma), (0.01, 0.01), loss_db=6.0)
    x = 0.01 * 10**-0.3
    assert_matches(count(ring, "Y", exposures=30), (x, x), 0.99 * math.exp(-(sigma**2) / 2), 1e-7)


@pytest.mark.parametrize("offset", [0.2, -0.4, math.pi])
def test_a_phase_offset_multiplies_the_visibility_by_its_cosine(offset: float) -> None:
    """V cos phi0; at pi the detectors swap their roles."""
    ring = lit_ring(replace(RING, visibility=0.98, phase_offset_rad=offset), (0.01, 0.01), loss_db=6.0)
    x = 0.01 * 10**-0.3
    assert_matches(count(ring, "X", exposures=30), (x, x), 0.98 * math.cos(offset), 1e-7)


def test_light_that_the_modulator_does_not_reach_blurs_the_phase() -> None:
    """A residue e of unmodulated light: E = (1 - V (1 - e)) / 2 in the Y basis (weak light).

    Its interference term does not change sign: V [(1 - e) cos phi + e] is V at phi = 0 and -V (1 - 2 e) at pi.
    """
    extinction_db = 13.0
    residue = 1 / (1 + 10 ** (extinction_db / 10))
    stations = tuple(replace(user, extinction_db=extinction_db) for user in STATIONS)
    ring = lit_ring(replace(RING, users=stations, visibility=0.99), (0.01, 0.01), loss_db=6.0)
    counted = count(ring, "Y", exposures=30)
    assert_five_sigma(counted.errors, counted.kept, (1 - 0.99 * (1 - residue)) / 2)


def test_different_bases_share_the_clicks_equally() -> None:
    """A quarter turn apart both detectors click alike."""
    n_slots = 1 << 17
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 2, n_slots), rng.integers(2, 4, n_slots)
    ring = lit_ring(RING, (0.2, 0.2))
    drives = {"alice": waveform(a, 1), "bob": waveform(b, 0)}
    seen = outcomes(ring.expose(drives, n_slots * SLOT_PS, seed=5), n_slots)
    assert_five_sigma(int((seen == 2).sum()), int(((seen == 1) | (seen == 2)).sum()), 0.5)


def test_clicks_follow_the_phase_pattern_slot_by_slot() -> None:
    """Without any imperfection D2 clicks in the slots of opposite phase, and only there."""
    n_slots = 1 << 16
    symbols = (np.arange(n_slots) % 97 == 13).astype(np.int64)
    ring = lit_ring(RING, (0.2, 0.2), replace(DETECTOR, dark_count_probability=0.0))
    zeros = np.zeros(n_slots, np.int64)
    drives = {"alice": waveform(symbols, 1), "bob": waveform(zeros, 0)}
    seen = outcomes(ring.expose(drives, n_slots * SLOT_PS, seed=11), n_slots)
    assert (seen == 2).sum() > 150
    assert set(np.flatnonzero(seen & 2) % 97) == {13}
    assert not np.any(seen[symbols == 1] & 1)


def test_a_short_waveform_leaves_the_other_slots_at_zero_volts() -> None:
    """Both sides in phase pi relative to each other for 1000 slots, then 0 V."""
    ring = lit_ring(RING, (0.5, 0.5), replace(DETECTOR, dark_count_probability=0.0))
    drives = {"alice": waveform(np.ones(1000, np.int64), 1), "bob": waveform(np.zeros(10, np.int64), 0)}
    seen = outcomes(ring.expose(drives, 4000 * SLOT_PS, seed=2), 4000)
    assert set(seen[:1000]) == {0, 2}
    assert set(seen[1000:]) == {0, 1}


@pytest.mark.parametrize("samples", [2, 3, 4, 8])
def test_only_the_own_part_of_the_slot_acts_on_the_own_pulse(samples: int) -> None:
    """Sample 0 meets the clockwise pulse, sample S//2 the other; a drive of both cancels in the loop."""
    quiet = replace(DETECTOR, dark_count_probability=0.0)
    ring = lit_ring(replace(RING, samples_per_slot=samples), (0.5, 0.5), quiet)
    pi = np.ones(2000, np.int64)
    still = Drive(np.zeros(1, np.float32), CLOCK_HZ * samples, AMPLITUDE_VPP)

    def detectors(drive: Drive) -> set[int]:
        clicks = ring.expose({"alice": drive, "bob": still}, 2000 * SLOT_PS, seed=4)
        return {int(d) for d in clicks.detector}

    own, other = waveform(pi, samples // 2, samples), waveform(pi, 0, samples)
    both = Drive(own.samples + other.samples, own.sample_rate_hz, AMPLITUDE_VPP)
    assert detectors(own) == {1}
    assert detectors(other) == {1}
    assert detectors(both) == {0}
    assert samples == 2 or detectors(waveform(pi, 1 if samples > 3 else 2, samples)) == {0}


def test_clicks_are_spread_evenly_over_the_slots() -> None:
    """Chi-square over 64 stretches of a frame, with a bound much above the least one as well."""
    for margin in (1.0, 3.7):
        n_slots = 1 << 20
        ring = lit_ring(replace(RING, thinning_margin=margin), (0.02, 0.02))
        clicks = ring.expose(quiet_drives(), n_slots * SLOT_PS, seed=21)
        observed = np.histogram(clicks.time_ps, bins=64, range=(0, n_slots * SLOT_PS))[0]
        mean = observed.mean()
        chi2 = float(((observed - mean) ** 2 / mean).sum())
        assert mean > 300
        assert abs(chi2 - 63) < 5 * math.sqrt(2 * 63)


def quiet_drives() -> dict[str, Drive]:
    """Both users armed, 0 V."""
    still = Drive(np.zeros(1, np.float32), CLOCK_HZ * SAMPLES, AMPLITUDE_VPP)
    return {"alice": still, "bob": still}


@pytest.mark.parametrize("margin", [1.0, 1.3, 2.0, 10.0])
def test_the_result_does_not_depend_on_the_thinning_bound(margin: float) -> None:
    """A looser bound proposes more candidates and rejects them again."""
    optics = replace(RING, visibility=0.9, thinning_margin=margin)
    ring = lit_ring(optics, (0.3, 0.3), loss_db=6.0)
    x = 0.3 * 10**-0.3
    assert_matches(count(ring, "X", exposures=3), (x, x), 0.9, 1e-7)


def test_detectors_of_different_efficiency_are_thinned_apart() -> None:
    """The bound belongs to the better detector; the other one must not profit from it."""
    n_slots = 1 << 18
    pair = (replace(DETECTOR, efficiency_max=0.9), replace(DETECTOR, efficiency_max=0.3))
    ring = Ring(RING, pair)
    ring.set_laser(1e-3, 1550.0)
    ring.set_launch(20.0, True)
    ring.set_detectors([25.0, 25.0], True)
    ring.set_armed(["alice", "bob"])
    for user in ("alice", "bob"):
        ring.set_user_attenuation(user, 10 * math.log10(ring.mean_photon_number(user) / 0.1))
    x = 0.2 * 10**-0.02
    for symbol, detector, efficiency in ((0, 0, 0.9), (1, 1, 0.3)):
        drives = quiet_drives() | {"alice": waveform(np.full(n_slots, symbol), 1)}
        clicks = ring.expose(drives, n_slots * SLOT_PS, seed=9)
        assert clicks.of(1 - detector).size < 10
        assert_five_sigma(clicks.of(detector).size, n_slots, 1 - math.exp(-x * efficiency))


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    ring = lit_ring(replace(RING, visibility=0.9, phase_noise_rad=0.1), (0.1, 0.1))
    drives = quiet_drives()
    first, again, other = (ring.expose(drives, 10**9, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.time_ps, again.time_ps)
    assert np.array_equal(first.detector, again.detector)
    assert not np.array_equal(first.time_ps[:50], other.time_ps[:50])


class TestSplitter:
    """The beam splitter alone."""

    @settings(max_examples=100, deadline=None, derandomize=True)
    @example(light=[1.0, 1.0, 1.0, 0.0, 0.0, 0.5], transmission=0.6, phase=0.3)
    @given(
        light=st.lists(st.floats(0, 10), min_size=6, max_size=6),
        transmission=st.floats(0.01, 0.99),
        phase=st.floats(-7, 7),
    )
    def test_conserves_energy_for_every_phase(
        self, light: Sequence[float], transmission: float, phase: float
    ) -> None:
        fields = optics_kernel.Fields(*light, transmission)
        out = optics_kernel.split(fields, phase, phase / 3)
        assert sum(out) == pytest.approx(sum(amplitude**2 for amplitude in light), abs=1e-9)

    def test_equal_phases_light_d1(self) -> None:
        fields = optics_kernel.Fields(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, math.sqrt(0.5))
        assert optics_kernel.split(fields, 0.0, 0.0) == pytest.approx((2.0, 0.0), abs=1e-12)
        assert optics_kernel.split(fields, math.pi, 0.0) == pytest.approx((0.0, 2.0), abs=1e-12)

    @pytest.mark.parametrize(("sender", "transmitted_to"), [("alice", 0), ("bob", 1)])
    def test_imbalance_has_the_right_sign(self, sender: str, transmitted_to: int) -> None:
        """Light of one side only: the counter-clockwise field is transmitted to D1, the other to D2."""
        n_slots = 1 << 17
        mu = (0.2, 1e-9) if sender == "alice" else (1e-9, 0.2)
        ring = lit_ring(replace(RING, splitter_ratio=0.7), mu)
        clicks = ring.expose(quiet_drives(), n_slots * SLOT_PS, seed=13)
        x = 0.2 * 10 ** (-ring.arm_loss_db("alice", "bob")[transmitted_to] / 10)
        assert_five_sigma(clicks.of(transmitted_to).size, n_slots, 1 - math.exp(-0.7 * x))
        assert_five_sigma(clicks.of(1 - transmitted_to).size, n_slots, 1 - math.exp(-0.3 * x))

    def test_imbalance_costs_visibility(self) -> None:
        """I1, I2 = (R, T) x_b + (T, R) x_a +- 2 sqrt(RT x_a x_b) cos phi with equal x: E = 1/2 - sqrt(RT)."""
        ring = lit_ring(replace(RING, splitter_ratio=0.6), (0.01, 0.01))
        counted = count(ring, "X", exposures=30)
        assert_five_sigma(counted.errors, counted.kept, 0.5 - math.sqrt(0.6 * 0.4))
