"""The quantum-coin bound and the channel: the points of docs/formulas.md, and where they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.protocols.base import binary_entropy
from orchestrator.protocols.four_phase.bounds import asymptotic, phase_error
from orchestrator.protocols.four_phase.coin import coin_imbalance, coin_overlap_defect
from orchestrator.protocols.optical_channel import (
    OpticalChannel,
    click_probabilities,
    transmittance,
)


@pytest.mark.parametrize(
    ("loss_db", "mu", "gain", "qber", "delta_prime", "e_ph", "rate"),
    [
        (10, 0.005, 3.157432e-03, 0.005023, 0.007891, 0.060652, 1.948394e-03),
        (17, 0.002, 5.650537e-04, 0.005174, 0.007070, 0.056664, 3.569590e-04),
        (25, 0.0006, 6.767864e-05, 0.006463, 0.005317, 0.050406, 4.375914e-05),
    ],
)
def test_asymptotic_points(
    loss_db: float, mu: float, gain: float, qber: float, delta_prime: float, e_ph: float, rate: float
) -> None:
    point = asymptotic(OpticalChannel(loss_db / 2, loss_db / 2, 0.99, 1e-7), mu, mu, 1.0, 1.16)
    assert point.gain == pytest.approx(gain, rel=2e-7)
    assert point.qber == pytest.approx(qber, abs=5e-7)
    assert point.delta_prime == pytest.approx(delta_prime, abs=5e-7)
    assert point.phase_error == pytest.approx(e_ph, abs=5e-7)
    assert point.rate == pytest.approx(rate, rel=3e-7)


def test_sifting_takes_p_x_squared() -> None:
    channel = OpticalChannel(5, 5, 0.99, 1e-7)
    full, half = (asymptotic(channel, 0.005, 0.005, p, 1.16).rate for p in (1.0, 0.5))
    assert half == pytest.approx(full / 4)


def coherent(alpha: complex, size: int = 60) -> np.ndarray:
    """Amplitudes of a coherent state in the photon-number basis."""
    n = np.arange(size)
    factorial = np.cumprod(np.concatenate([[1.0], n[1:]]))
    return np.exp(-(abs(alpha) ** 2) / 2) * alpha**n / np.sqrt(factorial)


@pytest.mark.parametrize("mu", [1e-3, 0.02, 0.3, 1.0, 1.5])
def test_the_overlap_is_that_of_the_two_purified_bases(mu: float) -> None:
    """F from the states themselves: each basis' mixture purified by a qubit, and the two purifications compared."""
    root = math.sqrt(mu)
    plus, minus = np.array([1, 1]) / math.sqrt(2), np.array([1, -1]) / math.sqrt(2)
    plus_i, minus_i = np.array([1, 1j]) / math.sqrt(2), np.array([1, -1j]) / math.sqrt(2)
    basis_x = (np.kron(plus, coherent(root)) + np.kron(minus, coherent(-root))) / math.sqrt(2)
    basis_y = (np.kron(minus_i, coherent(1j * root)) + np.kron(plus_i, coherent(-1j * root))) / math.sqrt(2)
    overlap = float(np.vdot(basis_x, basis_y).real)
    assert 1.0 - coin_overlap_defect(mu) == pytest.approx(overlap, abs=1e-12)


def test_dim_light_keeps_its_digits() -> None:
    assert coin_overlap_defect(1e-8) == pytest.approx(1e-16 * (1 - 2e-8 / 3), rel=1e-12)
    just_below, just_above = coin_overlap_defect(0.03 - 1e-12), coin_overlap_defect(0.03)
    assert just_below == pytest.approx(just_above, rel=1e-9)
    assert coin_imbalance(0.0, 0.0) == 0.0


@pytest.mark.parametrize("mu", [-1e-9, 1.6, math.nan])
def test_the_overlap_ends_at_half_pi(mu: float) -> None:
    with pytest.raises(ValueError, match="pi/2"):
        coin_overlap_defect(mu)


@pytest.mark.parametrize(("e_y", "delta_prime"), [(0.005, 0.008), (0.014, 0.0375), (0.0, 0.1), (0.2, 0.0)])
def test_the_phase_error_saturates_the_coin_inequality(e_y: float, delta_prime: float) -> None:
    e_ph = phase_error(e_y, delta_prime)
    right = math.sqrt(e_y * e_ph) + math.sqrt((1 - e_y) * (1 - e_ph))
    assert right == pytest.approx(1 - 2 * delta_prime)
    assert e_ph >= e_y


def test_past_a_quarter_turn_nothing_is_known() -> None:
    """Beyond pi/4 the bound is 1/2, whatever the sine squared of the angle does there."""
    assert phase_error(0.3, 0.2) == 0.5
    assert phase_error(0.49, 0.499) == 0.5
    assert phase_error(0.5, 0.0) == 0.5
    assert phase_error(0.0, 0.5) == 0.5
    assert phase_error(0.9, 0.6) == 0.5
    assert phase_error(math.nan, 0.1) == 0.5
    rising = [phase_error(0.01, d) for d in np.linspace(0, 0.49, 200)]
    assert rising == sorted(rising)
    assert rising[-1] == 0.5


def test_equal_intensities_over_unequal_arms_give_no_key() -> None:
    channel = OpticalChannel(5, 12, 0.99, 1e-7)
    rates = [asymptotic(channel, mu, mu, 1.0, 1.16).rate for mu in np.geomspace(1e-7, 1.0, 400)]
    assert max(rates) <= 0
    assert asymptotic(channel, 0.001643, 0.007325, 1.0, 1.16).rate == pytest.approx(2.90e-4, abs=5e-7)


def test_no_light_gives_no_key_and_no_error() -> None:
    dark = asymptotic(OpticalChannel(300, 300, 0.99, 0.0), 1e-9, 1e-9, 1.0, 1.16)
    assert dark.rate <= 0
    assert OpticalChannel(0, 0, 1.0, 0.0).gain_and_qber(0.0, 0.0) == (0.0, 0.5)


def test_click_probabilities_are_those_of_two_independent_detectors() -> None:
    """Against drawn Poisson photon numbers, bright light and strong dark counts."""
    rng, n = np.random.default_rng(3), 400_000
    x_a, x_b, v, pd, phi = 0.4, 0.9, 0.8, 0.05, 0.7
    for phi in (0.0, 0.7, math.pi):
        cross = v * math.sqrt(x_a * x_b) * math.cos(phi)
        one = (rng.poisson((x_a + x_b) / 2 + cross, n) > 0) | (rng.random(n) < pd)
        two = (rng.poisson((x_a + x_b) / 2 - cross, n) > 0) | (rng.random(n) < pd)
        p1, p2 = click_probabilities(x_a, x_b, v, pd, phi)
        assert np.mean(one & ~two) == pytest.approx(p1, abs=5 * math.sqrt(p1 / n))
        assert np.mean(two & ~one) == pytest.approx(p2, abs=5 * math.sqrt(p2 / n))


def test_bright_port_follows_the_phase() -> None:
    p1, p2 = click_probabilities(0.01, 0.01, 0.99, 0.0, 0.0)
    assert p2 / (p1 + p2) == pytest.approx((1 - 0.99) / 2, rel=0.02)
    assert click_probabilities(0.01, 0.01, 0.99, 0.0, math.pi) == pytest.approx((p2, p1))
    middle = click_probabilities(0.01, 0.01, 0.99, 0.0, math.pi / 2)
    assert middle[0] == pytest.approx(middle[1])


def test_unequal_arrival_lowers_the_visibility() -> None:
    x_a, x_b = 1e-5, 4e-5
    p1, p2 = click_probabilities(x_a, x_b, 0.9, 0.0)
    assert (p1 - p2) / (p1 + p2) == pytest.approx(0.9 * 2 * math.sqrt(x_a * x_b) / (x_a + x_b), rel=1e-4)


def test_a_loss_of_three_decibels_is_half_the_light() -> None:
    assert transmittance(3.0) == pytest.approx(0.501187, rel=1e-6)


def test_binary_entropy() -> None:
    assert binary_entropy(0.5) == 1.0
    assert binary_entropy(0.11) == pytest.approx(0.4999, abs=1e-4)
    assert binary_entropy(0.0) == binary_entropy(1.0) == binary_entropy(-1.0) == 0.0
    assert binary_entropy(1e-12) == pytest.approx(1e-12 * (math.log2(1e12) + 1 / math.log(2)))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1.0, 5.0, 0.99, 1e-7), "loss_a_db"),
        ((5.0, math.inf, 0.99, 1e-7), "loss_b_db"),
        ((5.0, 5.0, 0.0, 1e-7), "visibility"),
        ((5.0, 5.0, 1.01, 1e-7), "visibility"),
        ((5.0, 5.0, 0.99, -1e-7), "dark_count"),
        ((5.0, 5.0, 0.99, math.nan), "dark_count"),
    ],
)
def test_a_channel_refuses_what_cannot_be(arguments: tuple[float, float, float, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        OpticalChannel(*arguments)
