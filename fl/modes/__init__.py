"""Ways of adding up model updates, by the name of their mode."""

from __future__ import annotations

from fl.modes.base import Aggregation, AggregationError, RoundRules, Security, model_digest
from fl.modes.lightsecagg import LightSecAgg
from fl.modes.otp import ExpandedKeys, OneTimePads
from fl.modes.plain import Plain
from fl.rounds.config import FLConfig, Mode
from fl.workloads.base import Task
from orchestrator.delivery.consent import RunDescription

__all__ = [
    "MODES",
    "Aggregation",
    "AggregationError",
    "RoundRules",
    "Security",
    "aggregation_for",
    "described",
    "model_digest",
]

MODES: dict[Mode, type[Aggregation]] = {
    "otp": OneTimePads,
    "lightsecagg": LightSecAgg,
    "expanded": ExpandedKeys,
    "plain": Plain,
}


def described(config: FLConfig, task: Task) -> RunDescription:
    """The run of ``config``, which has the fingerprint of ``task``, as its clients' operators consent to it."""
    first_model = model_digest(task.initial_parameters(config.seed))
    return aggregation_for(config, task.n_parameters, first_model).description


def aggregation_for(config: FLConfig, n_parameters: int, first_model: bytes | None = None) -> Aggregation:
    """The aggregation of the run's mode; there is no default and no fallback.

    With ``first_model``, the :func:`model_digest` of the model before round 1, its rounds are those of a
    described run (``.description``), for which clients whose operators consented get pads.
    """
    return MODES[config.mode](config, n_parameters, first_model=first_model)
