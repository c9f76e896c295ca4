"""What is uncertain of a user's light, charged to the quantum coin: held against states that are written out."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from orchestrator.protocols.base import binary_entropy
from orchestrator.protocols.epsilons import ParameterError
from orchestrator.protocols.four_phase.bounds import Observed, key_length
from orchestrator.protocols.four_phase.coin import MU_MAX, Uncertainty, coin_imbalance, coin_overlap_defect
from orchestrator.protocols.four_phase.planner import block_plan
from orchestrator.protocols.four_phase.rates import keyrate_report

Phases = npt.NDArray[np.float64]
DRIVEN: Phases = np.array([0.0, math.pi, math.pi / 2, -math.pi / 2])
"""X bit 0, X bit 1, Y bit 0, Y bit 1."""


def coherent(mu: float, phase: float) -> npt.NDArray[np.complex128]:
    """Photon-number amplitudes of ``|sqrt(mu) exp(i phase)>``, up to 23 photons."""
    n = np.arange(24)
    size = np.exp(-mu / 2) * mu ** (n / 2) / np.sqrt([float(math.factorial(k)) for k in n])
    return np.asarray(size * np.exp(1j * n * phase))


def overlaps(
    mu: float, phases: Phases, other: float = 0.0, memory: float = 0.0
) -> npt.NDArray[np.complex128]:
    """<x_j|y_k> of both modes, from the states themselves."""
    found = np.empty((2, 2), complex)
    for j, k in itertools.product((0, 1), repeat=2):
        x, y = phases[j], phases[2 + k]
        found[j, k] = np.vdot(coherent(mu, x), coherent(mu, y))
        found[j, k] *= np.vdot(coherent(other, memory * x), coherent(other, memory * y))
    return found


def best_complementary_overlap(found: npt.NDArray[np.complex128]) -> float:
    """Largest overlap of the two purifications over all pairs of complementary bases of the qubit beside the light.

    With the phases of one basis, an angle between its two vectors, chosen, the best of the other make both terms real.
    """
    signs = np.array([[1, 1], [1, -1]]) / math.sqrt(2)

    def minus(angle: float) -> float:
        return -float(np.abs(np.array([1, np.exp(1j * angle)]) @ (signs * found)).sum()) / 2

    start = min(np.linspace(0, 2 * math.pi, 60), key=minus)
    return -float(minimize_scalar(minus, bounds=(start - 0.2, start + 0.2), options={"xatol": 1e-9}).fun)


@pytest.mark.parametrize("mu", [0.003, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("wrong_by", [0.0, 0.02, 0.1, 0.3])
def test_no_phases_of_the_box_have_a_smaller_overlap(mu: float, wrong_by: float) -> None:
    """Corners and random points of the box, by the states: never worse than charged, and for dim light the worst is close to it."""
    rng = np.random.default_rng(7)
    corners = [np.array(signs) * wrong_by for signs in itertools.product((-1, 1), repeat=4)]
    errors = [*corners, *rng.uniform(-wrong_by, wrong_by, (12, 4))]
    worst = max(1 - best_complementary_overlap(overlaps(mu, DRIVEN + each)) for each in errors)
    charged = Uncertainty(phase_uncertainty_rad=wrong_by).overlap_defect(mu)
    assert worst <= charged + 1e-9
    if mu < 0.1:
        assert worst == pytest.approx(charged, rel=0.03 if wrong_by <= 0.1 else 0.1, abs=1e-9)


def test_a_drive_of_a_wrong_half_wave_voltage_is_within_its_box() -> None:
    """V_pi 5 % low: every phase is 1/0.95 of what it should be, and pi is wrong by 165 mrad."""
    phases = DRIVEN / 0.95
    true = 1 - best_complementary_overlap(overlaps(0.01, phases))
    assert true > 1.9 * coin_overlap_defect(0.01)
    assert true < Uncertainty(phase_uncertainty_rad=float(abs(phases - DRIVEN).max())).overlap_defect(0.01)


def test_bases_that_have_become_one_leave_no_key_although_their_mixtures_are_equal() -> None:
    """With Y turned onto X nothing is tested: a fidelity of the mixtures would say that all is well."""
    phases = np.array([0.0, math.pi, 0.0, math.pi])
    found = overlaps(0.01, phases)
    assert np.linalg.svd(found / 2, compute_uv=False).sum() == pytest.approx(1.0)
    assert 1 - best_complementary_overlap(found) == pytest.approx(0.01, rel=0.05)
    half_way = Uncertainty(phase_uncertainty_rad=math.pi / 4)  # either basis may be turned half of the way
    assert half_way.overlap_defect(0.01) >= 1 - best_complementary_overlap(found)
    assert keyrate_report(5, 5, 0.99, 1e-7, 1.1, phase_uncertainty_rad=math.pi / 4)["key_rate_per_pulse"] == 0


@pytest.mark.parametrize("memory", [0.003, 0.026])
@pytest.mark.parametrize("wrong_by", [0.0, 0.02])
def test_light_of_the_other_direction_counts_as_a_second_mode(memory: float, wrong_by: float) -> None:
    rng = np.random.default_rng(8)
    errors = [np.zeros(4), *rng.uniform(-wrong_by, wrong_by, (8, 4))]
    worst = max(
        1 - best_complementary_overlap(overlaps(0.01, DRIVEN + each, 0.15, memory)) for each in errors
    )
    light = Uncertainty(phase_uncertainty_rad=wrong_by, other_light=15.0, memory=memory)
    assert worst <= light.overlap_defect(0.01) <= 1.3 * worst


def test_a_pulse_late_in_its_sample_leaves_little_on_the_other_direction() -> None:
    """1.5 ns of rise: in the middle of 5 ns pi leaves 80 mrad and Delta grows many times, at 4 ns 9 mrad and 3-6 %."""
    tau_ns = 1.5 / math.log(9)
    ideal = coin_overlap_defect(0.01)
    for at_ns, low, high in ((2.5, 2.5, 6.0), (4.0, 1.02, 1.08)):
        memory = math.exp(-at_ns / tau_ns)
        assert low < Uncertainty(other_light=15.0, memory=memory).overlap_defect(0.01) / ideal < high


def test_intensity_zero_and_residue_make_the_light_brighter() -> None:
    assert Uncertainty(10 * math.log10(1.05)).mu_upper(0.01) == pytest.approx(0.0105)
    assert Uncertainty(zero_photons=0.001).mu_upper(0.01) == pytest.approx(0.011)
    carved = Uncertainty(extinction_db=30.0, other_light=12.0)
    assert carved.mu_upper(0.01) == pytest.approx(0.01 * (1 + 9e-3 + 60e-3))
    slow = Uncertainty(extinction_db=30.0, other_light=12.0, gates_per_slot=40.0)
    assert slow.mu_upper(0.01) == pytest.approx(0.01 * (1 + 39e-3 + 240e-3))
    both = Uncertainty(1.0, 0.001, extinction_db=30.0)
    assert both.mu_upper(both.mu_limit) == pytest.approx(MU_MAX)


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 3), st.floats(0, 0.1), st.floats(30, 60), st.floats(0, 25), st.floats(0.01, 100))
def test_the_limit_of_an_intensity_is_within_the_bound(
    tolerance_db: float, zero: float, extinction_db: float, other: float, ratio: float
) -> None:
    light = Uncertainty(tolerance_db, zero, extinction_db=extinction_db, other_light=other)
    assert light.overlap_defect(light.mu_limit) <= 1.0
    assert light.overlap_defect(light.mu_limit / ratio * ratio) <= 1.0
    assert light.mu_upper(light.mu_limit) == pytest.approx(MU_MAX)


small = st.floats(0, 1)


@settings(max_examples=300, deadline=None)
@given(
    st.floats(0, 0.4), *[small] * 6, st.sampled_from(["mu", "t", "zero", "u", "e", "other", "memory"]), small
)
def test_nothing_that_is_less_certain_costs_less(
    mu: float, t: float, zero: float, u: float, e: float, other: float, memory: float, name: str, more: float
) -> None:
    def light(name: str = "", more: float = 0.0) -> Uncertainty:
        def of(key: str, value: float) -> float:
            return min(value + more, 1.0) if key == name else value

        return Uncertainty(
            tolerance_db=of("t", t),
            zero_photons=of("zero", zero) * 0.01,
            phase_uncertainty_rad=of("u", u) * math.pi / 4,
            extinction_db=60 - 30 * of("e", e),
            other_light=of("other", other) * 25,
            memory=of("memory", memory) * 0.03,
        )

    here = light().overlap_defect(mu)
    there = light(name, more).overlap_defect(mu + 0.1 * more if name == "mu" else mu)
    assert 0 <= here <= there * (1 + 1e-9) + 1e-15


def test_a_half_wave_voltage_5_percent_low_stores_no_more_than_is_secret() -> None:
    """118 kbit of a second of light over 4.4 and 6.2 dB are planned for ideal phases; half of them are secret.

    The fidelity of the two mixtures, which is no bound, would still grant 64 kbit.
    """
    block = {"n_pulses": 10**8, "visibility": 0.99, "dark_count": 1e-7, "f_ec": 1.1}
    ideal = block_plan(4.399, 6.199, **block)  # type: ignore[arg-type]
    assert ideal.expected_bits == pytest.approx(118_200, rel=2e-3)
    pinned = {"mu_a": ideal.mu_a, "mu_b": ideal.mu_b, "p_x": ideal.p_x}

    def secret(factor: float) -> int:
        """Bits of the same block by the true overlap, when the phases of both users are too large by this factor."""
        found = [overlaps(mu, DRIVEN * factor) for mu in (ideal.mu_a, ideal.mu_b)]
        first, second = map(best_complementary_overlap, found)
        plan = replace(ideal.finite, delta=0.5 * (1 - first * second))
        leak = 1.1 * plan.n_x * binary_entropy(plan.m_y / plan.n_y)
        return key_length(plan, Observed(plan.n_x, plan.n_y, plan.m_y, plan.n_s, leak)).bits

    true = min(secret(0.95), secret(1 / 0.95))
    assert secret(1.0) == pytest.approx(ideal.expected_bits, rel=1e-3)
    assert true < 63_000
    wrong_by = Uncertainty(phase_uncertainty_rad=math.pi * (1 / 0.95 - 1))
    careful = block_plan(4.399, 6.199, uncertainties=(wrong_by, wrong_by), **block, **pinned)  # type: ignore[arg-type]
    assert careful.expected_bits <= true


def test_a_light_that_cannot_be_is_refused() -> None:
    for changes in (
        {"tolerance_db": -0.1},
        {"phase_uncertainty_rad": 1.0},
        {"extinction_db": 29.9},
        {"extinction_db": math.nan},
        {"zero_photons": -1.0},
        {"other_light": math.inf},
        {"memory": 1.5},
        {"gates_per_slot": 0.5},
    ):
        with pytest.raises(ParameterError):
            Uncertainty(**changes)
    assert coin_imbalance(0.1, 0.1, Uncertainty(other_light=1e3, memory=1.0)) >= 0.5
