"""Training without masking: the yardstick for a masked run.

The same task, seeds, shards and number of rounds as the federated run, but the updates are averaged as
they are - float32, neither clipped nor quantised nor masked - in one process.  The difference in accuracy
is the price of exact modular aggregation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fl.quantise import Quantiser, quantisation_rng
from fl.tasks.base import Evaluation, Parameters, Task, training_seed


@dataclass(frozen=True)
class ReferenceRun:
    """The evaluation after each round, and the final model."""

    rounds: tuple[Evaluation, ...]
    parameters: Parameters

    @property
    def accuracy(self) -> float:
        """Accuracy after the last round."""
        return self.rounds[-1].accuracy


def train_reference(
    task: Task,
    n_clients: int,
    rounds: int,
    seed: int,
    *,
    quantiser: Quantiser | None = None,
    on_round: Callable[[int, Evaluation], None] | None = None,
) -> ReferenceRun:
    """Federated averaging of ``task`` in this process.

    With a ``quantiser`` the updates are quantised and summed as the masked run does it (masking itself
    changes nothing in the sum), which shows the effect of quantisation alone.
    """
    shards = [task.client_data(index, n_clients, seed) for index in range(n_clients)]
    parameters = task.initial_parameters(seed)
    evaluations = []
    for round_number in range(1, rounds + 1):
        updates = [
            task.local_train(parameters, shard, training_seed(seed, round_number, index))
            for index, shard in enumerate(shards)
        ]
        if quantiser is None:
            mean = np.mean(np.stack(updates), axis=0, dtype=np.float64).astype(np.float32)
        else:
            total = np.zeros(task.n_parameters, np.int64)
            for index, update in enumerate(updates):
                rng = quantisation_rng(seed, round_number, index)
                total += quantiser.quantise(update, rng, client=str(index), round_number=round_number)
            mean = quantiser.mean(total, n_clients)
        parameters = parameters + mean
        evaluations.append(task.evaluate(parameters))
        if on_round is not None:
            on_round(round_number, evaluations[-1])
    return ReferenceRun(tuple(evaluations), parameters)
