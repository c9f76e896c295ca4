"""Training without masking: the yardstick for a masked run.

The same task, seeds, shards and number of rounds as the federated run, but the updates are averaged as
they are - float32, neither clipped nor quantised nor masked - in one process.  The difference in accuracy
is the price of exact modular aggregation.  The rounds are those of a cohort (:mod:`fl.carriers.in_process`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fl.carriers.in_process.results import CohortEvent, CohortRound
from fl.carriers.in_process.run import run_cohort
from fl.modes.table import UNPROTECTED_MODE
from fl.rounds.config import FLConfig
from fl.rounds.quantise import Quantiser
from fl.workloads.base import Evaluation, Parameters, Task


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
    rule = quantiser or Quantiser(1.0, 1)
    config = FLConfig.for_task(
        task,
        tuple(f"c{index}" for index in range(n_clients)),
        run_id="reference",
        suited={"keep": 1.0, "clip_decay": 1.0, "error_feedback": False},
        rounds=rounds,
        seed=seed,
        mode=UNPROTECTED_MODE,
        clip=rule.clip,
        levels=rule.levels,
    )

    def report(event: CohortEvent) -> None:
        if isinstance(event, CohortRound) and on_round is not None:
            on_round(event.round, Evaluation(event.accuracy, event.loss))

    result = run_cohort(config, task=task, workers=0, float32=quantiser is None, report=report)
    evaluations = tuple(Evaluation(record.accuracy, record.loss) for record in result.rounds)
    return ReferenceRun(evaluations, result.parameters)
