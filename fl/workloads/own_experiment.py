"""``train MODULE:CLASS``: a workload that is not ours, beside the same training in float32."""

from __future__ import annotations

from fl.experiments.base import Defaults, Plan, chosen_seeds, quick_note
from fl.experiments.options import TrainOptions
from fl.workloads.base import Task
from fl.workloads.digits.experiment import federated_cell, with_float32

CLIENTS, SEEDS, QUICK_ROUNDS, QUICK_SEEDS = 4, 5, 5, 2


def plan(options: TrainOptions, task: Task, title: str) -> Plan:
    """The cells of this experiment: as many rounds as the task says, under the title that it gives itself."""
    rounds = task.defaults.rounds
    defaults = Defaults(CLIENTS, rounds, SEEDS, min(QUICK_ROUNDS, rounds), QUICK_SEEDS)
    primary = federated_cell(options, task, defaults)
    notes = (quick_note(f"five seeds of {rounds} rounds"),) if options.quick else ()
    return with_float32(title, options, primary, chosen_seeds(options, defaults), notes)
