"""``train mnist``: hundreds of clients, and how few bytes an update can have.

The paper's claim (arXiv 2501.12709) is 75 % less communication at 200 clients.  The run that is asked for
sends a share of the coordinates at few levels with error feedback (:mod:`fl.compression`); beside it stand
the same clients with every coordinate at 127 levels, and with float32.  Bytes are those on the wire, ring
width included.
"""

from __future__ import annotations

from fl.experiments.base import Cell, Defaults, Plan, Versus, chosen_seeds, federated_config, quick_note
from fl.experiments.digits import federated_cell, float32_cell
from fl.experiments.options import TrainOptions
from fl.tasks.base import Task

DEFAULTS = Defaults(clients=200, rounds=40, seeds=3, quick_rounds=12)
COMPRESSED: dict[str, object] = {"levels": 5, "keep": 0.29, "error_feedback": True}
FULL_LEVELS = 127
MANY = 50
"""From so many clients on the run compresses unless told otherwise; a few clients have key to spare."""


def plan(options: TrainOptions, task: Task) -> Plan:
    """The cells of this experiment."""
    clients = options.clients or DEFAULTS.clients
    asked = (options.levels, options.keep, options.error_feedback, options.ring_bits)
    compressed = clients >= MANY and all(value is None for value in asked)
    defaults = Defaults(
        DEFAULTS.clients,
        DEFAULTS.rounds,
        DEFAULTS.seeds,
        DEFAULTS.quick_rounds,
        settings=COMPRESSED if compressed else {},
    )
    primary = federated_cell(options, task, defaults)
    cells, comparisons = [primary], []
    if options.baselines:
        cells.append(float32_cell(primary))
        comparisons.append(Versus("federated-float32", "protected minus float32", "federated", "float32"))
        if compressed and not options.quick:
            cells.append(_uncompressed(options, task))
            comparisons.append(
                Versus(
                    "federated-uncompressed", "compressed minus all coordinates", "federated", "uncompressed"
                )
            )
    notes = (
        (quick_note("three seeds of 40 rounds, with the uncompressed run beside"),) if options.quick else ()
    )
    return Plan(
        "Handwritten digits (MNIST)",
        options,
        tuple(cells),
        chosen_seeds(options, DEFAULTS),
        tuple(comparisons),
        notes,
    )


def _uncompressed(options: TrainOptions, task: Task) -> Cell:
    """Every coordinate at 127 levels, as the paper's quantiser of 8 bits has it."""
    defaults = Defaults(
        DEFAULTS.clients,
        DEFAULTS.rounds,
        DEFAULTS.seeds,
        DEFAULTS.quick_rounds,
        settings={"levels": FULL_LEVELS},
    )
    config = federated_config(task, options.task, options, defaults)
    return Cell(
        "uncompressed",
        f"{config.n_clients} clients, {config.mode}, all coordinates at {FULL_LEVELS} levels",
        "federated",
        config,
        options.drop_outs,
    )
