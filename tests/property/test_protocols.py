"""Whatever the counts: the length is a number of bits between 0 and the sifted key, and bad news shortens it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.protocols.four_phase.bounds import (
    FinitePlan,
    Observed,
    key_length,
    phase_error,
    predict,
)
from orchestrator.protocols.four_phase.coin import Uncertainty, coin_overlap_defect
from orchestrator.protocols.four_phase.rates import Scenario
from orchestrator.protocols.kato import count_lower, count_upper, deviation, kato_a, sum_lower, sum_upper
from orchestrator.protocols.optical_channel import OpticalChannel

EXAMPLES = settings(max_examples=150, deadline=None)

EPSILONS = st.floats(1e-40, 0.5)
counts = st.integers(0, 10**9)


@st.composite
def plans(draw: st.DrawFn) -> FinitePlan:
    channel = OpticalChannel(draw(st.floats(0, 15)), draw(st.floats(0, 15)), draw(st.floats(0.9, 1.0)), 1e-7)
    light = Uncertainty(draw(st.floats(0, 0.5)))
    return predict(
        channel,
        0.06 * channel.eta_a,
        0.06 * channel.eta_b,
        draw(st.integers(64, 127)) / 128,
        draw(st.integers(1, 10**12)),
        1e-10,
        (light, light),
    )


@st.composite
def blocks(draw: st.DrawFn, plan: FinitePlan) -> Observed:
    """Counts near the plan's, or anything that a block could show."""

    def near(expected: float) -> int:
        return round(expected * draw(st.floats(0.5, 1.5)))

    n_x, n_y = near(plan.n_x), near(plan.n_y)
    m_y = min(near(plan.m_y), n_y)
    n_s = n_y + min(near(plan.n_s - plan.n_y), n_x)
    return Observed(n_x, n_y, m_y, n_s, near(0.1 * plan.n_x))


@EXAMPLES
@given(st.data(), plans())
def test_length_lies_between_nothing_and_the_sifted_key(data: st.DataObject, plan: FinitePlan) -> None:
    block = data.draw(blocks(plan))
    length = key_length(plan, block)
    assert 0 <= length.bits <= block.n_x
    assert (length.bits == 0) == bool(length.reason)
    assert 0 <= length.phase_error <= length.phase_error_upper <= 0.5 or length.bits == 0


@EXAMPLES
@given(plans(), counts, counts, counts, counts, st.integers(-10, 10**9))
def test_no_counts_raise(plan: FinitePlan, n_x: int, n_y: int, m_y: int, n_s: int, leak: int) -> None:
    length = key_length(plan, Observed(n_x, n_y, m_y, n_s, leak))
    assert 0 <= length.bits <= n_x


@EXAMPLES
@given(st.data(), plans(), st.integers(1, 10**6))
def test_bad_news_never_lengthens(data: st.DataObject, plan: FinitePlan, more: int) -> None:
    block = data.draw(blocks(plan))
    bits = key_length(plan, block).bits
    assert key_length(plan, replace(block, leak_bits=block.leak_bits + more)).bits <= bits
    assert key_length(plan, replace(block, m_y=min(block.m_y + more, block.n_y))).bits <= bits
    assert key_length(plan, replace(block, n_s=max(block.n_s - more, block.n_y))).bits <= bits
    assert key_length(plan, replace(block, n_kept=max(block.n_x - more, 0))).bits <= bits


@EXAMPLES
@given(st.floats(1, 1e10), st.floats(0, 1), EPSILONS)
def test_kato_deviations_are_positive_and_bounds_ordered(n: float, part: float, eps: float) -> None:
    count = part * n
    up, down = kato_a(n, count, eps), kato_a(n, n - count, eps)
    assert deviation(count, n, up, eps) > 0 or part > 0.999  # nothing is missing from a full count
    slack = 1e-6 * n
    assert 0 <= sum_lower(count, n, down, eps) <= count + slack
    assert count - slack <= sum_upper(count, n, up, eps) <= n
    assert 0 <= count_lower(count, n, up, eps) <= count + slack
    assert count - slack <= count_upper(count, n, down, eps) <= n


@EXAMPLES
@given(st.floats(1, 1e10), st.floats(0, 1), st.floats(0, 1), EPSILONS)
def test_the_best_prediction_is_the_true_count(n: float, part: float, guess: float, eps: float) -> None:
    best = deviation(part * n, n, kato_a(n, part * n, eps), eps)
    assert deviation(part * n, n, kato_a(n, guess * n, eps), eps) >= best * (1 - 1e-6) - 1e-6


@EXAMPLES
@given(st.floats(0, 0.6), st.floats(0, 0.6), st.floats(0, 0.1))
def test_phase_error_grows_with_both_arguments(e_y: float, delta: float, step: float) -> None:
    here = phase_error(e_y, delta)
    assert 0 <= here <= 0.5
    assert here >= min(e_y, 0.5)
    assert phase_error(e_y + step, delta) >= here - 1e-15
    assert phase_error(e_y, delta + step) >= here - 1e-15


@EXAMPLES
@given(st.floats(0, 1.5), st.floats(0, 0.05))
def test_brighter_light_tells_the_bases_apart_better(mu: float, more: float) -> None:
    assert coin_overlap_defect(mu + more) >= coin_overlap_defect(mu) - 1e-15


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 25), st.floats(0, 25), st.floats(0.9, 1), st.integers(1, 13), st.floats(0.1, 3))
def test_more_loss_never_helps(
    loss_a: float, loss_b: float, visibility: float, exponent: int, more: float
) -> None:
    assume(loss_a + loss_b < 45)
    near, far = (
        Scenario(OpticalChannel(loss_a, loss, visibility, 1e-7), 1.16, 10**exponent).optimise()
        for loss in (loss_b, loss_b + more)
    )
    assert near.key_bits is not None
    assert far.key_bits is not None
    assert far.key_bits <= near.key_bits * (1 + 1e-6) + 1
