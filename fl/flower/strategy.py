"""FedAvg over protected updates: the server learns the sum of a round and nothing about its parts.

    strategy = QkdFedAvg(secure_run, roster, state_folder)
    strategy.start(grid, initial_arrays, num_rounds=10, evaluate_fn=evaluate)

``configure_train`` finds out who is behind the connected nodes, fixes participants, weights and ring, spends
a round number durably and announces all of it with the model.  ``aggregate_train`` takes the uploads of
exactly these participants, adds them up modulo 2^b and moves the model by the mean.  In modes ``otp`` and
``expanded`` the pads of a missing client do not cancel: the round is then aborted, its cost is recorded, and
the model stays as it is.  Settings with which a sum could wrap are refused before the first round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl.aggregation import MODES, Aggregation, AggregationError, aggregation_for
from fl.compression import Compression
from fl.config import FLConfig, Mode, check_config
from fl.flower.arrays import flatten, moved
from fl.flower.counter import RoundCounter
from fl.flower.identity import IdentityError
from fl.flower.records import (
    CONFIG,
    FromClient,
    Introduction,
    Refusal,
    RoundAnnouncement,
    Upload,
    open_record,
    payload_digest,
    read_payload,
    record_of,
)
from fl.flower.roster import Roster
from fl.flower.rules import run_name
from fl.quantise import smallest_ring_bits
from orchestrator.bits import check_packed, packed_size
from orchestrator.delivery.messages import RoundContext
from orchestrator.wire.codec import WireError, encode

MEETING_POLL_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SecureRun:
    """The public settings of a run; see :class:`fl.config.FLConfig` for what they mean.

    ``ring_bits`` 0 takes the narrowest ring that cannot wrap.  ``weights`` are public integers per user
    (default 1).  After ``meeting_s`` a round begins with the users that are there, if they are ``quorum``.
    """

    mode: Mode = "otp"
    levels: int = 127
    clip: float = 1.0
    ring_bits: int = 0
    keep: float = 1.0
    clip_decay: float = 1.0
    weights: Mapping[str, int] = field(default_factory=dict)
    colluders: int = 0
    survivors: int = 0
    quorum: int = 0
    seed: int = 0
    meeting_s: float = 120.0
    wait_timeout_s: float = 600.0

    def config(self, run_id: str, users: tuple[str, ...]) -> FLConfig:
        """The settings as clients check them; raises ConfigError or QuantisationError."""
        weights = tuple(self.weights.get(user, 1) for user in users)
        config = FLConfig(
            run_id=run_id,
            task="flower",
            clients=users,
            seed=self.seed,
            ring_bits=self.ring_bits or smallest_ring_bits(self.levels, sum(weights)),
            levels=self.levels,
            clip=self.clip,
            mode=self.mode,
            weights=weights,
            colluders=self.colluders,
            survivors=self.survivors,
            keep=self.keep,
            clip_decay=self.clip_decay,
            min_clients=self.quorum,
            wait_timeout_s=self.wait_timeout_s,
        )
        check_config(config)
        return config


@dataclass(frozen=True)
class RoundOutcome:
    """What came of one round; ``reason`` is empty where its sum moved the model.

    ``key_bits`` counts every pad once, over all pairs: used, or burnt by an aborted round.  ``security``
    is the label of the mode, ``key_supply`` says whether keys came from nodes or were simulated.
    """

    round: int
    participants: tuple[str, ...]
    reason: str
    upload_bytes: int
    key_bits: int
    security: str
    key_supply: str
    duration_s: float

    @property
    def metrics(self) -> MetricRecord:
        """The numbers of it, for Flower's history."""
        return MetricRecord(
            {
                "qkd-round": self.round,
                "qkd-aborted": int(bool(self.reason)),
                "qkd-participants": len(self.participants),
                "qkd-upload-bytes": self.upload_bytes,
                "qkd-key-bits": self.key_bits,
            }
        )


@dataclass(frozen=True)
class _OpenRound:
    announcement: RoundAnnouncement
    aggregation: Aggregation
    context: RoundContext
    model: ArrayRecord
    n_parameters: int
    flower_run: int
    began_s: float

    @property
    def upload_bits(self) -> int:
        """Size of one packed upload."""
        return self.aggregation.n_values * self.aggregation.value_bits


class QkdFedAvg(FedAvg):
    """FedAvg whose clients run :func:`fl.flower.mod.qkd_secagg_mod`.

    Other arguments are FedAvg's; ``fraction_train`` below 1 draws that share of the users for each round.
    """

    def __init__(self, run: SecureRun, roster: Roster, state_folder: Path, **fedavg: Any) -> None:
        """``state_folder`` keeps the round numbers that were used."""
        super().__init__(**fedavg)
        self.secure_run = run
        self.roster = roster
        self.outcomes: list[RoundOutcome] = []
        self._state_folder = state_folder
        self._config: FLConfig | None = None
        self._open: _OpenRound | None = None

    def summary(self) -> None:
        """Log the settings."""
        super().summary()
        mode = self.secure_run.mode
        _log.info(
            "Secure aggregation: mode %s (%s), %s keys", mode, MODES[mode].security, self.roster.key_supply
        )
        if self.roster.key_supply == "simulated":
            _log.warning("keys are simulated: masks are added and cancel, but they protect nothing")

    # -- a round begins ---------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Announce a round to its participants; nobody, if too few users are there."""
        self._open = None
        present = self._meet(grid)
        settings = self._settings(grid)
        if len(present) < settings.quorum:
            _log.error("round skipped: %d users present, %d needed", len(present), settings.quorum)
            return []
        participants = self._draw(present, settings)
        number = RoundCounter(self._state_folder, settings.run_id).next()
        announcement = RoundAnnouncement(settings, number, participants)
        n_parameters = flatten(arrays).size
        aggregation = aggregation_for(settings, n_parameters)
        self._open = _OpenRound(
            announcement,
            aggregation,
            aggregation.context(number, participants),
            arrays,
            n_parameters,
            grid.run.run_id,
            time.monotonic(),
        )
        config["server-round"] = server_round
        return [self._announce(user, arrays, config) for user in participants]

    def _announce(self, user: str, arrays: ArrayRecord, config: ConfigRecord) -> Message:
        current = self._open
        assert current is not None
        tag = self.roster.tag(user, current.flower_run, encode(current.announcement))
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        content[CONFIG] = record_of(current.announcement, tag)
        return Message(
            content,
            dst_node_id=self.roster.nodes[user],
            message_type=MessageType.TRAIN,
            group_id=str(current.announcement.round),
        )

    def _meet(self, grid: Grid) -> tuple[str, ...]:
        """The users present, once all of them are or the time for meeting is over."""
        deadline_s = time.monotonic() + self.secure_run.meeting_s
        while True:
            present = self.roster.greet(grid)
            wanted = self.roster.users() if self._config is None else self._config.clients
            enough = len(present) >= max(self.min_available_nodes, len(wanted))
            if enough or time.monotonic() > deadline_s:
                return present
            time.sleep(MEETING_POLL_S)

    def _settings(self, grid: Grid) -> FLConfig:
        """The settings of the run, fixed at its first round."""
        if self._config is None:
            self._config = self.secure_run.config(run_name(grid.run.run_id), self.roster.users())
        return self._config

    def _draw(self, present: tuple[str, ...], settings: FLConfig) -> tuple[str, ...]:
        """The participants of a round: a random share of the users present, in the run's order."""
        able = tuple(user for user in settings.clients if user in present)
        size = max(int(len(able) * self.fraction_train), self.min_train_nodes, settings.quorum)
        if size >= len(able):
            return able
        chosen = np.random.default_rng().choice(len(able), size, replace=False)
        return tuple(able[index] for index in sorted(chosen))

    # -- a round ends -----------------------------------------------------------------------------------

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The moved model, or None if the round came to nothing; both with the round's metrics."""
        current, self._open = self._open, None
        if current is None:
            return None, None
        uploads: dict[str, tuple[Upload, npt.NDArray[np.uint8]]] = {}
        declined: dict[str, Refusal] = {}
        told: dict[str, RecordDict] = {}
        reasons: dict[str, str] = {}
        for reply in replies:
            user = self.roster.user_of(reply.metadata.src_node_id)
            if user is None or user not in current.announcement.participants:
                _log.warning("reply of Flower node %d dropped: no participant", reply.metadata.src_node_id)
                continue
            try:
                answer, packed = self._read(current, user, reply)
            except (WireError, IdentityError, ValueError) as error:
                reasons[user] = str(error)
                continue
            if isinstance(answer, Refusal):
                declined[user] = answer
                reasons[user] = answer.reason
            elif user in uploads:
                reasons[user] = "two uploads in one round"
            else:
                uploads[user] = (answer, packed)
                told[user] = reply.content
        missing = [
            user for user in current.announcement.participants if user not in uploads or user in reasons
        ]
        if missing:
            texts = (f"{user}: {reasons.get(user, 'no reply in time')}" for user in missing)
            return self._abort(current, "; ".join(texts), uploads, declined)
        return self._complete(current, uploads, told)

    def _read(
        self, current: _OpenRound, user: str, reply: Message
    ) -> tuple[Upload | Refusal, npt.NDArray[np.uint8]]:
        """A participant's answer; raises WireError, IdentityError or ValueError for one that does not count."""
        if reply.has_error():
            raise ValueError(f"the app failed: {reply.error.reason}")
        answer: Introduction | Upload | Refusal
        answer, data, tag = open_record(reply.content, FromClient)
        context = current.context
        packed = np.zeros(0, np.uint8)
        if isinstance(answer, Upload):
            packed = read_payload(reply.content, packed_size(current.upload_bits))
        proof = payload_digest(packed) if isinstance(answer, Upload) else b""
        self.roster.check(user, current.flower_run, tag, data, proof)
        if isinstance(answer, Introduction):
            raise WireError("an introduction instead of an upload")
        if (answer.run_id, answer.round) != (context.run_id, context.round):
            raise WireError(f"the answer belongs to round {answer.round} of {answer.run_id}")
        if isinstance(answer, Upload):
            self._check_upload(current, user, answer, packed)
        return answer, packed

    def _check_upload(
        self, current: _OpenRound, user: str, upload: Upload, packed: npt.NDArray[np.uint8]
    ) -> None:
        context = current.context
        if upload.context != context.digest():
            raise WireError("the client agreed on another round context with its peers")
        aggregation = current.aggregation
        if (upload.n_values, upload.value_bits) != (aggregation.n_values, aggregation.value_bits):
            raise WireError(
                f"{upload.n_values} values of {upload.value_bits} bits are not those of the round"
            )
        (weight,) = current.announcement.config.weights_of((user,))
        if upload.weight != weight:
            raise WireError(f"weight {upload.weight} was announced as {weight}")
        check_packed(packed, current.upload_bits)

    def _complete(
        self,
        current: _OpenRound,
        uploads: Mapping[str, tuple[Upload, npt.NDArray[np.uint8]]],
        told: Mapping[str, RecordDict],
    ) -> tuple[ArrayRecord | None, MetricRecord]:
        context, settings = current.context, current.announcement.config
        weights = dict(zip(context.participants, settings.weights_of(context.participants), strict=True))
        packed = {user: uploads[user][1] for user in context.participants}
        try:
            total = current.aggregation.total(context.participants, packed, {})
        except AggregationError as error:
            return self._abort(current, str(error), uploads, {})
        compression = Compression.from_config(settings)
        update = compression.mean(
            total,
            sum(weights.values()),
            compression.coordinates(settings.seed, context.round, current.n_parameters),
            context.round,
            current.n_parameters,
        )
        key_bits = sum(upload.key_bits for upload, _ in uploads.values()) // 2
        outcome = self._note(current, "", sum(part.nbytes for part in packed.values()), key_bits)
        metrics = outcome.metrics
        metrics.update(_mean_metrics(told, weights))
        return moved(current.model, update), metrics

    def _abort(
        self,
        current: _OpenRound,
        reason: str,
        uploads: Mapping[str, tuple[Upload, npt.NDArray[np.uint8]]],
        declined: Mapping[str, Refusal],
    ) -> tuple[None, MetricRecord]:
        """Nothing can be read in the sum of the others; whatever they masked is spent."""
        masked = {user for user, (upload, _) in uploads.items() if upload.key_bits}
        masked.update(user for user, refusal in declined.items() if refusal.key_bits)
        n, k = len(current.context.participants), len(masked)
        pairs = n * (n - 1) // 2 - (n - k) * (n - k - 1) // 2
        sent = sum(packed.nbytes for _, packed in uploads.values())
        outcome = self._note(current, reason, sent, pairs * current.aggregation.key_bits_per_pair)
        _log.error("round %d aborted, the model stays: %s", outcome.round, reason)
        return None, outcome.metrics

    def _note(self, current: _OpenRound, reason: str, upload_bytes: int, key_bits: int) -> RoundOutcome:
        outcome = RoundOutcome(
            current.context.round,
            current.context.participants,
            reason,
            upload_bytes,
            key_bits,
            current.aggregation.security,
            self.roster.key_supply,
            round(time.monotonic() - current.began_s, 3),
        )
        self.outcomes.append(outcome)
        return outcome


def _mean_metrics(told: Mapping[str, RecordDict], weights: Mapping[str, int]) -> dict[str, float]:
    """Means of the metrics that clients chose to tell, by the public weights of those who told them."""
    sums: dict[str, tuple[float, int]] = {}
    for user, content in told.items():
        for record in content.metric_records.values():
            for key, value in record.items():
                if isinstance(value, (int, float)):
                    so_far, weight = sums.get(key, (0.0, 0))
                    sums[key] = (so_far + weights[user] * float(value), weight + weights[user])
    return {key: total / weight for key, (total, weight) in sums.items()}
