"""What a client accepts of a server that it does not trust: which runs, and which rounds of them.

Pure checks, made before anything is trained or any key is asked for.  The nodes check once more, pair by
pair, that both ends were told the same (:class:`orchestrator.delivery.messages.RoundContext`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fl.modes.base import model_digest
from fl.modes.table import DEFAULT_MODE
from fl.rounds.config import (
    SMALLEST_QUORUM,
    FLConfig,
    check_config,
    check_weights,
    described_sources,
    listed,
    other_task,
)
from fl.rounds.messages import RoundStart, Survivors, read_float32
from fl.rounds.trainer import RoundJob, Trainer
from fl.workloads.base import Task


class ClientRefusesError(Exception):
    """The run or round that the server offers is not one this client takes part in."""


class OtherModelError(ClientRefusesError):
    """The round starts from another model than the client's own: a false announcement, or a sum that did not arrive."""


@dataclass(frozen=True)
class ClientRules:
    """What the client's own operator demands, whatever the server announces."""

    mode: str = DEFAULT_MODE
    min_participants: int = SMALLEST_QUORUM
    """Fewest participants: if all but two collude with the server, each of those two is still hidden in their sum.
    """
    colluders: int = 1
    """Least number T of colluders that this client accepts in ``lightsecagg``, where the server proposes T."""

    def check_run(self, name: str, config: FLConfig) -> None:
        """Raise ClientRefusesError unless ``name`` can take part in the run."""
        try:
            check_config(config)
            if config.protection.cipher:
                check_weights(config.levels, config.client_weights)
        except ValueError as error:
            raise ClientRefusesError(f"run {config.run_id} cannot work: {error}") from error
        if config.mode != self.mode:
            raise ClientRefusesError(
                f"run {config.run_id} wants mode {config.mode}, {name} takes part in {self.mode} only"
            )
        if name not in config.clients:
            raise ClientRefusesError(f"{name} is not among the clients of run {config.run_id}")
        if config.protection.thresholds and config.thresholds[0] < min(self.colluders, config.n_clients - 2):
            raise ClientRefusesError(
                f"run {config.run_id} hides updates from a server with T = {config.thresholds[0]} colluding clients,"
                f" {name} asks for {self.colluders}"
            )

    def check_task(self, name: str, config: FLConfig, task: Task) -> None:
        """Raise ClientRefusesError unless server and client train the same task on the same data."""
        if config.task_fingerprint != task.fingerprint:
            raise ClientRefusesError(f"{name} has {other_task(config.task, 'the server')}")
        own = described_sources(task)
        if [each.sha256 for each in own] != [each.sha256 for each in config.sources]:
            raise ClientRefusesError(
                f"{name} has other data for task {config.task} than the server: here {listed(own)}, there "
                f"{listed(config.sources)}; give all of them the same files (--data), of which each trains on its own part"
            )

    def accept(self, message: RoundStart, buffer: bytes, trainer: Trainer, last_round: int) -> RoundJob:
        """The round as a job; raises ClientRefusesError or another ValueError saying what is wrong about it."""
        name, config = trainer.name, trainer.config
        participants = message.participants
        self.check_round(name, config, message.round, participants, last_round)
        if len(message.weights) != len(participants):
            raise ClientRefusesError(f"{len(message.weights)} weights for {len(participants)} participants")
        if message.weights != config.weights_of(participants):
            raise ClientRefusesError(
                f"weights {message.weights} are not those of run {config.run_id}: the sum could wrap"
            )
        if not config.protection.drop_outs and participants != config.clients:
            missing = ", ".join(each for each in config.clients if each not in participants)
            raise ClientRefusesError(
                f"round {message.round} leaves out {missing}: a sum without one tells that one's update by the "
                "difference, so this run takes place with all its clients or pauses"
            )
        model = read_float32(message.header, buffer)
        if model.shape != (trainer.task.n_parameters,) or not np.isfinite(model).all():
            raise ClientRefusesError(
                f"the model has shape {model.shape} or holds NaN or infinity; expected "
                f"{trainer.task.n_parameters} finite values"
            )
        digest = model_digest(model)
        if message.round <= trainer.followed.round or digest != trainer.followed.digest:
            raise OtherModelError(
                f"the model of round {message.round} does not follow from that of round {trainer.followed.round} and "
                f"the published sum, as {trainer.name} works it out"
            )
        context = trainer.aggregation.context(message.round, participants, digest)
        return RoundJob(context, message.weights, message.rounds_left, model)

    def check_round(
        self, name: str, config: FLConfig, number: int, participants: tuple[str, ...], last_round: int
    ) -> None:
        """Raise ClientRefusesError for a round that was there before, or among whom its sum would tell too much."""
        if number <= last_round:
            raise ClientRefusesError(
                f"round {number} does not come after round {last_round}: numbers are used once"
            )
        if participants != tuple(each for each in config.clients if each in participants):
            raise ClientRefusesError("participants must be clients of the run, each once, in the run's order")
        if name not in participants:
            raise ClientRefusesError(f"{name} is not among the participants")
        self._check_number(name, config, len(participants), "participants")

    def check_survivors(self, name: str, config: FLConfig, message: Survivors) -> None:
        """Raise ClientRefusesError for a list whose sum would tell too much, or that names clients outside the
        round.
        """
        self._check_number(name, config, len(message.survivors), "survivors")
        if message.survivors != tuple(each for each in message.holders if each in message.survivors):
            raise ClientRefusesError("survivors must be holders of shares, each once, in the run's order")

    def _check_number(self, name: str, config: FLConfig, number: int, what: str) -> None:
        needed = self.min_participants
        if config.protection.thresholds:
            needed = max(needed, config.thresholds[1])
        if config.protection.cipher and number < needed:
            raise ClientRefusesError(
                f"{number} {what} would let the sum tell too much about each: {name} asks for at least {needed}"
            )


DEFAULT_RULES = ClientRules()
"""One-time pads, and never fewer than three participants."""
