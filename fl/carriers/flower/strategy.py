"""FedAvg over protected updates: the server learns the sum of a round and nothing about its parts.

    strategy = QkdFedAvg()
    strategy.start(grid, initial_arrays, num_rounds=10, evaluate_fn=evaluate)

In the main function of a server app it needs no argument: what is not given follows from the run configuration
(:mod:`fl.carriers.flower.configured`).

``configure_train`` finds out who is behind the connected nodes, fixes participants, weights and ring width, spends
a round number durably and announces all of it with the model; with ``lightsecagg`` it has the clients exchange
their shares first.  ``aggregate_train`` takes the uploads (with ``lightsecagg`` it then asks for confirmations
and answers), adds up exactly and moves the model by the mean.  What a round accepts, and when it fails, is
decided where the distributed server has it decided (:mod:`fl.rounds.engine`): in modes ``otp`` and ``expanded`` the
pads of a missing client do not cancel, so the round is aborted, its cost is recorded, and the model stays as it
is; the run then pauses until everybody is there again.  Settings with which a sum could wrap are refused before
the first round.

A run is what its description says (:mod:`fl.rounds.description`), which ``start`` writes into the state folder for the
operators to consent to.  Its sums are published with the announcements, for every client works the model out itself
(:mod:`fl.carriers.flower.published`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from fl.carriers.flower.arrays import array_sizes, flatten, replaced, rounded
from fl.carriers.flower.configured import clients_of, roster_of, running_app, secure_run_of
from fl.carriers.flower.counter import RoundCounter
from fl.carriers.flower.evaluating import evaluation_messages, evaluation_metrics
from fl.carriers.flower.exchange import OpenRound, read_answer
from fl.carriers.flower.handed import SERVER_ROUND, handed_digest, settings_digest
from fl.carriers.flower.identity import IdentityError
from fl.carriers.flower.leaving import mean_metrics
from fl.carriers.flower.outcome import NoRoundCompletedError, RoundOutcome
from fl.carriers.flower.participant import state_home
from fl.carriers.flower.published import PublishedRun
from fl.carriers.flower.records import Evaluated, Evaluation, RoundAnnouncement
from fl.carriers.flower.roster import Roster, draw, exchange
from fl.carriers.flower.rules import run_name
from fl.carriers.flower.secure_run import SecureRun
from fl.modes.base import AggregationError, model_digest
from fl.modes.table import MODES
from fl.rounds.aggregation import aggregation_for
from fl.rounds.clipping import clip_warnings
from fl.rounds.config import FLConfig
from fl.rounds.engine import CollectingRound, RoundLimits, UploadRefusedError
from fl.rounds.messages import Decline, Shares, Upload
from orchestrator.delivery.consent import LEAK
from orchestrator.wire.codec import WireError

MEETING_POLL_S = 0.5
PAUSE_TOLD_S = 60.0
"""How often a run that pauses says for whom."""

_log = logging.getLogger("flwr.qunetlab")
"""Beside Flower's own words in the log of a run: of loggers outside its own it shows nothing below warnings."""


class QkdFedAvg(FedAvg):
    """FedAvg whose clients run :func:`fl.carriers.flower.mod.qkd_secagg_mod`.

    Other arguments are FedAvg's; ``fraction_train`` below 1 draws that share of the users for each round.
    ``fraction_evaluate`` above 0 has clients look at the model after each round: they tell what their users
    made public, in coarse shares, and never a loss.
    """

    def __init__(
        self,
        run: SecureRun | None = None,
        roster: Roster | None = None,
        state_folder: Path | None = None,
        *,
        fraction_evaluate: float = 0.0,
        run_config: Mapping[str, Any] | None = None,
        **fedavg: Any,
    ) -> None:
        """``state_folder`` keeps the round numbers that were used, and run files.

        ``run_config`` is that of the server app's context: with keys from nodes, clients hold their own against it.
        Raises SetupError saying what is missing where something is to follow from it.
        """
        if run_config is None and (run is None or roster is None or state_folder is None):
            run_config = running_app()
        settings = run_config or {}
        run = secure_run_of(settings) if run is None else run
        if roster is None:
            roster = roster_of(settings)
            fedavg = {"min_available_nodes": clients_of(settings, roster), **fedavg}
        super().__init__(fraction_evaluate=fraction_evaluate, **fedavg)
        if run.complete and self.fraction_train < 1:
            raise ValueError(
                f"fraction_train = {self.fraction_train:g}: in mode {run.mode} every round is one of all users, or the "
                "sums of two rounds would tell who was drawn for one of them only; lightsecagg draws"
            )
        self.secure_run = run
        self.roster = roster
        self.outcomes: list[RoundOutcome] = []
        self._state_folder = state_home(settings) if state_folder is None else state_folder
        self._settings_digest = settings_digest(settings)
        self._starts = 0
        self._rounds = 10
        self._published: PublishedRun | None = None
        self._config: FLConfig | None = None
        self._open: OpenRound | None = None
        self._last: tuple[RoundOutcome, RoundAnnouncement] | None = None
        self._evaluation: tuple[Evaluation, Grid] | None = None
        self._last_reason = ""

    def summary(self) -> None:
        """Log the settings."""
        super().summary()
        mode, supply = self.secure_run.mode, self.roster.key_supply
        _log.info("Secure aggregation: mode %s (%s), %s keys", mode, MODES[mode].security, supply)
        if supply == "simulated":
            _log.warning("keys are simulated: masks are added and cancel, but they protect nothing")
            _log.warning(
                "clients are simulated: each consents to the run by itself, and no operator is asked"
            )
        if MODES[mode].note:
            _log.warning("%s", MODES[mode].note.format(leak=LEAK))

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600.0,
        *rest: Any,
        **more: Any,
    ) -> Result:
        """Run; raises NoRoundCompletedError, with the initial model, where no round gave a sum.

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
        initial_arrays = rounded(initial_arrays)
        self._starts, self._rounds = self._starts + 1, num_rounds
        self._published, self._config = None, None
        result = super().start(grid, initial_arrays, num_rounds, timeout, *rest, **more)
        if all(outcome.reason for outcome in self.outcomes[before:]):
            result.arrays = initial_arrays
            raise NoRoundCompletedError(
                f"none of {num_rounds} rounds gave a sum, the model is the initial one; the last reason: "
                f"{self._last_reason}",
                result,
            )
        return result

    # -- a round begins ---------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Announce a round to its participants; sends nothing if too few users are present."""
        self._open, self._last, self._evaluation = None, None, None
        present = self._meet(grid)
        if not present:
            return self._skip("no Flower node has introduced itself; see the log above for those refused")
        config[SERVER_ROUND] = self._counter(grid).last + 1
        model = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        published = self._publish(model, arrays, grid)
        settings = published.config
        able = tuple(user for user in settings.clients if user in present)
        if missing := [user for user in settings.clients if user not in present]:
            if self.secure_run.complete:
                return self._skip(
                    f"the run pauses: {', '.join(missing)} missing.  A round of mode {settings.mode} is one of all its "
                    "users.  To go on without somebody is a new run, to which every operator consents after reading "
                    f"this: from its sums, {LEAK}"
                )
            if len(able) < settings.quorum:
                return self._skip(f"{len(able)} users present, {settings.quorum} needed")
        current = self._begin(published, self._draw(able, settings), arrays, grid)
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
        """The users present, once all of them are or the time for meeting (or for a pause) is over."""
        run, began_s = self.secure_run, time.monotonic()
        limit_s = run.pause_s if run.complete and self._published is not None else run.meeting_s
        if len(self.roster.present(grid.get_node_ids())) < self._wanted():
            self.roster.forgive()
        told = 0
        while True:
            present = self.roster.greet(grid)
            waited_s = time.monotonic() - began_s
            if len(present) >= self._wanted() or waited_s >= limit_s:
                return present
            if waited_s >= told * PAUSE_TOLD_S and limit_s == run.pause_s:
                missing = sorted(set(self._users()) - set(present))
                _log.warning(
                    "the run pauses until %s is back, for %.0f s at most", ", ".join(missing), limit_s
                )
                told += 1
            time.sleep(MEETING_POLL_S)

    def _users(self) -> tuple[str, ...]:
        """Who takes part in the run, as far as that is known."""
        if self._config is not None:
            return self._config.clients
        return self.secure_run.users or self.roster.users()

    def _wanted(self) -> int:
        """For how many users a round waits before it begins."""
        return max(int(self.min_available_nodes), len(self._users()))

    def _run_id(self, grid: Grid) -> str:
        """The name of the run: the one that operators consent to, or Flower's and which start it is."""
        if self.secure_run.run_id and self.roster.bonds is not None:
            return self.secure_run.run_id
        name = run_name(grid.run.run_id)
        return name if self._starts < 2 else f"{name}-{self._starts}"

    def _counter(self, grid: Grid) -> RoundCounter:
        """Round numbers: nodes that have seen one in this Flower run take none that is not above it."""
        named = self.secure_run.run_id if self.roster.bonds is not None else ""
        return RoundCounter(self._state_folder, named or run_name(grid.run.run_id))

    def _publish(self, content: RecordDict, arrays: ArrayRecord, grid: Grid) -> PublishedRun:
        """The run, described at its first round; raises ValueError where it is no longer what it was described as."""
        model, handed = flatten(arrays), handed_digest(content)
        if self._published is None:
            config = self.secure_run.config(
                self._run_id(grid),
                self.roster.users(),
                array_sizes(arrays),
                rounds=self._rounds,
                handed=handed,
                settings=self._settings_digest,
            )
            aggregation = aggregation_for(config, model.size, model_digest(model))
            self._config = config
            self._published = PublishedRun(config, aggregation, model, model, handed, self._settings_digest)
            self._counter(grid).keep(aggregation.description)
        if handed != self._published.handed:
            raise ValueError(
                "what the app is handed (train_config, other arrays) changed in the course of the run"
            )
        return self._published

    def _draw(self, able: tuple[str, ...], settings: FLConfig) -> tuple[str, ...]:
        """The participants of a round: a random share of the users present, in the run's order."""
        size = max(int(len(able) * self.fraction_train), self.min_train_nodes, settings.quorum)
        return draw(able, size)

    def _begin(
        self, published: PublishedRun, participants: tuple[str, ...], arrays: ArrayRecord, grid: Grid
    ) -> OpenRound:
        """A round with a number of its own."""
        aggregation, model = published.aggregation, flatten(arrays)
        settings, digest = published.config, model_digest(model)
        number = self._counter(grid).next()
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
        announcement = RoundAnnouncement(
            settings,
            number,
            participants,
            model.size,
            digest,
            model_digest(published.first),
            published.handed,
            published.settings,
        )
        return OpenRound(announcement, collecting, arrays, grid, published)

    # -- a round ends -----------------------------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The moved model, or None if the round gave no sum; both with the round's metrics."""
        current, self._open = self._open, None
        if current is None:
            return None, self._last[0].metrics if self._last else None
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
                    current.published.followed((user,))
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
        model = current.published.complete(collecting.number, collecting.survivors, total)
        metrics = self._note(current, "").metrics
        metrics.update(mean_metrics(told, weights))
        return replaced(current.model, model), metrics

    def _abort(self, current: OpenRound, reason: str) -> MetricRecord:
        """The contributions at hand give no sum; the pads used for them are spent."""
        self._last_reason = reason
        _log.error("round %d aborted, the model stays: %s", current.collecting.number, reason)
        return self._note(current, reason).metrics

    def _note(self, current: OpenRound, reason: str) -> RoundOutcome:
        collecting, settings = current.collecting, current.announcement.config
        outcome = RoundOutcome(
            collecting.number,
            collecting.participants,
            collecting.dropped,
            reason,
            collecting.upload_bytes,
            collecting.spent_key_bits,
            current.aggregation.mode.security,
            self.roster.key_supply,
            round(time.monotonic() - collecting.started_s, 3),
            current.clipping,
            "" if reason or set(collecting.survivors) == set(settings.clients) else LEAK,
        )
        for warning in clip_warnings(
            (outcome.clipping,), *current.clip, named=lambda name: f"{name} of the SecureRun"
        ):
            _log.warning("round %d: %s", collecting.number, warning)
        _log.info("round %d: %s", collecting.number, outcome.cost)
        self.outcomes.append(outcome)
        self._last = outcome, current.announcement
        return outcome

    # -- between rounds ---------------------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask a share of the last round's participants to evaluate the model."""
        if not self.fraction_evaluate or self._last is None or self._published is None:
            return []
        outcome, last = self._last
        size = max(int(len(outcome.participants) * self.fraction_evaluate), self.min_evaluate_nodes)
        users = draw(outcome.participants, size)
        order = Evaluation(last, model_digest(flatten(arrays)))
        config[SERVER_ROUND] = last.round
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        self._evaluation = (order, grid)
        return evaluation_messages(self.roster, grid, order, users, self._published, content)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The means of what users told of the model."""
        if self._evaluation is None or self._published is None:
            return None
        (order, grid), self._evaluation = self._evaluation, None
        return evaluation_metrics(self.roster, int(grid.run.run_id), order, self._published, replies)
