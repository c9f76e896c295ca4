"""Concentration bounds for counts: Kato's inequality for dependent rounds, Chernoff's for independent ones.

The relay may correlate the rounds of a block in any way, so the usual bounds for independent trials do not
apply.  Kato's inequality (arXiv:2002.04357) holds for *any* sequence of n zero-one variables with count ``L``
and sum of conditional probabilities ``S = sum P(x_i = 1 | past)``::

    Pr[ S - L >= (b + a (2 L / n - 1)) sqrt(n) ]  <=  exp( -2 (b**2 - a**2) / (1 + 4 a / (3 sqrt(n)))**2 )

for every ``a`` and ``b >= |a|`` **chosen before the count is known**.  A good ``a`` comes from a predicted
count (Curras-Lorenzo et al., npj Quantum Inf. 7, 22, arXiv:1910.11407, supplementary note on Kato's
inequality); a bad prediction makes the bound loose, never wrong.  The opposite direction is the same
statement about ``1 - x``.

A bound therefore takes two steps: :func:`kato_a` when the block is planned, one of the ``*_upper`` and
``*_lower`` functions when its counts are in.  Results are clamped to ``0 .. n``.
"""

from __future__ import annotations

import math


def kato_a(n: float, predicted: float, eps: float) -> float:
    """The ``a`` that makes ``S - L`` tightest at failure probability ``eps`` if the count is as predicted.

    ``n`` and ``predicted`` are expectations, hence floats; 0 where there is nothing to count.
    """
    _check_eps(eps)
    if n <= 0.0:
        return 0.0
    count = min(max(predicted, 0.0), n)
    le, s = math.log(eps), math.sqrt(n)
    spread = 9.0 * count * (n - count) - 2.0 * n * le
    root = math.sqrt(-(n**2) * le * spread)
    top = 72.0 * s * count * (n - count) * le - 16.0 * n * s * le**2
    top += 9.0 * math.sqrt(2.0) * (n - 2.0 * count) * root
    return 3.0 * top / (4.0 * (9.0 * n - 8.0 * le) * spread)


def kato_b(a: float, n: float, eps: float) -> float:
    """The smallest ``b`` for which the inequality fails with probability at most ``eps``."""
    _check_eps(eps)
    return math.sqrt(a**2 - 0.5 * math.log(eps) * (1.0 + 4.0 * a / (3.0 * math.sqrt(n))) ** 2)


def deviation(count: float, n: float, a: float, eps: float) -> float:
    """Upper bound of ``S - L`` at the observed count ``L`` of ``n`` rounds (not clamped)."""
    return (kato_b(a, n, eps) + a * (2.0 * count / n - 1.0)) * math.sqrt(n)


def sum_upper(count: float, n: float, a: float, eps: float) -> float:
    """Upper bound of the sum of probabilities S; ``a = kato_a(n, predicted count, eps)``."""
    if not _usable(n, a):
        return max(n, 0.0)
    return min(max(count + deviation(count, n, a, eps), 0.0), n)


def sum_lower(count: float, n: float, a: float, eps: float) -> float:
    """Lower bound of S; ``a = kato_a(n, n - predicted count, eps)`` (the inequality for 1 - x)."""
    return n - sum_upper(n - count, n, a, eps) if n > 0.0 else 0.0


def count_lower(total: float, n: float, a: float, eps: float) -> float:
    """Lower bound of an unseen count L whose S is at least ``total``; ``a = kato_a(n, predicted count,
    eps)``.

    The deviation holds the unknown count linearly, so the inequality is solved for it.
    """
    if not _usable(n, a):
        return 0.0
    s = math.sqrt(n)
    return min(max((total - (kato_b(a, n, eps) - a) * s) / (1.0 + 2.0 * a / s), 0.0), n)


def count_upper(total: float, n: float, a: float, eps: float) -> float:
    """Upper bound of an unseen count L whose S is at most ``total``; ``a = kato_a(n, n - predicted count,
    eps)``.

    ``L <= (S + (b + a) sqrt(n)) / (1 + 2 a / sqrt(n))``.
    """
    if not _usable(n, a):
        return max(n, 0.0)
    s = math.sqrt(n)
    return min(max((total + (kato_b(a, n, eps) + a) * s) / (1.0 + 2.0 * a / s), 0.0), n)


def chernoff_upper(mean: float, eps: float) -> float:
    """Upper bound, failing with probability ``eps``, of a count of independent rounds with this mean.

    ``M + b/2 + sqrt(2 M b + b**2 / 4)`` with ``b = ln(1/eps)``: the excess ``delta M`` at which the
    multiplicative Chernoff bound ``exp(-delta**2 M / (2 + delta))`` equals eps.
    """
    _check_eps(eps)
    b = -math.log(eps)
    return mean + 0.5 * b + math.sqrt(2.0 * mean * b + 0.25 * b**2)


def _usable(n: float, a: float) -> bool:
    """Whether ``a`` gives ``n`` rounds a bound that can be solved for the count (else only 0 .. n holds)."""
    return n > 0.0 and 1.0 + 2.0 * a / math.sqrt(n) > 0.0


def _check_eps(eps: float) -> None:
    if not 0.0 < eps < 1.0:
        raise ValueError(f"a failure probability lies strictly between 0 and 1, got {eps}")
