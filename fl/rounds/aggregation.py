"""From the settings of a run to the aggregation of its mode; there is no default and no fallback."""

from __future__ import annotations

from fl.modes.base import Aggregation, aggregation_class, model_digest
from fl.rounds.compression import Compression
from fl.rounds.config import FLConfig
from fl.rounds.description import describe
from fl.workloads.base import Task
from orchestrator.delivery.consent import RunDescription


def described(config: FLConfig, task: Task) -> RunDescription:
    """The run of ``config``, which has the fingerprint of ``task``, as its clients' operators consent to it."""
    first_model = model_digest(task.initial_parameters(config.seed))
    return aggregation_for(config, task.n_parameters, first_model).description


def aggregation_for(config: FLConfig, n_parameters: int, first_model: bytes | None = None) -> Aggregation:
    """The aggregation of the run's mode.

    With ``first_model``, the :func:`fl.modes.base.model_digest` of the model before round 1, its rounds are those of a
    described run (``.description``), for which clients whose operators consented get pads.
    """
    kind = aggregation_class(config.protection)
    n_values = Compression.from_config(config).n_values(n_parameters)
    bare = kind(config, n_values)
    if first_model is None:
        return bare
    padded = bare.padded(config.n_clients)
    return kind(config, n_values, description=describe(config, n_parameters, first_model, *padded))
