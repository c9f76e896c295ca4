"""Ways of adding up model updates, by the name of their mode."""

from __future__ import annotations

from fl.aggregation.base import Aggregation
from fl.aggregation.otp import OneTimePads
from fl.aggregation.plain import Plain
from fl.config import Mode

__all__ = ["Aggregation", "aggregation_for"]

_MODES: dict[Mode, type[Aggregation]] = {"otp": OneTimePads, "plain": Plain}


def aggregation_for(mode: Mode) -> Aggregation:
    """The aggregation of ``mode``; there is no default and no fallback."""
    return _MODES[mode]()
