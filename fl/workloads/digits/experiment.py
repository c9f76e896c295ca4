"""``train digits``: the first run on a fresh machine, with no data to fetch.

Four clients learn scikit-learn's 1797 handwritten digits; beside them the same training in float32.
"""

from __future__ import annotations

from fl.experiments.base import Cell, Defaults, Plan, Versus, chosen_seeds, federated_config, quick_note
from fl.experiments.options import TrainOptions
from fl.workloads.base import Task

DEFAULTS = Defaults(clients=4, rounds=10, seeds=5, quick_rounds=5, quick_seeds=2)


def plan(options: TrainOptions, task: Task) -> Plan:
    """The cells of this experiment."""
    primary = federated_cell(options, task, DEFAULTS)
    notes = (quick_note("five seeds of ten rounds"),) if options.quick else ()
    return with_float32("Handwritten digits, 8x8", options, primary, chosen_seeds(options, DEFAULTS), notes)


def federated_cell(options: TrainOptions, task: Task, defaults: Defaults) -> Cell:
    """The run that was asked for."""
    config = federated_config(task, options.task, options, defaults)
    title = f"{config.n_clients} clients, {config.mode}"
    return Cell("federated", title, "federated", config, options.drop_outs)


def float32_cell(primary: Cell) -> Cell:
    """The same clients, averaged as they are: neither clipped, quantised nor protected."""
    title = f"{primary.config.n_clients} clients, float32, unprotected"
    return Cell("float32", title, "float32", primary.config, primary.drop_outs)


def with_float32(
    title: str, options: TrainOptions, primary: Cell, seeds: tuple[int, ...], notes: tuple[str, ...]
) -> Plan:
    """A plan of the run and its float32 baseline."""
    if not options.baselines:
        return Plan(title, options, (primary,), seeds, (), notes)
    versus = Versus("federated-float32", "protected minus float32", "federated", "float32")
    return Plan(title, options, (primary, float32_cell(primary)), seeds, (versus,), notes)
