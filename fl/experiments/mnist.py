"""``train mnist``: hundreds of clients, and how few bytes an update can have.

The paper's claim (arXiv 2501.12709) is 75 % less communication at 200 clients.  The run that is asked for
sends a share of the coordinates at few levels (:mod:`fl.compression`); beside it stand the same clients with
float32.  Bytes are those on the wire, ring width included.
"""

from __future__ import annotations

from fl.experiments.base import Defaults, Plan, Versus, chosen_seeds, quick_note
from fl.experiments.digits import federated_cell, float32_cell
from fl.experiments.options import TrainOptions
from fl.tasks.base import Task

DEFAULTS = Defaults(clients=200, rounds=40, seeds=3, quick_rounds=12)


def plan(options: TrainOptions, task: Task) -> Plan:
    """The cells of this experiment."""
    primary = federated_cell(options, task, DEFAULTS)
    cells, comparisons = [primary], []
    if options.baselines:
        cells.append(float32_cell(primary))
        comparisons.append(Versus("federated-float32", "protected minus float32", "federated", "float32"))
    return Plan(
        "Handwritten digits (MNIST)",
        options,
        tuple(cells),
        chosen_seeds(options, DEFAULTS),
        tuple(comparisons),
        (quick_note("three seeds of 40 rounds"),) if options.quick else (),
    )
