"""What polarisers take of light that fibre has turned: against the matrices multiplied out here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from lit_ring import BIAS_UA, BRIGHT_MW, DETECTOR, POSITIONS_KM, PULSES, RING

from sim_backends.optics import Direction, Ring
from sim_backends.optics_drift import Drift
from sim_backends.optics_polarization import as_fibre_lies, turned
from sim_backends.optics_way import backscattered

Matrix = npt.NDArray[np.complex128]
PLACES = ("relay", *POSITIONS_KM)
WAYS: tuple[Direction, Direction] = ("cw", "ccw")
HOUR_S = 3600.0


def unitary(seed: int) -> Matrix:
    """A random unitary matrix: the Q of a complex Gaussian one."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2)))
    return q.astype(np.complex128)


def ring_with(drift: Drift, t_s: float = 0.0, taken_in: tuple[str, ...] = ("alice", "carol")) -> Ring:
    ring = Ring(
        replace(RING, carver=replace(RING.carver, rf_gain=16.0)), (DETECTOR, DETECTOR), drift, lambda: t_s
    )
    for user in taken_in:
        ring.set_switch(user, False)
    ring.set_laser(BRIGHT_MW * 1e-3, 1550.12)
    ring.set_carver_drive(PULSES)
    ring.set_launch("launch", 56.0)
    ring.set_detectors(BIAS_UA, True)
    return ring


def everything(ring: Ring) -> dict[tuple[str, str, str], float]:
    """Power on every sensor, photons at every output, and what reaches the detectors from there."""
    reads = {"sensor": ring.sensor_power_w, "output": ring.mean_photon_number, "home": ring.home_transmission}
    return {
        (what, user, way): read(user, way)
        for what, read in reads.items()
        for user in POSITIONS_KM
        for way in WAYS
    }


LAID = Drift(seed=5, controlled=PLACES)
"""Fibre as it lies, and nothing drifts."""


def test_every_loss_sits_at_the_polariser_that_takes_it() -> None:
    """alice and carol are in: gaps relay-alice, alice-carol past bob's bypass, carol-relay past dave's; both directions.

    A sensor stands ahead of the polariser of its station, an output behind it.
    """
    stretches = LAID.stretches(RING, 0.0)
    controllers = {place: unitary(seed) for seed, place in enumerate(PLACES)}
    clockwise = [
        stretches[0] @ controllers["relay"],
        stretches[2] @ stretches[1] @ controllers["alice"],
        stretches[4] @ stretches[3] @ controllers["carol"],
    ]
    h = np.array([1, 0])
    lost = [abs(h @ gap @ h) ** 2 for gap in clockwise]
    backwards = [abs(h @ gap.T @ h) ** 2 for gap in clockwise]
    assert lost == pytest.approx(backwards, rel=1e-12)
    assert min(lost) > 0.01
    assert max(lost) < 0.99
    plain, turning = everything(ring_with(Drift())), ring_with(LAID)
    for place, jones in controllers.items():
        turning.set_polarization(place, jones)
    seen = everything(turning)
    first, second, last = lost
    shares = {
        ("sensor", "alice", "cw"): 1.0,
        ("output", "alice", "cw"): first,
        ("output", "bob", "cw"): first,
        ("sensor", "carol", "cw"): first,
        ("output", "carol", "cw"): first * second,
        ("output", "dave", "cw"): first * second,
        ("sensor", "carol", "ccw"): 1.0,
        ("output", "carol", "ccw"): last,
        ("sensor", "alice", "ccw"): last,
        ("output", "alice", "ccw"): last * second,
        ("home", "alice", "ccw"): first,
        ("home", "carol", "cw"): last,
    }
    for place, share in shares.items():
        assert seen[place] / plain[place] == pytest.approx(share, rel=1e-9), place
    rates = [sum(ring.detector_count_rates()) for ring in (turning, ring_with(Drift()))]
    assert rates[0] / rates[1] == pytest.approx(first * second * last, rel=0.01)


def test_both_pulses_still_arrive_equal_and_in_one_mode() -> None:
    """Reciprocity: what is lost is lost both ways, and visibility does not suffer."""
    ring = ring_with(LAID)
    fields = ring.light().fields
    assert fields.cw**2 == pytest.approx(fields.ccw_parallel**2 + fields.ccw_orthogonal**2, rel=1e-12)
    assert fields.ccw_parallel / fields.cw == pytest.approx(RING.visibility, rel=1e-12)


def test_the_inverse_of_every_gap_brings_all_light_back() -> None:
    """Walked for hours, and fibre as it lies: each place turns back what comes behind it, and only the right one does."""
    drift = replace(LAID, scale=1.0)
    t_s = 5 * HOUR_S
    ring = ring_with(drift, t_s, taken_in=tuple(POSITIONS_KM))
    assert max(ring.light().gaps) < 0.999
    for place, stretch in zip(PLACES, drift.stretches(RING, t_s), strict=True):
        ring.set_polarization(place, stretch.conj().T)
    assert ring.light().gaps == pytest.approx([1.0] * 5, abs=1e-12)
    ring.set_polarization("bob", np.eye(2, dtype=np.complex128))
    assert ring.light().gaps[2] == pytest.approx(abs(drift.stretches(RING, t_s)[2][0, 0]) ** 2)
    assert ring.light().gaps[3] == pytest.approx(1.0, abs=1e-12)


def test_scattered_light_pays_the_polarisers_there_and_back() -> None:
    """Behind the first polariser what comes back falls with the square of the gap; the bright stretch stays as it is."""
    dark = replace(RING, backscatter_db_per_m=72.0)
    ring = Ring(dark, (DETECTOR, DETECTOR))
    ring.set_switch("alice", False)
    plain = ring.light()
    ring.set_polarization("relay", turned(0.0, 2 * math.acos(math.sqrt(0.1)), 0.0))
    lossy = ring.light()
    assert lossy.gaps == pytest.approx((0.1, 1.0))
    per_km, alpha = 10**-7.2 * 1e3, 0.2 * math.log(10) / 10
    bright = per_km * -math.expm1(-2 * alpha * 0.75) / (2 * alpha)
    all_of_it = backscattered(dark, plain.settings, "cw", plain.gaps)
    assert backscattered(dark, lossy.settings, "cw", lossy.gaps) == pytest.approx(
        bright + 0.01 * (all_of_it - bright), rel=1e-9
    )


def test_a_rotation_is_one() -> None:
    """About y by an angle: what stays in H is cos^2 of half of it; about z nothing is lost; each is unitary."""
    for angle in (0.0, 1e-9, 0.4, 3.0, -7.0):
        assert abs(turned(0, angle, 0)[0, 0]) ** 2 == pytest.approx(math.cos(angle / 2) ** 2)
        assert abs(turned(0, 0, angle)[0, 0]) ** 2 == pytest.approx(1.0)
    for matrix in (turned(0.3, -1.2, 2.0), as_fibre_lies(np.random.default_rng(1))):
        assert np.abs(matrix @ matrix.conj().T - np.eye(2)).max() < 1e-14


def test_fibre_that_lies_anyhow_passes_anything_between_none_and_all() -> None:
    """|<H|U|H>|^2 of uniformly distributed rotations is uniform: mean 1/2, variance 1/12."""
    rng = np.random.default_rng(3)
    passed = [abs(as_fibre_lies(rng)[0, 0]) ** 2 for _ in range(4000)]
    assert np.mean(passed) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 4000))
    assert np.var(passed) == pytest.approx(1 / 12, rel=0.1)


@pytest.mark.parametrize(
    ("place", "jones", "text"),
    [
        ("zoe", np.eye(2), "at the relay or a user; got zoe"),
        ("alice", np.eye(3), r"shape \(2, 2\); got \(3, 3\)"),
        ("alice", np.eye(2) * 0.9, "unitary"),
        ("relay", np.full((2, 2), np.nan), "unitary"),
    ],
)
def test_what_is_no_controller_is_refused(place: str, jones: Matrix, text: str) -> None:
    ring = ring_with(Drift())
    before = ring.light().gaps
    with pytest.raises(ValueError, match=text):
        ring.set_polarization(place, jones.astype(np.complex128))
    assert ring.light().gaps == before
