"""How often chance alone makes a misfit as large as the one that was seen."""

from __future__ import annotations


def by_chance(chi2: float, degrees: float) -> float:
    """The probability of at least ``chi2`` for so many degrees of freedom."""
    from scipy.special import chdtrc  # a fifth of a second, not for processes that never calibrate

    return float(chdtrc(degrees, chi2))
