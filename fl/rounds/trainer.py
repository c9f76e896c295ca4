"""A client's work in one round: train, compress, wait for keys, protect.

Runs in a worker thread while the client's main thread keeps talking to the server.  With pairwise pads the
work can be cancelled up to the moment it spends key, which is its last step: a round that was aborted before
costs nothing.  In mode ``lightsecagg`` shares are exchanged first, while everybody is there, so that whoever
vanishes while training is a drop-out that the round survives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fl.keys.node import CancelledError, KeyServiceError, KeyWait, NodeKeys, ProtectedUpdate
from fl.modes.base import Aggregation, Exchange, RoundInputs
from fl.rounds.choices import LocalChoices
from fl.rounds.config import FLConfig
from fl.rounds.feedback import Feedback
from fl.rounds.following import FollowedModel
from fl.rounds.messages import Phase
from fl.rounds.selfcheck import keep_private_update
from fl.workloads.base import Examples, Parameters, Task
from orchestrator import runtime
from orchestrator.delivery.messages import RoundContext

ROUNDS_AHEAD = 4
"""Key demand covers this round and the next three, so that later keys are made while this one trains."""


class Tell(Protocol):
    """Say what the client is doing, for the next heartbeat; ``missing_bits`` of key per peer that it waits for."""

    def __call__(
        self,
        phase: Phase,
        detail: str = "",
        eta_s: float | None = None,
        missing_bits: Mapping[str, int] | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class RoundJob:
    """One round as this client understood and accepted it; ``weights`` in the participants' order."""

    context: RoundContext
    weights: tuple[int, ...]
    rounds_left: int
    model: Parameters


@dataclass(frozen=True)
class Trainer:
    """The client ``name`` with its task, data and access to keys; ``followed`` is the model as it knows it itself."""

    name: str
    config: FLConfig
    task: Task
    data: Examples
    aggregation: Aggregation
    keys: NodeKeys | None
    feedback: Feedback
    followed: FollowedModel
    choices: LocalChoices
    self_check_dir: Path | None

    def weight(self, job: RoundJob) -> int:
        """This client's own weight in the round."""
        return job.weights[job.context.participants.index(self.name)]

    def demand(self, peers: tuple[str, ...], rounds_left: int) -> None:
        """Ask the node for the key of the coming rounds, at most ``rounds_left``."""
        per_round = self.aggregation.key_bits_per_pair
        if self.keys is not None and per_round:
            self.keys.demand(peers, per_round * min(ROUNDS_AHEAD, rounds_left))

    def run(self, job: RoundJob, exchange: Exchange, cancelled: runtime.Event, tell: Tell) -> ProtectedUpdate:
        """The protected update of this round.

        If the node's journal holds one already (the client was restarted within the round), that one is
        sent and nothing is trained.  Raises CancelledError, QuantisationError (NaN or infinity in the
        update) or KeyServiceError.
        """
        if cancelled.is_set():
            raise CancelledError(f"round {job.context.round} ended before its work began")
        context = job.context
        if (kept := self.aggregation.stored(context, self.keys)) is not None:
            self.feedback.uploading(context.round)
            return kept
        self.demand(tuple(name for name in context.participants if name != self.name), job.rounds_left)

        def tell_wait(wait: KeyWait) -> None:
            phase: Phase = "waiting for keys" if wait.for_keys else "waiting for peers"
            tell(phase, wait.detail, wait.eta_s, wait.missing_bits)

        sum_bound = self.config.levels * sum(job.weights)
        inputs = RoundInputs(context, self.name, sum_bound, self.keys, exchange, cancelled, tell_wait)
        protection = self.aggregation.prepare(inputs)
        tell("training")  # how many examples there are is the user's own affair
        values = self._train(job)
        if cancelled.is_set():
            raise CancelledError(f"round {context.round} ended while its update was trained")
        if self.self_check_dir is not None:
            keep_private_update(self.self_check_dir, self.name, context.run_id, context.round, values)
        tell("masking", f"{values.size} values of {self.aggregation.value_bits} bits")
        protected = protection.protect(values, self.weight(job))
        self.feedback.uploading(context.round)
        return protected

    def _train(self, job: RoundJob) -> npt.NDArray[np.int64]:
        """The compressed update from local training."""
        index, number = self.config.clients.index(self.name), job.context.round
        update = self.task.local_train(job.model, self.data, self.choices.training(number, index))
        return self.feedback.compress(update, number, self.choices.rounding(number, index))


EXPECTED_FAILURES = (ValueError, KeyServiceError, OSError)
"""What makes a client decline a round and go on; anything else ends it."""
