"""``train sentiment``: a hybrid head beside a classical one of the same size.

Whatever the circuit gives must be more than what a classical layer of its size gives, so the classical
control runs with the same clients, seeds and protection.  Beside both stands the hybrid model trained in
one place, and in the full experiment low-rank adapters in the encoder.

Settings are chosen with ``--split validation``, which touches no test review, and seeds that are reported
nowhere: ``--seed 11``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fl.experiments.base import Cell, Defaults, Plan, Versus, chosen_seeds, federated_config, quick_note
from fl.experiments.options import TrainOptions
from fl.workloads import MODELS, TaskSpec, open_task, parse_task
from fl.workloads.base import Task
from fl.workloads.digits.experiment import federated_cell

DEFAULTS = Defaults(clients=4, rounds=5, seeds=5, quick_rounds=5, quick_seeds=2)
CONTROL = {"hybrid": "classical", "hybrid-lora": "classical-lora"}
ADAPTERS = {"hybrid": "hybrid-lora"}

VALIDATION_NOTE = (
    "split validation: trained on four fifths of the training reviews, accuracy on the last fifth of them; "
    "for choosing settings, these are not figures of the test set"
)
CUT_NOTE = "of IMDB's reviews the encoder reads the first 128 tokens; nine of ten reviews are longer"
NO_ADAPTERS_NOTE = (
    "no adapters on IMDB: with 124 tokens a review instead of 27 they would take about an hour of CPU time per "
    "seed and 2.4 GB of cached token states"
)


def plan(options: TrainOptions, task: Task, data_folder: Path | None = None) -> Plan:
    """The cells of this experiment."""
    defaults = _defaults(task)
    primary = federated_cell(options, task, defaults)
    spec = parse_task(options.task)
    cells, comparisons = [primary], []
    if options.baselines:
        cells.append(
            Cell("centralised", f"{spec.model}, all data in one place", "centralised", primary.config)
        )
        comparisons.append(
            Versus("federated-centralised", "federated minus centralised", "federated", "centralised")
        )
        if (control := CONTROL.get(spec.model)) is not None:
            cells.append(_model(options, "control", control, data_folder))
            comparisons.append(
                Versus("hybrid-control", f"{spec.model} minus {control}", "federated", "control")
            )
        if (adapters := _adapters(spec)) is not None and not options.quick:
            cells.append(_model(options, "adapters", adapters, data_folder))
            comparisons.append(
                Versus("adapters-head", f"{adapters} minus {spec.model}", "adapters", "federated")
            )
    return Plan(
        "Sentiment of film reviews",
        options,
        tuple(cells),
        chosen_seeds(options, DEFAULTS),
        tuple(comparisons),
        _notes(options, spec, defaults),
    )


def _defaults(task: Task) -> Defaults:
    """Each model has its own number of rounds, full and quick."""
    return replace(DEFAULTS, rounds=task.defaults.rounds, quick_rounds=task.defaults.rounds)


def _adapters(spec: TaskSpec) -> str | None:
    """The model with adapters that is shown beside the one asked for."""
    model = ADAPTERS.get(spec.model)
    return model if model in MODELS[spec.task] else None


def _notes(options: TrainOptions, spec: TaskSpec, defaults: Defaults) -> tuple[str, ...]:
    notes = []
    if options.quick:
        included = ", adapters included" if options.baselines and _adapters(spec) else ""
        notes.append(quick_note(f"{defaults.seeds} seeds of {defaults.rounds} rounds{included}"))
    if spec.split == "validation":
        notes.append(VALIDATION_NOTE)
    if spec.task == "sentiment-imdb":
        notes.append(CUT_NOTE)
    if options.baselines and spec.model in ADAPTERS and _adapters(spec) is None:
        notes.append(NO_ADAPTERS_NOTE)
    return tuple(notes)


def _model(options: TrainOptions, name: str, model: str, data_folder: Path | None) -> Cell:
    """The same clients with another model."""
    spec = parse_task(options.task)
    task_name = f"{spec.task}:{model}@{spec.split}"
    task = open_task(task_name, data_folder)
    config = federated_config(task, task_name, options, _defaults(task))
    return Cell(name, f"{config.n_clients} clients, {config.mode}, {model}", "federated", config)
