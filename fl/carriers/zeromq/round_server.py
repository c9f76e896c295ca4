"""The FL server's present round: what is told to whom at each stage, and what becomes of the sum.

:class:`fl.rounds.engine.CollectingRound` decides; this module sends and receives.  It spends the number of a round
durably before it is announced, passes on what clients address to each other, reads the sum off when everything is
there (:mod:`fl.modes`), and leaves the record of every round, aborted ones included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fl.carriers.zeromq.client_connections import ClientConnections
from fl.modes.base import AggregationError, model_digest
from fl.rounds.aggregation import aggregation_for
from fl.rounds.clipping import LossBands, clip_warnings, clipping_of
from fl.rounds.config import FLConfig
from fl.rounds.engine import (
    CollectingRound,
    DuplicateUploadError,
    RoundLimits,
    UploadRefusedError,
    pairs_of,
)
from fl.rounds.following import next_model, packed_sum
from fl.rounds.messages import (
    Answer,
    Confirm,
    Confirmed,
    Contribution,
    Decline,
    PeerShares,
    Receipt,
    RoundEnd,
    RoundStart,
    RoundSum,
    Shares,
    Survivors,
    Upload,
    What,
    header_of,
    read_uint8,
)
from fl.rounds.records import no_sum, sum_kept
from fl.rounds.run_state import RunFolder, load_array
from fl.workloads.base import Parameters, Task
from orchestrator.bits import PackedBits
from orchestrator.events.learning import (
    AbortRecord,
    ClientDropped,
    RoundAborted,
    RoundCompleted,
    RoundRecord,
    RoundStarted,
    ServerEvent,
    UploadRefused,
)
from orchestrator.log_context import now_about
from orchestrator.records.keeping import Records
from orchestrator.wire.codec import WireError

_log = logging.getLogger(__name__)

WHAT: dict[type[Contribution], What] = {
    Shares: "shares",
    Upload: "upload",
    Confirm: "confirmation",
    Answer: "answer",
}


class RunFailedError(Exception):
    """The run cannot reach its last round."""


@dataclass(frozen=True)
class ServedRun:
    """A run as the server holds it: who is there, what is agreed, what is kept, where to report, and what is put on record."""

    connections: ClientConnections
    folder: RunFolder
    task: Task
    report: Callable[[ServerEvent], None]
    clock: Callable[[], float]
    records: Records

    @property
    def config(self) -> FLConfig:
        return self.folder.state.config


class RoundServer:
    """One round after the other for the clients of a run; ``current`` is the one in progress."""

    def __init__(self, run: ServedRun) -> None:
        self._run = run
        self._reported_gone: set[tuple[str, str]] = set()
        self._losses: dict[str, LossBands | None] = {}
        self._aborts_in_a_row = 0
        self._spent_pairs: dict[int, set[frozenset[str]]] = {}
        first, latest = run.task.initial_parameters(run.config.seed), run.folder.latest_model()
        self._model: Parameters = first if latest is None else latest
        self._initial = run.folder.keep_initial(first) if latest is None else None
        self.aggregation = aggregation_for(run.config, run.task.n_parameters, model_digest(first))
        self.current: CollectingRound | None = None
        self.idle_since_s = run.clock()

    @property
    def fruitless(self) -> str:
        """Why the run has no result if every round so far was aborted; empty otherwise."""
        state = self._run.folder.state
        if state.rounds or not state.aborted or self._initial is None:
            return ""
        return f"no round was completed, so the model is the initial one, in {self._initial}"

    def advance(self, now_s: float) -> None:
        """Take the round as far as it goes at time ``now_s``; raises RunFailedError after too many aborts."""
        current = self.current
        if current is None:
            return
        while current.review(now_s):
            for name in current.members:
                self._tell_stage(name, current)
        self._report_gone(current)
        if current.failure is not None:
            self.abort(current.failure)
        elif current.complete:
            self._complete(current, now_s)

    def start(self, participants: tuple[str, ...]) -> None:
        """Announce a round among ``participants``; raises RunFailedError where no number is left."""
        config, now_s = self._run.config, self._run.clock()
        attempts = self.aggregation.description.attempts
        if self._run.folder.state.last_announced >= attempts:
            raise RunFailedError(
                f"all {attempts} round numbers that were consented to are used; begin a new run"
            )
        number = self._run.folder.announce(participants)
        self._reported_gone.clear()
        self._losses.clear()
        self.current = CollectingRound(
            config.run_id,
            number,
            participants,
            config.weights_of(participants),
            self.aggregation.rules(participants),
            self.aggregation.context(number, participants, model_digest(self._model)).digest(),
            RoundLimits(
                config.client_timeout_s, config.round_timeout_s, config.wait_timeout_s, config.heartbeat_s
            ),
            now_s,
        )
        now_about(round=number)
        self._run.report(RoundStarted(number, participants))
        for name in participants:
            self._send_start(name, self.current)

    def _send_start(self, name: str, current: CollectingRound) -> None:
        message = RoundStart(
            current.run_id,
            current.number,
            current.participants,
            current.weights,
            self._run.config.rounds - len(self._run.folder.state.rounds),
            header_of(self._model),
        )
        self._run.connections.send(name, message, self._model)

    def _tell_stage(self, name: str, current: CollectingRound) -> None:
        """What a member of the present stage needs to give its part."""
        run_id, number, send = current.run_id, current.number, self._run.connections.send
        if current.stage == "uploading" and current.rules.survivors is not None:
            senders, rows = current.shares_for(name)
            send(name, PeerShares(run_id, number, senders, header_of(rows)), rows)
        elif current.stage == "confirming":
            send(
                name,
                Survivors(run_id, number, current.participants, current.holders, current.survivors),
            )
        elif current.stage == "answering":
            holders, rows = current.confirmations_for(name)
            send(name, Confirmed(run_id, number, holders, header_of(rows)), rows)

    def send_missed_sum(self, name: str, followed: int) -> bool:
        """Send the first sum after round ``followed`` to a client whose own model lacks it; False if none is missing."""
        record = next((each for each in self._run.folder.state.rounds if each.round > followed), None)
        if record is None:
            return False
        total = load_array(self._run.folder.folder, "aggregate", record.round).astype(np.int64)
        self._send_sum(name, record, packed_sum(self._run.config, total), catching_up=True)
        return True

    def _send_sum(self, name: str, record: RoundRecord, packed: PackedBits, *, catching_up: bool) -> None:
        message = RoundSum(
            self._run.config.run_id, record.round, record.survivors, header_of(packed), catching_up
        )
        self._run.connections.send(name, message, packed)

    def catch_up(self, name: str) -> None:
        """Tell a client that has come back where the round stands."""
        current = self.current
        if current is None or name not in current.pending:
            return
        if current.stage in ("sharing", "uploading"):
            self._send_start(name, current)
        else:
            self._run.connections.send(
                name,
                Survivors(
                    current.run_id, current.number, current.participants, current.holders, current.survivors
                ),
            )
        self._tell_stage(name, current)

    def _report_gone(self, current: CollectingRound) -> None:
        if current.rules.survivors is None:
            return
        for (name, stage), reason in current.gone.items():
            if (name, stage) not in self._reported_gone:
                self._reported_gone.add((name, stage))
                self._run.report(ClientDropped(current.number, name, stage, reason))

    def _complete(self, current: CollectingRound, now_s: float) -> None:
        try:
            total = self.aggregation.total(current.participants, current.uploads, current.answers)
        except AggregationError as error:
            self.abort(str(error))
            return
        survivors, before = current.survivors, self._model
        self._model = next_model(self._run.config, before, total, survivors, current.number)
        evaluation = self._run.task.evaluate(self._model)
        record = RoundRecord(
            round=current.number,
            accuracy=evaluation.accuracy,
            loss=evaluation.loss,
            upload_bytes=current.upload_bytes,
            key_bits_used=current.spent_key_bits,
            participants=current.participants,
            masking=self.aggregation.mode.label,
            duration_s=round(now_s - current.started_s, 3),
            key_wait_s=round(current.key_wait_s(now_s), 3),
            security=self.aggregation.mode.security,
            dropped=current.dropped,
            weight_sum=sum(self._run.config.weights_of(survivors)),
            spare_answers=current.spare_answers,
            clipping=clipping_of(self._losses.get(name) for name in survivors),
        )
        self._warn(record)
        self._run.folder.complete(record, self._model, total)
        models = before, self._model
        self._run.records.keep(
            sum_kept(current.run_id, record, current.context, models, total, current.uploads)
        )
        self._end_round()
        self._aborts_in_a_row = 0
        self._run.report(RoundCompleted(record))
        packed = packed_sum(self._run.config, total)
        for name in self._run.connections.names:
            self._send_sum(name, record, packed, catching_up=False)
        end = RoundEnd(current.run_id, current.number, "", evaluation.accuracy, survivors)
        for name in current.participants:
            self._run.connections.send(name, end)

    def _warn(self, record: RoundRecord) -> None:
        config = self._run.config
        clip = config.clip * config.clip_decay ** (record.round - 1)
        for warning in clip_warnings([record.clipping], clip, config.levels):
            _log.warning("round %d: %s", record.round, warning)

    def abort(self, reason: str) -> None:
        """The round gives no sum: its updates are discarded."""
        current = self.current
        assert current is not None
        record = AbortRecord(
            current.number,
            reason,
            current.spent_key_bits,
            current.participants,
            current.upload_bytes,
            round(self._run.clock() - current.started_s, 3),
        )
        self._run.folder.abort(record)
        self._run.records.keep(no_sum(current.run_id, record))
        self._spent_pairs[current.number] = current.spent_pairs
        self._end_round()
        self._aborts_in_a_row += 1
        self._run.report(RoundAborted(record))
        for name in current.participants:
            self._run.connections.send(name, RoundEnd(current.run_id, current.number, reason[:1000]))
        if self._aborts_in_a_row >= self._run.config.max_aborts_in_a_row:
            told = f"{self._aborts_in_a_row} rounds in a row were aborted, the last one because {reason}"
            outcome = f"; {self.fruitless}" if self.fruitless else ""
            raise RunFailedError(
                f"{told}{outcome}; see the clients' logs, then start the server again to resume"
            )

    def declined(self, name: str, message: Decline) -> None:
        """A participant gives nothing to the round, or says what an aborted one has cost."""
        current = self.current
        if message.run_id != self._run.config.run_id:
            return
        if current is not None and message.round == current.number:
            current.declined(name, message.reason, message.key_bits, self._run.clock(), message.spent_with)
        elif message.key_bits:
            for record in self._run.folder.state.aborted:
                if record.round == message.round and name in record.participants:
                    spent = self._spent_pairs.setdefault(record.round, set())
                    spent |= pairs_of(name, record.participants, message.spent_with)
                    self._run.folder.add_cost(record.round, len(spent) * self.aggregation.key_bits_per_pair)

    def _end_round(self) -> None:
        self.current = None
        self.idle_since_s = self._run.clock()

    def contribute(self, name: str, message: Contribution, buffer: bytes) -> None:
        """Take in what a client gives to the round, or refuse it, and say so."""

        def reply(status: Literal["accepted", "duplicate", "refused"], reason: str = "") -> None:
            what = WHAT[type(message)]
            self._run.connections.send(
                name, Receipt(message.run_id, message.round, status, reason[:1000], what)
            )

        try:
            packed = read_uint8(message.header, buffer)
            over = self.current is None or message.round < self.current.number
            if over and isinstance(message, Answer):  # U answers are enough, the others are late by nature
                reply("duplicate", f"round {message.round} is over: not needed any more")
                return
            if self.current is None:
                raise UploadRefusedError(f"round {message.round} is over")
            self.current.take(name, message, packed, self._run.clock())
            if isinstance(message, Upload):
                self._losses[name] = message.losses
        except DuplicateUploadError as error:
            reply("duplicate", str(error))
        except (UploadRefusedError, WireError) as error:
            self._run.report(UploadRefused(message.round, name, str(error)))
            reply("refused", str(error))
        else:
            reply("accepted")
