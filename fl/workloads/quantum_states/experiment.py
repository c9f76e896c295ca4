"""``train quantum-states``: what a fourth client adds.

The claim (arXiv 2501.12709) is at least 2 % accuracy from the fourth client.  Each seed trains with all
clients and with the first three of them on the same shards, so that the gain is paired; beside them stand
one party that has every training state (many more than the clients hold: shards are small on purpose) and
the best single threshold that an oracle could choose.
"""

from __future__ import annotations

import msgspec

from fl.experiments.base import Cell, Defaults, Plan, Versus, chosen_seeds, quick_note
from fl.experiments.options import OptionsError, TrainOptions
from fl.workloads import parse_task
from fl.workloads.base import Task
from fl.workloads.digits.experiment import federated_cell

DEFAULTS = Defaults(clients=4, rounds=40, seeds=40, quick_rounds=15, quick_seeds=2)
"""The paired gain scatters by 4 to 10 points between seeds: forty of them leave an interval of 1.5 to 3 points."""

TITLES = {"entanglement": "Quantum states by entanglement", "magic": "Quantum states by magic"}


def plan(options: TrainOptions, task: Task) -> Plan:
    """The cells of this experiment."""
    primary = federated_cell(options, task, DEFAULTS)
    cells, comparisons = [primary], []
    if options.baselines:
        clients = primary.config.n_clients
        if clients < 3:
            raise OptionsError(
                f"{clients} clients leave none to do without; use at least 3, or --no-baselines"
            )
        fewer = _one_fewer(primary, options.ring_width)
        cells += [
            fewer,
            _cell("centralised", "one party with all training states", primary),
            _cell("oracle", "oracle threshold", primary),
        ]
        comparisons = [
            Versus("gain-of-last-client", f"{clients} clients minus {clients - 1}", "federated", fewer.name),
            Versus(
                "federated-centralised", "clients minus one party with all states", "federated", "centralised"
            ),
        ]
    notes = (quick_note(f"{DEFAULTS.seeds} seeds of {DEFAULTS.rounds} rounds"),) if options.quick else ()
    return Plan(
        TITLES[parse_task(options.task).model],
        options,
        tuple(cells),
        chosen_seeds(options, DEFAULTS),
        tuple(comparisons),
        notes,
    )


def _one_fewer(primary: Cell, ring_width: int | None) -> Cell:
    """The same shards without the last client's."""
    config = primary.config
    fewer = msgspec.structs.replace(
        config,
        clients=config.clients[:-1],
        colluders=0,
        survivors=0,
        min_clients=0,
        ring_width=ring_width or 0,
    )
    return Cell("one-client-fewer", f"{fewer.n_clients} clients, {fewer.mode}", "federated", fewer)


def _cell(kind: str, title: str, primary: Cell) -> Cell:
    return Cell(kind, title, "centralised" if kind == "centralised" else "oracle", primary.config)
