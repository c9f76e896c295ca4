"""Kato's inequality: the optimal parameter, and that the bounds hold for rounds that depend on the past."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar

from orchestrator.protocols.kato import (
    chernoff_upper,
    count_lower,
    count_upper,
    deviation,
    kato_a,
    kato_b,
    sum_lower,
    sum_upper,
)

EPS = 0.05


@pytest.mark.parametrize(("n", "count", "eps"), [(1e4, 50.0, 1e-22), (1e6, 3e5, 1e-10), (500.0, 490.0, 1e-3)])
def test_the_closed_form_of_a_minimises_the_deviation(n: float, count: float, eps: float) -> None:
    a = kato_a(n, count, eps)
    best = minimize_scalar(
        lambda x: deviation(count, n, x, eps),
        bounds=(-0.7 * math.sqrt(n), 5 * math.sqrt(n)),
        method="bounded",
    )
    assert deviation(count, n, a, eps) == pytest.approx(best.fun, rel=1e-6)


def test_b_gives_exactly_the_wanted_failure_probability() -> None:
    n, eps = 13457.1, 2e-22
    a = kato_a(n, 68.2, eps)
    b = kato_b(a, n, eps)
    assert math.exp(-2 * (b**2 - a**2) / (1 + 4 * a / (3 * math.sqrt(n))) ** 2) == pytest.approx(eps)
    # the form printed beside the inequality in the literature
    le, s = math.log(eps), math.sqrt(n)
    printed = math.sqrt(18 * a**2 * n - (16 * a**2 + 24 * a * s + 9 * n) * le) / (3 * math.sqrt(2 * n))
    assert b == pytest.approx(printed)


def test_rare_events_cost_far_less_than_azuma() -> None:
    n, eps = 1e6, 1e-10
    azuma = math.sqrt(-2 * n * math.log(eps))
    assert deviation(100.0, n, kato_a(n, 100.0, eps), eps) < azuma / 40


def test_both_directions_are_one_statement() -> None:
    n, count, eps = 1000.0, 40.0, 1e-6
    a = kato_a(n, n - count, eps)
    assert sum_lower(count, n, a, eps) == pytest.approx(n - sum_upper(n - count, n, a, eps))
    assert sum_lower(count, n, a, eps) < count < sum_upper(count, n, kato_a(n, count, eps), eps)


def test_count_bounds_invert_sum_bounds() -> None:
    """The largest count whose lower bound of S is still ``total`` is the upper bound of the count."""
    n, eps = 1000.0, 1e-6
    a = kato_a(n, n - 60.0, eps)
    upper = count_upper(60.0, n, a, eps)
    assert sum_lower(upper, n, a, eps) == pytest.approx(60.0)
    a = kato_a(n, 60.0, eps)
    lower = count_lower(60.0, n, a, eps)
    assert sum_upper(lower, n, a, eps) == pytest.approx(60.0)


@pytest.mark.parametrize("n", [0.0, 1.0, 3.0])
def test_tiny_blocks_give_the_trivial_bound_at_worst(n: float) -> None:
    a = kato_a(n, 0.0, 1e-22)
    assert 0.0 <= sum_lower(0.0, n, a, 1e-22) <= sum_upper(n, n, a, 1e-22) <= n
    assert 0.0 <= count_lower(n, n, a, 1e-22) <= count_upper(n, n, a, 1e-22) <= n


@pytest.mark.parametrize("eps", [0.0, 1.0, -1.0, math.nan])
def test_a_failure_probability_must_be_one(eps: float) -> None:
    with pytest.raises(ValueError, match="failure probability"):
        kato_a(10, 1, eps)
    with pytest.raises(ValueError, match="failure probability"):
        chernoff_upper(10, eps)


Sums = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
Process = Callable[[np.random.Generator, int, int], Sums]


def independent(rng: np.random.Generator, trials: int, n: int) -> Sums:
    """Constant probability 0.05."""
    return np.full(trials, 0.05 * n), rng.binomial(n, 0.05, trials).astype(float)


def dependent(rng: np.random.Generator, trials: int, n: int) -> Sums:
    """Probabilities that swing between 0.01 and 0.09 with the count so far."""
    total, count = np.zeros(trials), np.zeros(trials)
    for _ in range(n):
        p = np.where(count > total, 0.01, 0.09)
        total += p
        count += rng.random(trials) < p
    return total, count


def stopping(sign: float, a: float) -> Process:
    """An adversary that plays until the bound is broken once, then stops: certain ones or zeros from there on."""

    def draw(rng: np.random.Generator, trials: int, n: int) -> Sums:
        total, count = np.zeros(trials), np.zeros(trials)
        b, s = kato_b(a, n, EPS), math.sqrt(n)
        for _ in range(n):
            if sign > 0:
                broken = total - count >= (b + a * (2 * count / n - 1)) * s
            else:
                broken = count - total >= (b + a * (1 - 2 * count / n)) * s
            p = np.where(broken, 0.0, 0.05)
            total += p
            count += rng.random(trials) < p
        return total, count

    return draw


@pytest.mark.parametrize("process", [independent, dependent], ids=["independent", "dependent"])
def test_bounds_hold_as_often_as_promised(process: Process) -> None:
    n, trials = 1000, 4000
    total, count = process(np.random.default_rng(5), trials, n)
    allowed = EPS * trials + 5 * math.sqrt(EPS * trials)
    up, down = kato_a(n, 50, EPS), kato_a(n, n - 50, EPS)
    pairs = list(zip(total, count, strict=True))
    above = sum(s > sum_upper(c, n, up, EPS) for s, c in pairs)
    below = sum(s < sum_lower(c, n, down, EPS) for s, c in pairs)
    unseen_above = sum(c > count_upper(s, n, down, EPS) for s, c in pairs)
    unseen_below = sum(c < count_lower(s, n, up, EPS) for s, c in pairs)
    assert max(above, below, unseen_above, unseen_below) <= allowed


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_adversary_that_stops_at_the_right_moment_gains_nothing(sign: float) -> None:
    n, trials = 1000, 4000
    a = kato_a(n, 50 if sign > 0 else n - 50, EPS)
    total, count = stopping(sign, a)(np.random.default_rng(6), trials, n)
    bound = sum_upper if sign > 0 else sum_lower
    broken = sum(sign * (s - bound(c, n, a, EPS)) > 0 for s, c in zip(total, count, strict=True))
    assert broken <= EPS * trials + 5 * math.sqrt(EPS * trials)
    # the test has teeth: with a sixth of the exponent the same adversary wins too often
    loose = math.exp(math.log(EPS) / 6)
    broken = sum(sign * (s - bound(c, n, a, loose)) > 0 for s, c in zip(total, count, strict=True))
    assert broken > EPS * trials


def test_chernoff_holds_and_is_not_idle() -> None:
    counts = np.random.default_rng(7).poisson(30.0, 200_000)
    for eps in (0.1, 1e-3):
        assert np.mean(counts > chernoff_upper(30.0, eps)) <= eps
        assert chernoff_upper(30.0, eps) < 30.0 + 3.5 * math.sqrt(30.0 * -math.log(eps))
    assert chernoff_upper(0.0, 1e-22) == pytest.approx(-math.log(1e-22))
