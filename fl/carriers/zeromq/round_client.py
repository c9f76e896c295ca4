"""The rounds of one run at a client: what the worker has done goes out, what the server passes on comes in.

One thread (the client's main one) uses this; the worker trains and protects (:mod:`fl.rounds.trainer`).  What the
client gave to a round is kept until the round ends, to be sent again after a broken connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fl.keys.node import CancelledError, KeyServiceError, ProtectedUpdate
from fl.modes.answers import AnswerBook, AnswerBookError, AnswerRefusedError
from fl.rounds.answering import Answerer
from fl.rounds.client_rules import ClientRefusesError, ClientRules, OtherModelError
from fl.rounds.clipping import Losses
from fl.rounds.exchange import ShareExchange
from fl.rounds.following import SumRefusedError
from fl.rounds.messages import (
    Answer,
    Confirmed,
    Decline,
    FromClient,
    PeerShares,
    Ready,
    RoundEnd,
    RoundStart,
    RoundSum,
    Shares,
    Survivors,
    Upload,
    header_of,
    read_uint8,
)
from fl.rounds.records import model_followed, update_given
from fl.rounds.telling import told_reason
from fl.rounds.trainer import EXPECTED_FAILURES, RoundJob, Tell, Trainer
from fl.workloads.base import Parameters
from orchestrator import runtime
from orchestrator.bits import PackedBits
from orchestrator.delivery.errors import ConsentError
from orchestrator.events.learning import ClientState
from orchestrator.log_context import about, now_about
from orchestrator.records.keeping import Records
from orchestrator.wire.codec import WireError

_log = logging.getLogger(__name__)


class Send(Protocol):
    """Queue a message for the server; False if there is no connection to queue it for."""

    def __call__(self, message: FromClient, array: Parameters | PackedBits | None = None) -> bool: ...


@dataclass
class _Round:
    """The round this client is working on, or has uploaded in; what it gave is kept to be sent again."""

    start: RoundStart
    job: RoundJob
    cancelled: runtime.Event
    exchange: ShareExchange
    future: runtime.Future[ProtectedUpdate]
    working: bool = True
    shares: tuple[Shares, npt.NDArray[np.uint8]] | None = None
    upload: tuple[Upload, PackedBits] | None = None

    @property
    def spent(self) -> tuple[int, tuple[str, ...]]:
        """Key that this round took from the node, and with whom (empty: everybody); its work is done."""
        error = None if self.future.cancelled() else self.future.exception()
        if isinstance(error, KeyServiceError | CancelledError) and error.key_bits:
            return error.key_bits, error.spent_with
        if self.exchange.outgoing is not None:
            return self.exchange.outgoing[1], ()
        given = self.future.done() and not self.future.cancelled() and error is None
        return (self.future.result().key_bits if given else 0), ()


class RoundClient:
    """Rounds of ``trainer``; ``state_folder`` (None: no keys, no answers) is private to the client."""

    def __init__(
        self,
        trainer: Trainer,
        rules: ClientRules,
        state_folder: Path | None,
        worker: runtime.Worker,
        send: Send,
        tell: Tell,
        report: Callable[[ClientState], None],
        records: Records,
    ) -> None:
        self._records = records
        self.trainer = trainer
        self.uploaded = 0
        self._name = trainer.name
        self._rules = rules
        self._worker = worker
        self._send = send
        self._tell = tell
        self._report = report
        self._last_round = 0
        self._round: _Round | None = None
        self._ended: list[_Round] = []
        """Rounds that came to no sum, whose work may still be going on."""
        self._costs: dict[int, Decline] = {}
        """What rounds without a sum cost, until the server is known to have heard it."""
        self._answerer = (
            None
            if state_folder is None
            else Answerer(self._name, trainer.config, rules, AnswerBook(state_folder))
        )

    @property
    def run_id(self) -> str:
        return self.trainer.config.run_id

    @property
    def number(self) -> int:
        """The round in progress, or 0."""
        return 0 if self._round is None else self._round.start.round

    @property
    def working(self) -> bool:
        """Is the worker busy with the round?"""
        return self._round is not None and self._round.working

    def handle(
        self, message: PeerShares | Survivors | Confirmed | RoundSum | RoundEnd, buffer: bytes
    ) -> None:
        """Take in what the server says within a round."""
        match message:
            case PeerShares():
                self._on_peer_shares(message, buffer)
            case Survivors() | Confirmed():
                self._on_question(message, buffer)
            case RoundSum():
                self._on_sum(message, buffer)
            case RoundEnd():
                self._on_end(message)

    def ready(self) -> None:
        """Say that rounds can begin, and how far this client's own model is."""
        trainer = self.trainer
        self._send(
            Ready(self.run_id, trainer.task.n_parameters, trainer.task.fingerprint, trainer.followed.round)
        )

    def _on_sum(self, message: RoundSum, buffer: bytes) -> None:
        """The published sum of a round: work out the next model, and ask for more where some were missed."""
        followed = self.trainer.followed
        try:
            is_next = followed.follow(message.round, message.survivors, read_uint8(message.header, buffer))
        except (SumRefusedError, ConsentError, WireError) as error:
            with about(round=message.round):
                _log.warning("the sum of round %d is refused: %s", message.round, error)
            self._report(ClientState(self._name, message.round, "sum refused", str(error)))
            return
        if is_next:
            self._records.keep(model_followed(self._name, self.run_id, message.round, followed.model))
        if message.catching_up:
            self.ready()

    def on_start(self, message: RoundStart, buffer: bytes) -> None:
        """A round is announced: begin it, or send again what was given to it, or decline."""
        current, trainer = self._round, self.trainer
        if current is not None and current.start == message:
            self._send_again(current)
            return
        try:
            job = self._rules.accept(message, buffer, trainer, self._last_round)
        except (ClientRefusesError, ValueError) as error:
            self._decline(message.run_id, message.round, str(error))
            if isinstance(error, OtherModelError):
                self.ready()  # says which sums have arrived
            return
        self.drop()
        now_about(round=message.round)
        self._last_round = message.round
        cancelled = runtime.event()
        exchange = ShareExchange(cancelled)
        self._tell("training")
        future = self._worker.submit(trainer.run, job, exchange, cancelled, self._tell)
        self._round = _Round(message, job, cancelled, exchange, future)

    def _decline(
        self, run_id: str, number: int, reason: str, key_bits: int = 0, spent_with: tuple[str, ...] = ()
    ) -> None:
        self._report(ClientState(self._name, number, "declined", reason))
        message = Decline(run_id, number, reason[:1000], key_bits, spent_with)
        if key_bits:
            self._costs[number] = message
        self._send(message)

    def tell_costs(self) -> None:
        """Say once more what rounds without a sum cost: the server may be another process than before."""
        for message in self._costs.values():
            self._send(message)

    def _settle(self, ended: _Round) -> None:
        """Tell what a round without a sum cost, if anything."""
        key_bits, spent_with = ended.spent
        if key_bits:
            number = ended.start.round
            message = Decline(ended.start.run_id, number, "the round came to no sum", key_bits, spent_with)
            self._costs[number] = message
            self._send(message)

    def collect(self) -> None:
        """Send what the worker has finished."""
        for ended in [each for each in self._ended if each.future.done()]:
            self._ended.remove(ended)
            self._settle(ended)
        current = self._round
        if current is None or not current.working:
            return
        if current.shares is None and current.exchange.outgoing is not None:
            self._send_shares(current, *current.exchange.outgoing)
        if current.future.done():
            current.working = False
            self._finish(current)

    def _send_shares(self, current: _Round, sealed: Mapping[str, bytes], key_bits: int) -> None:
        context = current.job.context
        peers = [name for name in context.participants if name != self._name]
        rows = np.stack([np.frombuffer(sealed[peer], np.uint8) for peer in peers])
        message = Shares(context.run_id, context.round, context.digest(), key_bits, header_of(rows))
        current.shares = message, rows
        self._tell("waiting for peers", "their shares")
        self._send(message, rows)

    def _finish(self, current: _Round) -> None:
        error = current.future.exception()
        if error is None:
            self._finish_upload(current, current.future.result())
            return
        if isinstance(error, CancelledError):
            self.drop()
            return
        expected = isinstance(error, EXPECTED_FAILURES)
        reason = self._reason(current.start.round, error)
        self._decline(current.start.run_id, current.start.round, reason, *current.spent)
        if current.exchange.held_shares is None:
            self.drop(settled=True)
        self._tell("idle")  # a client that holds shares of others can still answer
        if not expected:
            raise error

    def _reason(self, number: int, error: BaseException) -> str:
        """What the server is told of a fault; the rest goes to this client's own log."""
        if (told := told_reason(error)) is not None:
            return told
        _log.error("round %d failed: %s: %s", number, type(error).__name__, error)
        return f"{type(error).__name__}: see the log of {self._name}"

    def _finish_upload(self, current: _Round, protected: ProtectedUpdate) -> None:
        trainer, context = self.trainer, current.job.context
        losses = trainer.feedback.losses(context.round)
        self._warn(context.round, losses)
        upload = Upload(
            context.run_id,
            context.round,
            context.digest(),
            trainer.weight(current.job),
            trainer.aggregation.n_values,
            trainer.aggregation.value_bits,
            protected.key_bits,
            header_of(protected.packed),
            None if losses is None else losses.bands,
        )
        self._records.keep(update_given(self._name, context, protected.packed, protected.key_bits))
        current.upload = upload, protected.packed
        self.uploaded += 1
        self._tell("uploaded")
        self._send(upload, protected.packed)

    def _warn(self, number: int, losses: Losses | None) -> None:
        """Tell the client's own operator, and nobody else, how much of the update was lost."""
        config = self.trainer.config
        clip = config.clip * config.clip_decay ** (number - 1)
        if losses is not None and (warning := losses.warning(clip, config.levels)):
            _log.warning("round %d: %s", number, warning)
            self._report(ClientState(self._name, number, "update lost", warning))

    def _send_again(self, current: _Round) -> None:
        for given in (current.shares, current.upload):
            if given is not None:
                self._send(*given)

    def _on_peer_shares(self, message: PeerShares, buffer: bytes) -> None:
        current = self._round
        if current is None or (message.run_id, message.round) != (current.start.run_id, current.start.round):
            return
        peers = set(current.job.context.participants) - {self._name}
        try:
            rows = read_uint8(message.header, buffer)
            if rows.shape[:1] != (len(message.senders),) or not set(message.senders) <= peers:
                raise ClientRefusesError("shares of clients that take no part, or fewer than senders")
        except (ClientRefusesError, WireError) as error:
            with about(round=message.round):
                _log.warning("shares of round %d dropped: %s", message.round, error)
            return
        shares = {name: row.tobytes() for name, row in zip(message.senders, rows, strict=True)}
        current.exchange.deliver(shares)

    def _on_question(self, message: Survivors | Confirmed, buffer: bytes) -> None:
        """The server names survivors, or what others said of them: confirm, or answer, or refuse."""
        answerer, current = self._answerer, self._round
        held_shares = None if current is None else current.exchange.held_shares
        try:
            if answerer is None or not self.trainer.config.protection.thresholds:
                raise ClientRefusesError(f"{self._name} holds no shares of run {message.run_id}")
            if isinstance(message, Survivors):
                given, array = answerer.confirm(message, held_shares)
            else:
                given, array = answerer.answer(message, read_uint8(message.header, buffer), held_shares)
        except (ClientRefusesError, AnswerRefusedError, AnswerBookError, WireError) as error:
            self._report(ClientState(self._name, message.round, "answer refused", str(error)))
            reason = self._reason(message.round, error)
            self._send(Decline(message.run_id, message.round, reason[:1000]))
            return
        self._send(given, array)
        if isinstance(given, Answer):
            self._tell("answered")

    def _on_end(self, message: RoundEnd) -> None:
        number, reason = message.round, message.reason
        in_sum = not reason and self._name in message.survivors
        self.trainer.feedback.ended(number, in_sum)
        if self._round is not None and self._round.start.round == number:
            self.drop(settled=not reason)
        self._costs = {each: cost for each, cost in self._costs.items() if each >= number}
        self._report(ClientState(self._name, number, "round aborted" if reason else "round done", reason))

    def drop(self, *, settled: bool = False) -> None:
        """Forget the round and its update; work that has not spent key yet stops.

        Unless it is ``settled`` what the round cost, the server is told once that is known.
        """
        if self._round is not None:
            if not settled:
                self._ended.append(self._round)
            self._round.cancelled.set()
            self._round.exchange.close()
            self._round = None
            self._tell("idle")
