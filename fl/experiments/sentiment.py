"""``train sentiment``: a hybrid head beside a classical one of the same size.

Whatever the circuit gives must be more than what a classical layer of its size gives, so the classical
control runs with the same clients, seeds and protection.  Beside both stands the hybrid model trained in
one place, and in the full experiment low-rank adapters in the encoder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from fl.experiments.base import Cell, Defaults, Plan, Versus, chosen_seeds, quick_note
from fl.experiments.digits import federated_cell
from fl.experiments.options import TrainOptions
from fl.tasks import MODELS, load_task, parse_task
from fl.tasks.base import Task

DEFAULTS = Defaults(clients=4, rounds=5, seeds=5, quick_rounds=5, quick_seeds=2)
CONTROL = {"hybrid": "classical", "hybrid-lora": "classical-lora"}
ADAPTERS = {"hybrid": "hybrid-lora"}


def plan(options: TrainOptions, task: Task, data_folder: Path | None = None) -> Plan:
    """The cells of this experiment."""
    defaults = replace(DEFAULTS, rounds=task.defaults.rounds, quick_rounds=task.defaults.rounds)
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
            cells.append(_model(options, primary, "control", control, data_folder))
            comparisons.append(
                Versus("hybrid-control", f"{spec.model} minus {control}", "federated", "control")
            )
        adapters = ADAPTERS.get(spec.model)
        if adapters in MODELS[spec.task] and not options.quick:
            cells.append(_model(options, primary, "adapters", adapters, data_folder))
            comparisons.append(
                Versus("adapters-head", f"{adapters} minus {spec.model}", "adapters", "federated")
            )
    notes = (
        (quick_note(f"five seeds of {defaults.rounds} rounds, adapters included"),) if options.quick else ()
    )
    return Plan(
        "Sentiment of film reviews",
        options,
        tuple(cells),
        chosen_seeds(options, DEFAULTS),
        tuple(comparisons),
        notes,
    )


def _model(options: TrainOptions, primary: Cell, name: str, model: str, data_folder: Path | None) -> Cell:
    """The same clients with another model."""
    spec = parse_task(options.task)
    task_name = f"{spec.task}:{model}@{spec.split}"
    task = load_task(task_name, data_folder)
    config = msgspec.structs.replace(
        primary.config,
        task=task_name,
        task_fingerprint=task.fingerprint,
        clip=options.clip or task.defaults.clip,
        rounds=options.rounds or min(primary.config.rounds, task.defaults.rounds),
    )
    return Cell(name, f"{config.n_clients} clients, {config.mode}, {model}", "federated", config)
