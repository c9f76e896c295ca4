"""Secret length of a finite block: the point of docs/formulas.md, what moves it, and blocks that give nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from orchestrator.protocols.base import binary_entropy
from orchestrator.protocols.four_phase.bounds import (
    FinitePlan,
    Observed,
    amplification_cost_bits,
    asymptotic,
    key_length,
    predict,
    step_failure,
)
from orchestrator.protocols.four_phase.coin import Uncertainty
from orchestrator.protocols.kato import chernoff_upper, count_upper, deviation, kato_a, sum_upper
from orchestrator.protocols.optical_channel import OpticalChannel

CHANNEL = OpticalChannel(9.5, 9.5, 0.99, 1e-7)
PLAN = predict(CHANNEL, 0.006, 0.006, 0.9, 10**9, 1e-10)
LEAK = 1.16 * PLAN.n_x * binary_entropy(PLAN.m_y / PLAN.n_y)
AS_PREDICTED = Observed(PLAN.n_x, PLAN.n_y, PLAN.m_y, PLAN.n_s, LEAK)


def test_the_point_of_19_db() -> None:
    e1 = step_failure(1e-10)
    assert PLAN.n_x == pytest.approx(1.09002e6, abs=5)
    assert PLAN.n_y == pytest.approx(13457.1, abs=0.05)
    assert PLAN.m_y == pytest.approx(68.2294, abs=5e-5)
    assert deviation(PLAN.m_y, PLAN.n_y, kato_a(PLAN.n_y, PLAN.m_y, e1), e1) == pytest.approx(
        121.345, abs=5e-4
    )
    minus_coins = PLAN.coin_rounds * PLAN.delta
    assert minus_coins == pytest.approx(717.111, abs=1e-3)
    assert chernoff_upper(minus_coins, e1) == pytest.approx(1010.82, abs=5e-3)
    length = key_length(PLAN, AS_PREDICTED)
    assert length.phase_error == pytest.approx(0.237493, abs=5e-7)
    assert length.phase_error == PLAN.predicted_phase_error
    assert length.phase_error_upper == pytest.approx(0.241574, abs=5e-7)
    assert length.bits == 162402
    assert length.reason == ""


def test_failure_probabilities_add_up() -> None:
    e1 = step_failure(1e-10)
    assert 2 * math.sqrt(3 * e1) + 0.5e-10 == pytest.approx(1e-10)
    assert amplification_cost_bits(1e-10) == pytest.approx(2 * math.log2(1 / (2 * 0.5e-10)))


def test_every_disclosed_bit_costs_one() -> None:
    more = key_length(PLAN, replace(AS_PREDICTED, leak_bits=LEAK + 1000))
    assert more.bits == key_length(PLAN, AS_PREDICTED).bits - 1000


def test_intensity_tolerance_costs_key() -> None:
    careful = predict(CHANNEL, 0.006, 0.006, 0.9, 10**9, 1e-10, (Uncertainty(0.2), Uncertainty(0.2)))
    assert careful.n_x == PLAN.n_x
    assert careful.delta == pytest.approx(PLAN.delta * 10**0.04, rel=1e-2)
    assert key_length(careful, AS_PREDICTED).bits < 0.95 * key_length(PLAN, AS_PREDICTED).bits


def test_dropping_a_part_keeps_all_phase_errors_in_the_rest() -> None:
    whole = key_length(PLAN, AS_PREDICTED)
    kept = 0.9 * PLAN.n_x
    part = key_length(PLAN, replace(AS_PREDICTED, n_kept=kept))
    assert part.phase_error_upper * kept == pytest.approx(whole.phase_error_upper * PLAN.n_x)
    naive = kept * (1 - binary_entropy(whole.phase_error_upper)) - LEAK - amplification_cost_bits(1e-10)
    assert part.bits < naive
    assert key_length(PLAN, replace(AS_PREDICTED, n_kept=0.4 * PLAN.n_x)).bits == 0


def test_a_wrong_prediction_only_loosens() -> None:
    """Kato's parameter comes from the plan: a plan that is far off gives less key, never more than its own."""
    honest = key_length(PLAN, AS_PREDICTED)
    for factor in (0.1, 0.5, 2.0, 10.0):
        other = replace(PLAN, m_y=min(factor * PLAN.m_y, PLAN.n_y))
        assert key_length(other, AS_PREDICTED).bits < honest.bits


def test_the_coin_uses_observed_successes() -> None:
    """Fewer coin successes than predicted leave the same minus coins among fewer rounds."""
    poorer = key_length(PLAN, replace(AS_PREDICTED, n_s=0.9 * PLAN.n_s))
    assert poorer.delta_prime == pytest.approx(key_length(PLAN, AS_PREDICTED).delta_prime / 0.9)
    assert poorer.bits < key_length(PLAN, AS_PREDICTED).bits


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        (Observed(0, 0, 0, 0, 0), "no XX or no YY"),
        (Observed(100, 0, 0, 1, 0), "no XX or no YY"),
        (Observed(0, 100, 0, 100, 0), "no XX or no YY"),
        (Observed(100, 1, 0, 2, 0), "1/2"),
        (Observed(100, 1, 1, 2, 0), "1/2"),
        (Observed(10**6, 13000, 13000, 26000, 0), "1/2"),
        (Observed(10**6, 13000, 60, 26000, 10**6), "leak"),
        (Observed(10**6, 13000, 60, 26000, 0, n_kept=0), "no XX"),
        (Observed(10**6, 13000, 13001, 26000, 0), "errors in"),
        (Observed(10**6, 13000, 60, 12999, 0), "coin rounds"),
        (Observed(10**6, 13000, 60, 2 * 10**6, 0), "coin rounds"),
        (Observed(10**6, 13000, 60, 26000, 0, n_kept=10**6 + 1), "kept"),
        (Observed(-1, 13000, 60, 26000, 0), "negative"),
        (Observed(10**6, 13000, 60, 26000, -1), "negative"),
        (Observed(10**6, 13000, math.nan, 26000, 0), "not a number"),
    ],
)
def test_no_key_and_no_exception(observed: Observed, reason: str) -> None:
    length = key_length(PLAN, observed)
    assert length.bits == 0
    assert reason in length.reason


def test_an_empty_plan_gives_nothing_either() -> None:
    empty = FinitePlan(coin_rounds=0, delta=0, n_x=0, n_y=0, m_y=0, n_s=0, eps_sec=1e-10)
    assert empty.predicted_phase_error == 0.5
    assert key_length(empty, Observed(5, 5, 0, 10, 0)).bits == 0
    with pytest.raises(ValueError, match="eps_sec"):
        replace(empty, eps_sec=0.0)


def test_large_blocks_approach_the_asymptotic_rate() -> None:
    fractions = []
    for exponent in (9, 11, 13, 15):
        plan = predict(CHANNEL, 0.006, 0.006, 0.9, 10**exponent, 1e-10)
        qber = plan.m_y / plan.n_y
        leak = 1.16 * plan.n_x * binary_entropy(qber)
        fractions.append(
            key_length(plan, Observed(plan.n_x, plan.n_y, plan.m_y, plan.n_s, leak)).bits / plan.n_x
        )
    assert fractions == sorted(fractions)
    limit = asymptotic(CHANNEL, 0.006, 0.006, 0.9, 1.16)
    assert fractions[-1] == pytest.approx(limit.rate / (0.81 * limit.gain), rel=0.01)
    assert fractions[-1] < limit.rate / (0.81 * limit.gain)


def test_katos_parameters_come_from_the_plan_and_not_from_the_block() -> None:
    """A parameter tuned to the counts that came out would void the inequality."""
    e1 = step_failure(1e-10)
    n_x, n_y, m_y = 1.02 * PLAN.n_x, 1.1 * PLAN.n_y, 2.0 * PLAN.m_y
    length = key_length(PLAN, Observed(n_x, n_y, m_y, PLAN.n_s, LEAK))
    planned_y = kato_a(PLAN.n_y, PLAN.m_y, e1)
    planned_x = kato_a(PLAN.n_x, PLAN.n_x * (1 - PLAN.predicted_phase_error), e1)
    assert length.e_y_upper * n_y == pytest.approx(sum_upper(m_y, n_y, planned_y, e1))
    assert length.e_y_upper * n_y > 1.001 * sum_upper(m_y, n_y, kato_a(n_y, m_y, e1), e1)
    assert length.phase_error_upper * n_x == pytest.approx(
        count_upper(n_x * length.phase_error, n_x, planned_x, e1)
    )
