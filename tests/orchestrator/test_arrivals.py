"""What the plan makes of the arrivals of a block, beside what such blocks give."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocols.base import BlockCounts
from orchestrator.protocols.four_phase.arrivals import arrivals, clicks_per_slot
from orchestrator.protocols.four_phase.bounds import Observed, key_length
from orchestrator.protocols.four_phase.coin import Uncertainty
from orchestrator.protocols.four_phase.planner import FourPhasePlan, block_plan
from orchestrator.protocols.optical_channel import OpticalChannel, click_probabilities

F_EC = 1.05
LIGHT = Uncertainty(0.4, phase_uncertainty_rad=0.01)
PLAN = block_plan(
    4.0, 6.0, n_pulses=2**26, visibility=0.99, dark_count=1e-7, f_ec=F_EC, uncertainties=(LIGHT, LIGHT)
)


def entropy(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def drawn(plan: FourPhasePlan, brightness: float, rng: np.random.Generator, lost: float = 0.0) -> BlockCounts:
    """An honest block with ``brightness`` times the planned light; ``lost`` of its frames are."""
    channel, p = plan.channel, plan.p_x
    x = channel.eta_a * plan.mu_a * brightness, channel.eta_b * plan.mu_b * brightness
    right, wrong = click_probabilities(*x, channel.visibility, channel.dark_count)
    mixed = sum(click_probabilities(*x, channel.visibility, channel.dark_count, math.pi / 2))
    q = 1 - p
    cells = [p * p * right, p * p * wrong, q * q * right, q * q * wrong, 2 * p * q * mixed]
    recorded = round((1 - lost) * plan.n_pulses)
    xx, xx_bad, yy, yy_bad, xy, _ = rng.multinomial(recorded, [*cells, 1 - sum(cells)]).tolist()
    n_key = xx + xx_bad
    return BlockCounts(
        n_pulses=plan.n_pulses,
        n_announced=n_key + yy + yy_bad + xy,
        n_key=n_key,
        n_test=yy + yy_bad,
        n_drawn=rng.binomial(n_key, float(plan.coin_label_probability)),
        test_errors=yy_bad,
        key_errors=xx_bad,
        leak_bits=round(F_EC * n_key * entropy(xx_bad / n_key)),
        lost_pulses=plan.n_pulses - recorded,
    )


@pytest.mark.parametrize("brightness", [0.8, 0.95, 1.0, 1.1])
@pytest.mark.parametrize("lost", [0.0, 0.1])
def test_blocks_of_the_calibrated_ring_give_what_is_predicted(brightness: float, lost: float) -> None:
    """The mean of thirty within two per cent, though key goes with more than the square of the light."""
    rng = np.random.default_rng(7)
    blocks = [drawn(PLAN, brightness, rng, lost) for _ in range(30)]
    made = [PLAN.secret_length(block).bits for block in blocks]
    predicted = [PLAN.predicted_bits(block) for block in blocks]
    assert np.mean(made) == pytest.approx(np.mean(predicted), rel=0.02)
    if brightness < 1 or lost:
        assert np.mean(predicted) < (1.5 * brightness - 0.5) * (1 - lost) * PLAN.expected_bits


def test_the_planned_arrivals_predict_the_plan() -> None:
    counts = BlockCounts(PLAN.n_pulses, round(PLAN.announced), 0, 0, 0, 0, 0)
    assert PLAN.predicted_bits(counts) == pytest.approx(PLAN.expected_bits, rel=1e-4)


def test_everything_is_charged_at_the_planned_intensity() -> None:
    """Half the arrivals: the rounds and error rate of half the light, and Delta of all of it, by the bound itself."""
    channel, recorded = PLAN.channel, PLAN.n_pulses
    gain, qber = channel.gain_and_qber(PLAN.mu_a / 2, PLAN.mu_b / 2)
    clicks = recorded * clicks_per_slot(channel, PLAN.mu_a / 2, PLAN.mu_b / 2, PLAN.p_x)
    predicted = PLAN.predicted_bits(BlockCounts(recorded, round(clicks), 0, 0, 0, 0, 0))
    n_x, n_y = recorded * PLAN.p_x**2 * gain, recorded * (1 - PLAN.p_x) ** 2 * gain
    by_hand = key_length(PLAN.finite, Observed(n_x, n_y, n_y * qber, 2 * n_y, F_EC * n_x * entropy(qber)))
    assert predicted == pytest.approx(by_hand.bits, rel=1e-3)
    dimmer = block_plan(
        4.0, 6.0, n_pulses=recorded, visibility=0.99, dark_count=1e-7, f_ec=F_EC,
        uncertainties=(LIGHT, LIGHT), mu_a=PLAN.mu_a / 2, mu_b=PLAN.mu_b / 2, p_x=PLAN.p_x,
    )  # fmt: skip
    assert predicted < 0.6 * dimmer.expected_bits


def test_the_errors_of_the_block_itself_do_not_enter() -> None:
    good = drawn(PLAN, 1.0, np.random.default_rng(1))
    bad = replace(good, test_errors=2 * good.test_errors, key_errors=0, leak_bits=0, n_key=7, n_test=8)
    assert PLAN.predicted_bits(bad) == PLAN.predicted_bits(good) > 0


def test_dark_counts_alone_predict_nothing() -> None:
    darks = round(2 * PLAN.channel.dark_count * PLAN.n_pulses)
    for clicks, recorded in ((0, PLAN.n_pulses), (darks, PLAN.n_pulses), (0, 0), (5, 0)):
        lost = PLAN.n_pulses - recorded
        counts = BlockCounts(PLAN.n_pulses, clicks, 0, 0, 0, 0, 0, lost_pulses=lost)
        assert PLAN.predicted_bits(counts) == 0


@given(st.floats(1e-3, 4.0), st.floats(0.5, 0.99), st.floats(1e-4, 0.05), st.floats(0.0, 1e-3))
def test_the_brightness_is_found_again(brightness: float, p_x: float, mu: float, scatter: float) -> None:
    channel = OpticalChannel(5.0, 5.0, 0.99, 1e-7, scatter)
    clicks = round(1e15 * clicks_per_slot(channel, brightness * mu, brightness * mu, p_x))
    found = arrivals(channel, mu, mu, p_x, 10**15, clicks)
    assert found.brightness == pytest.approx(brightness, rel=1e-6)
    assert found.qber == pytest.approx(channel.gain_and_qber(brightness * mu, brightness * mu)[1])
