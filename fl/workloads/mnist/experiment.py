"""``train mnist``: hundreds of clients, and how few bytes an update can have.

The paper's claim (arXiv 2501.12709) is 75 % less communication at 200 clients.  The run that is asked for
sends a share of the coordinates at few levels (:mod:`fl.rounds.compression`); beside it stand the same clients with
float32.  Bytes are those on the wire, ring width included.  ``lightsecagg`` trades bytes for key; what pairwise
pads would have taken for the same values is said beside it.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from fl.experiments.base import Beside, Cell, float32_beside
from fl.experiments.options import TrainOptions
from fl.keys.budget import quantity
from fl.modes.table import DEFAULT_MODE
from fl.rounds.aggregation import aggregation_for
from fl.rounds.config import FLConfig
from fl.workloads.base import Task


def beside(options: TrainOptions, primary: Cell, task: Task) -> Beside:
    """The same clients with float32, and what ``lightsecagg`` saves in key."""
    found = float32_beside(options, primary)
    if not primary.config.protection.thresholds:
        return found
    return replace(found, notes=(against_pairwise_pads(primary.config, task.n_parameters),))


def against_pairwise_pads(config: FLConfig, n_parameters: int) -> str:
    """What the shares of ``lightsecagg`` save in key, and cost in bytes, where nobody drops out."""
    otp = msgspec.structs.replace(config, mode=DEFAULT_MODE, ring_width=0, colluders=0, survivors=0)
    pads, shares = aggregation_for(otp, n_parameters), aggregation_for(config, n_parameters)
    masked, shared = (each.rules(config.clients).upload_bytes(config.n_clients) for each in (pads, shares))
    colluders, survivors = config.thresholds
    return (
        f"key: {pads.key_bits_per_pair / shares.key_bits_per_pair:.1f} times less than pairwise pads for the same "
        f"values ({quantity(shares.key_bits_per_pair)} a pair and round, tags included, instead of "
        f"{quantity(pads.key_bits_per_pair)}), with T = {colluders} colluders and {config.n_clients - survivors} "
        f"drop-outs tolerated; the price is the upload: {shared:,} bytes, of which {shared - masked:,} are shares "
        f"and answers, against {masked:,} under pairwise pads and {4 * n_parameters:,} as float32"
    )
