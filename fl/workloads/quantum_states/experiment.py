"""``train quantum-states``: what a fourth client adds.

The claim (arXiv 2501.12709) is at least 2 % accuracy from the fourth client.  Each seed trains with all
clients and with the first three of them on the same shards, so that the gain is paired; beside them stand
one party that has every training state (many more than the clients hold: shards are small on purpose) and
the best single threshold that an oracle could choose.
"""

from __future__ import annotations

import msgspec

from fl.experiments.base import Beside, Cell, Versus
from fl.experiments.options import OptionsError, TrainOptions


def beside(options: TrainOptions, primary: Cell) -> Beside:
    """One client fewer, one party with everything, and the oracle."""
    if not options.baselines:
        return Beside()
    clients = primary.config.n_clients
    if clients < 3:
        raise OptionsError(f"{clients} clients leave none to do without; use at least 3, or --no-baselines")
    fewer = _one_fewer(primary, options.ring_width)
    return Beside(
        (
            fewer,
            Cell("centralised", "one party with all training states", "centralised", primary.config),
            Cell("oracle", "oracle threshold", "oracle", primary.config),
        ),
        (
            Versus("gain-of-last-client", f"{clients} clients minus {clients - 1}", "federated", fewer.name),
            Versus(
                "federated-centralised", "clients minus one party with all states", "federated", "centralised"
            ),
        ),
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
    return Cell("one-client-fewer", fewer.title, "federated", fewer)
