"""One training message at one client, and what all phases of a round need of it."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl.carriers.flower.arrays import model_record
from fl.carriers.flower.leaving import APP_FAILED, AppFailedError, StateError, Told
from fl.carriers.flower.participant import Participant
from fl.carriers.flower.records import (
    CONFIG,
    PAYLOAD,
    Bytes,
    beside_digest,
    payload_record,
    record_of,
)
from fl.modes.base import model_digest
from fl.rounds.client_rules import ClientRefusesError
from fl.workloads.base import Parameters
from orchestrator.wire.codec import Message as Struct
from orchestrator.wire.codec import encode

ClientAppCallable: TypeAlias = Callable[[Message, Context], Message]
STATE = "qunetlab"
EVALUATIONS = "qunetlab-evaluations"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """A message on its way through the mod; ``call_next`` is the app.

    The app gets ``message`` and may change whatever it holds; answers are made of ``asked``, which has the
    message's metadata as they arrived and no content.
    """

    message: Message
    asked: Message
    context: Context
    call_next: ClientAppCallable
    participant: Participant

    @property
    def last_round(self) -> int:
        """The highest round number of this Flower run that the node has seen."""
        return self._last(STATE, "last-round")

    @property
    def last_evaluation(self) -> int:
        """The round after which the app last evaluated a model."""
        return self._last(EVALUATIONS, "after-round")

    def remember(self, number: int) -> None:
        """Spend a round number."""
        self.context.state[STATE] = ConfigRecord({"last-round": number})

    def remember_evaluation(self, number: int) -> None:
        """Spend the one evaluation after a round."""
        self.context.state[EVALUATIONS] = ConfigRecord({"after-round": number})

    def _last(self, record_name: str, key: str) -> int:
        record = self.context.state.config_records.get(record_name)
        number = 0 if record is None else record.get(key)
        if not isinstance(number, int):
            raise StateError("the node's memory of used round numbers is damaged")
        return number

    @property
    def model(self) -> ArrayRecord:
        """The global model in the message; raises ModelShapeError."""
        records = RecordDict(dict(self.message.content))
        if PAYLOAD in records:
            del records[PAYLOAD]
        return model_record(records, "the round's message")

    def check_model(self, model: Parameters, n_parameters: int, digest: bytes) -> None:
        """Raise ClientRefusesError for a global model that is not the announced one, or no numbers."""
        if model.size != n_parameters or not np.isfinite(model).all():
            raise ClientRefusesError(
                f"the model has {model.size} values or holds NaN or infinity; {n_parameters} "
                "finite values were announced"
            )
        if not hmac.compare_digest(model_digest(model), digest):
            raise ClientRefusesError("the model is not the one that was announced to all participants")

    def app_reply(self) -> RecordDict:
        """The app's reply to the message; raises AppFailedError, without the app's own words, where it failed.

        The reply is still on the node; only :mod:`fl.carriers.flower.leaving` decides what leaves it.
        """
        for ours in (CONFIG, PAYLOAD):
            if ours in self.message.content:
                del self.message.content[ours]
        try:
            reply = self.call_next(self.message, self.context)
            if reply.has_error():
                _log.error("the app of %s failed: %s", self.participant.user, reply.error.reason)
            else:
                return reply.content
        except Exception as error:  # Flower would send what an app's exception says
            _log.exception("the app of %s failed", self.participant.user)
            raise AppFailedError(APP_FAILED) from error
        raise AppFailedError(APP_FAILED)

    def reply(self, answer: Struct, payload: Bytes | None = None, told: Told | None = None) -> Message:
        """The reply that carries ``answer``, proved with the user's key pair where there is one."""
        content, tag = RecordDict(), b""
        beside = None if payload is None else payload_record(payload)
        metrics = encode(told) if told is not None and told.metrics else b""
        if self.participant.bond is not None:
            digest = beside_digest(b"" if beside is None else beside["bytes"].data, metrics)
            run, node_id = self.context.run_id, self.context.node_id
            tag = self.participant.bond.tag("to server", run, node_id, encode(answer), digest)
        content[CONFIG] = record_of(answer, tag, metrics)
        if beside is not None:
            content[PAYLOAD] = beside
        return Message(content, reply_to=self.asked)


def without_content(message: Message) -> Message:
    """An empty message with the metadata of ``message``, which later changes of ``message`` do not reach."""
    content = message.content
    message.content = RecordDict()
    bare = deepcopy(message)
    message.content = content
    return bare
