"""FedAvg over protected updates: the server learns the sum of a round and nothing about its parts.

    strategy = QkdFedAvg(secure_run, roster, state_folder)
    strategy.start(grid, initial_arrays, num_rounds=10, evaluate_fn=evaluate)

``configure_train`` finds out who is behind the connected nodes, fixes participants, weights and ring, spends
a round number durably and announces all of it with the model; with ``lightsecagg`` it has the clients exchange
their shares first.  ``aggregate_train`` takes the uploads (with ``lightsecagg`` it then asks for confirmations
and answers), adds up exactly and moves the model by the mean.  What a round accepts, and when it fails, is
decided where the distributed server has it decided (:mod:`fl.distributed.rounds`): in modes ``otp`` and ``expanded`` the
pads of a missing client do not cancel, so the round is aborted, its cost is recorded, and the model stays as it
is.  Settings with which a sum could wrap are refused before the first round.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from fl.aggregation import MODES, AggregationError, aggregation_for, model_digest
from fl.clipping import Clipping, clip_warnings
from fl.compression import Compression
from fl.config import FLConfig
from fl.distributed.messages import Decline, Shares, Upload
from fl.distributed.rounds import CollectingRound, RoundLimits, UploadRefusedError
from fl.flower.arrays import array_sizes, flatten, moved
from fl.flower.counter import RoundCounter
from fl.flower.evaluating import evaluation_messages, evaluation_metrics
from fl.flower.exchange import OpenRound, read_answer
from fl.flower.identity import IdentityError
from fl.flower.leaving import mean_metrics
from fl.flower.records import Evaluated, Evaluation, RoundAnnouncement
from fl.flower.roster import Roster, exchange
from fl.flower.rules import run_name
from fl.flower.secure_run import SecureRun
from orchestrator.randomness import local_generator
from orchestrator.wire.codec import WireError

MEETING_POLL_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundOutcome:
    """What came of one round; ``reason`` is empty where its sum moved the model.

    ``dropped`` are participants that are not in the sum.  ``upload_bytes`` is everything that clients gave,
    ``key_bits`` counts every pad once, over all pairs: used, or burnt by an aborted round, as far as the clients
    told; what a client burnt that never answered again is only in its node's ledger.  ``security`` is the
    label of the mode, ``key_supply`` says whether keys came from nodes or were simulated.  ``clipping`` is what
    clip and rounding took, as coarsely as clients tell it (:mod:`fl.clipping`).
    """

    round: int
    participants: tuple[str, ...]
    dropped: tuple[str, ...]
    reason: str
    upload_bytes: int
    key_bits: int
    security: str
    key_supply: str
    duration_s: float
    clipping: Clipping | None = None

    @property
    def metrics(self) -> MetricRecord:
        """The numbers of it, for Flower's history."""
        lost = self.clipping
        shares = {} if lost is None else {"qkd-clipped": lost.clipped, "qkd-vanished": lost.vanished}
        return MetricRecord(
            {
                **shares,
                "qkd-round": self.round,
                "qkd-aborted": int(bool(self.reason)),
                "qkd-participants": len(self.participants),
                "qkd-dropped": len(self.dropped),
                "qkd-upload-bytes": self.upload_bytes,
                "qkd-key-bits": self.key_bits,
            }
        )


class NoRoundCompletedError(RuntimeError):
    """A run in which no round moved the model; ``result`` holds the initial model and what became of the rounds."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class QkdFedAvg(FedAvg):
    """FedAvg whose clients run :func:`fl.flower.mod.qkd_secagg_mod`.

    Other arguments are FedAvg's; ``fraction_train`` below 1 draws that share of the users for each round.
    ``fraction_evaluate`` above 0 has clients look at the model after each round: they tell what their users
    made public, in coarse shares, and never a loss.
    """

    def __init__(
        self,
        run: SecureRun,
        roster: Roster,
        state_folder: Path,
        *,
        fraction_evaluate: float = 0.0,
        **fedavg: Any,
    ) -> None:
        """``state_folder`` keeps the round numbers that were used."""
        super().__init__(fraction_evaluate=fraction_evaluate, **fedavg)
        self.secure_run = run
        self.roster = roster
        self.outcomes: list[RoundOutcome] = []
        self._state_folder = state_folder
        self._config: FLConfig | None = None
        self._open: OpenRound | None = None
        self._last: RoundOutcome | None = None
        self._evaluation: tuple[Evaluation, Grid] | None = None
        self._last_reason = ""

    def summary(self) -> None:
        """Log the settings."""
        super().summary()
        mode, supply = self.secure_run.mode, self.roster.key_supply
        _log.info("Secure aggregation: mode %s (%s), %s keys", mode, MODES[mode].security, supply)
        if supply == "simulated":
            _log.warning("keys are simulated: masks are added and cancel, but they protect nothing")

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600.0,
        *rest: Any,
        **more: Any,
    ) -> Result:
        """Run; raises NoRoundCompletedError, with the initial model, where not one round moved it.

        Raises ValueError unless clients give up waiting for keys before the round's ``timeout``: a client that is
        still waiting when the round ends cannot say any more what it burnt.
        """
        if num_rounds < 1:
            raise ValueError(f"num_rounds = {num_rounds}: a run has at least one round")
        if timeout <= self.secure_run.wait_timeout_s:
            raise ValueError(
                f"a round ends after {timeout:g} s, but clients wait up to {self.secure_run.wait_timeout_s:g} s for "
                "keys: give rounds a longer timeout, or wait_timeout_s a shorter one"
            )
        before, self._last_reason = len(self.outcomes), ""
        result = super().start(grid, initial_arrays, num_rounds, timeout, *rest, **more)
        if all(outcome.reason for outcome in self.outcomes[before:]):
            result.arrays = initial_arrays
            raise NoRoundCompletedError(
                f"none of {num_rounds} rounds came to a sum, the model is the initial one; the last reason: "
                f"{self._last_reason}",
                result,
            )
        return result

    # -- a round begins ---------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Announce a round to its participants; nobody, if too few users are there."""
        self._open, self._last, self._evaluation = None, None, None
        present = self._meet(grid)
        if not present:
            return self._skip("no Flower node has introduced itself; see the log above for those refused")
        settings = self._settings(grid, arrays)
        able = tuple(user for user in settings.clients if user in present)
        if len(able) < settings.quorum:
            return self._skip(f"{len(able)} users present, {settings.quorum} needed")
        current = self._begin(settings, self._draw(able, settings), arrays, grid)
        config["server-round"] = server_round
        model = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        if current.sharing:
            self._stage(current)
            if current.collecting.failure is not None:
                self._abort(current, current.collecting.failure)
                return []
        self._open = current
        return current.messages(self.roster, model)

    def _skip(self, reason: str) -> list[Message]:
        self._last_reason = reason
        _log.error("round skipped: %s", reason)
        return []

    def _meet(self, grid: Grid) -> tuple[str, ...]:
        """The users present, once all of them are or the time for meeting is over."""
        deadline_s = time.monotonic() + self.secure_run.meeting_s
        if len(self.roster.present(grid.get_node_ids())) < self._wanted():
            self.roster.forgive()
        while True:
            present = self.roster.greet(grid)
            if len(present) >= self._wanted() or time.monotonic() >= deadline_s:
                return present
            time.sleep(MEETING_POLL_S)

    def _wanted(self) -> int:
        """For how many users a round waits before it begins."""
        users = self.roster.users() if self._config is None else self._config.clients
        return max(int(self.min_available_nodes), len(users))

    def _settings(self, grid: Grid, arrays: ArrayRecord) -> FLConfig:
        """The settings of the run, fixed at its first round; ``arrays`` is the model."""
        if self._config is None:
            users, name = self.roster.users(), run_name(grid.run.run_id)
            self._config = self.secure_run.config(name, users, array_sizes(arrays))
        return self._config

    def _draw(self, able: tuple[str, ...], settings: FLConfig) -> tuple[str, ...]:
        """The participants of a round: a random share of the users present, in the run's order."""
        size = max(int(len(able) * self.fraction_train), self.min_train_nodes, settings.quorum)
        return _some(able, size)

    def _begin(
        self, settings: FLConfig, participants: tuple[str, ...], arrays: ArrayRecord, grid: Grid
    ) -> OpenRound:
        """A round with a number of its own."""
        model = flatten(arrays)
        n_parameters, digest = model.size, model_digest(model)
        aggregation = aggregation_for(settings, n_parameters)
        number = RoundCounter(self._state_folder, settings.run_id).next()
        collecting = CollectingRound(
            settings.run_id,
            number,
            participants,
            settings.weights_of(participants),
            aggregation.rules(participants),
            aggregation.context(number, participants, digest).digest(),
            RoundLimits(math.inf, math.inf, math.inf),
            time.monotonic(),
        )
        announcement = RoundAnnouncement(settings, number, participants, n_parameters, digest)
        return OpenRound(announcement, aggregation, collecting, arrays, grid)

    # -- a round ends -----------------------------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The moved model, or None if the round came to nothing; both with the round's metrics."""
        current, self._open = self._open, None
        if current is None:
            return None, self.outcomes[-1].metrics if self.outcomes else None
        told = self._take(current, replies)
        while current.collecting.failure is None and not current.collecting.complete:
            self._stage(current)
        if current.collecting.failure is not None:
            return None, self._abort(current, current.collecting.failure)
        try:
            return self._complete(current, told)
        except AggregationError as error:
            return None, self._abort(current, str(error))

    def _stage(self, current: OpenRound) -> None:
        """One exchange of our own: everything but training, which Flower's loop sends."""
        messages = current.messages(self.roster, RecordDict())
        run = self.secure_run
        patience_s = run.answer_timeout_s + (run.wait_timeout_s if current.sharing else 0)
        self._take(current, exchange(current.grid, messages, patience_s))

    def _take(self, current: OpenRound, replies: Iterable[Message]) -> dict[str, Mapping[str, float]]:
        """Put the replies of a stage into the round and end the stage; returns the metrics that users told."""
        collecting, told = current.collecting, dict[str, Mapping[str, float]]()
        now_s = time.monotonic()
        out: list[tuple[str, Decline]] = []
        for reply in replies:
            user = self.roster.user_of(reply.metadata.src_node_id)
            if user is None or user not in collecting.members:
                _log.warning("reply of Flower node %d dropped: not in the round", reply.metadata.src_node_id)
                continue
            burnt = 0
            try:
                given = read_answer(self.roster, user, current.flower_run, reply)
                answer = given.answer
                if isinstance(answer, Decline):
                    out.append((user, answer))
                    continue
                if isinstance(answer, Evaluated):
                    raise WireError("an evaluation is no part of a round")
                burnt = answer.key_bits if isinstance(answer, Upload | Shares) else 0
                collecting.take(user, answer, given.payload, now_s)
                if isinstance(answer, Upload):
                    current.losses.append(answer.losses)
                told[user] = given.told
            except (WireError, IdentityError, UploadRefusedError) as error:
                refused = Decline(collecting.run_id, collecting.number, str(error)[:1000], burnt)
                out.append((user, refused))
        for user, said in out:  # after all that was given: it has cost key all the same
            collecting.declined(user, said.reason, said.key_bits, now_s, said.spent_with)
        for user in collecting.pending:
            collecting.left(user, "no reply in time", now_s)
        while collecting.review(now_s):
            pass
        return told

    def _complete(
        self, current: OpenRound, told: Mapping[str, Mapping[str, float]]
    ) -> tuple[ArrayRecord, MetricRecord]:
        collecting, settings = current.collecting, current.announcement.config
        total = current.aggregation.total(collecting.participants, collecting.uploads, collecting.answers)
        weights = dict(zip(collecting.survivors, settings.weights_of(collecting.survivors), strict=True))
        size, compression = current.announcement.n_parameters, Compression.from_config(settings)
        coordinates = compression.coordinates(settings.seed, collecting.number, size)
        update = compression.mean(total, sum(weights.values()), coordinates, collecting.number, size)
        metrics = self._note(current, "").metrics
        metrics.update(mean_metrics(told, weights))
        return moved(current.model, update), metrics

    def _abort(self, current: OpenRound, reason: str) -> MetricRecord:
        """Nothing can be read in what is there; whatever was masked is spent."""
        self._last_reason = reason
        _log.error("round %d aborted, the model stays: %s", current.collecting.number, reason)
        return self._note(current, reason).metrics

    def _note(self, current: OpenRound, reason: str) -> RoundOutcome:
        collecting = current.collecting
        outcome = RoundOutcome(
            collecting.number,
            collecting.participants,
            collecting.dropped,
            reason,
            collecting.upload_bytes,
            collecting.spent_key_bits,
            current.aggregation.security,
            self.roster.key_supply,
            round(time.monotonic() - collecting.started_s, 3),
            current.clipping,
        )
        for warning in clip_warnings(
            (outcome.clipping,), *current.clip, named=lambda name: f"{name} of the SecureRun"
        ):
            _log.warning("round %d: %s", collecting.number, warning)
        self.outcomes.append(outcome)
        self._last = outcome
        return outcome

    # -- between rounds ---------------------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask a share of the last round's participants what their apps make of the model."""
        if not self.fraction_evaluate or self._last is None:
            return []
        outcome, model = self._last, flatten(arrays)
        size = max(int(len(outcome.participants) * self.fraction_evaluate), self.min_evaluate_nodes)
        users = _some(outcome.participants, size)
        order = Evaluation(run_name(grid.run.run_id), outcome.round, model.size, model_digest(model))
        config["server-round"] = server_round
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        self._evaluation = (order, grid)
        return evaluation_messages(self.roster, grid, order, users, content)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The means of what users told of the model."""
        if self._evaluation is None or self._config is None:
            return None
        (order, grid), self._evaluation = self._evaluation, None
        return evaluation_metrics(self.roster, int(grid.run.run_id), order, self._config, replies)


def _some(users: tuple[str, ...], size: int) -> tuple[str, ...]:
    """A random choice of ``size`` users, in their order."""
    if size >= len(users):
        return users
    chosen = local_generator().choice(len(users), size, replace=False)
    return tuple(users[index] for index in sorted(chosen))
