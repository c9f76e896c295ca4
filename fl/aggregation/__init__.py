"""Ways of adding up model updates, by the name of their mode."""

from __future__ import annotations

from fl.aggregation.base import Aggregation, AggregationError, RoundRules, Security, model_digest
from fl.aggregation.lightsecagg import LightSecAgg
from fl.aggregation.otp import ExpandedKeys, OneTimePads
from fl.aggregation.plain import Plain
from fl.config import FLConfig, Mode

__all__ = [
    "MODES",
    "Aggregation",
    "AggregationError",
    "RoundRules",
    "Security",
    "aggregation_for",
    "model_digest",
]

MODES: dict[Mode, type[Aggregation]] = {
    "otp": OneTimePads,
    "lightsecagg": LightSecAgg,
    "expanded": ExpandedKeys,
    "plain": Plain,
}


def aggregation_for(config: FLConfig, n_parameters: int) -> Aggregation:
    """The aggregation of the run's mode; there is no default and no fallback."""
    return MODES[config.mode](config, n_parameters)
