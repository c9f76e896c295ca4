"""``train mnist``: hundreds of clients, and how few bytes an update can have.

The paper's claim (arXiv 2501.12709) is 75 % less communication at 200 clients.  The run that is asked for
sends a share of the coordinates at few levels with error feedback (:mod:`fl.compression`); beside it stand
the same clients with every coordinate at 127 levels, and with float32.  Bytes are those on the wire, ring
width included.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from fl.experiments.base import Cell, Defaults, Plan, Versus, chosen_seeds, federated_config, quick_note
from fl.experiments.digits import federated_cell, float32_cell
from fl.experiments.options import TrainOptions
from fl.tasks.base import Task

DEFAULTS = Defaults(clients=200, rounds=40, seeds=3, quick_rounds=12)
COMPRESSION = ("levels", "keep", "error_feedback", "clip", "clip_decay", "ring_bits")


def plan(options: TrainOptions, task: Task) -> Plan:
    """The cells of this experiment."""
    primary = federated_cell(options, task, DEFAULTS)
    cells, comparisons = [primary], []
    if options.baselines:
        cells.append(float32_cell(primary))
        comparisons.append(Versus("federated-float32", "protected minus float32", "federated", "float32"))
        if primary.config.keep < 1 and not options.quick:
            cells.append(_uncompressed(options, task))
            comparisons.append(
                Versus(
                    "federated-uncompressed", "compressed minus all coordinates", "federated", "uncompressed"
                )
            )
    full = "three seeds of 40 rounds, with the uncompressed run beside"
    return Plan(
        "Handwritten digits (MNIST)",
        options,
        tuple(cells),
        chosen_seeds(options, DEFAULTS),
        tuple(comparisons),
        (quick_note(full),) if options.quick else (),
    )


def _uncompressed(options: TrainOptions, task: Task) -> Cell:
    """Every coordinate at the levels that suit a few clients, as the paper's quantiser of 8 bits has it."""
    few = task.defaults
    whole = {"levels": few.levels, "clip": few.clip, "keep": 1.0, "error_feedback": False}
    defaults = replace(DEFAULTS, settings={**whole, "clip_decay": few.clip_decay})
    bare = msgspec.structs.replace(options, **dict.fromkeys(COMPRESSION))
    config = federated_config(task, options.task, bare, defaults)
    title = f"{config.n_clients} clients, {config.mode}, all coordinates at {config.levels} levels"
    return Cell("uncompressed", title, "federated", config, options.drop_outs)
