"""A run as its clients' operators consent to it, derived from the settings of training.

Server and clients derive the description each for themselves, from the announced settings
(:class:`fl.rounds.config.FLConfig`, which has one form for one setting) and from the first model; they hold the same
run exactly if the digests agree.  What is checked against it: :mod:`orchestrator.delivery.consent`.
"""

from __future__ import annotations

from fl.rounds.config import FLConfig
from orchestrator.delivery.consent import DESCRIPTION_VERSION, DescribedArray, RunDescription


def data_name(task: str) -> str:
    """What a task trains on, whatever its model and split: the first part of its name."""
    return task.partition("@")[0].partition(":")[0]


def describe(
    config: FLConfig, n_parameters: int, first_model: bytes, n_values: int, ring_width: int
) -> RunDescription:
    """The description of a run; ``first_model`` is a :func:`fl.modes.base.model_digest`.

    ``n_values`` numbers of ``ring_width`` bits are what a round takes pads for.  Rounds that give no sum use numbers
    too, at most ``max_aborts_in_a_row`` for each that counts.
    """
    colluders, survivors = config.thresholds if config.protection.thresholds else (0, 0)
    return RunDescription(
        version=DESCRIPTION_VERSION,
        run_id=config.run_id,
        task=config.task,
        task_fingerprint=config.task_fingerprint,
        data=data_name(config.task),
        participants=config.clients,
        weights=config.client_weights,
        rounds=config.rounds,
        attempts=config.rounds * config.max_aborts_in_a_row,
        mode=config.mode,
        cipher=config.protection.cipher,
        colluders=colluders,
        survivors=survivors,
        smallest_set=config.quorum if config.protection.drop_outs else config.n_clients,
        n_parameters=n_parameters,
        n_values=n_values,
        ring_width=ring_width,
        levels=config.levels,
        clip=config.clip,
        clip_decay=config.clip_decay,
        keep=config.keep,
        error_feedback=config.error_feedback,
        seed=config.seed,
        first_model=first_model.hex(),
        arrays=tuple(DescribedArray(each.name, each.size, each.clip) for each in config.arrays),
        sources=config.sources,
    )
