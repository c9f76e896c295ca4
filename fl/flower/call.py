"""One training message at one client, and what all phases of a round need of it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl.aggregation import Aggregation, aggregation_for, model_digest
from fl.distributed.client_rules import ClientRefusesError
from fl.flower.arrays import model_record
from fl.flower.participant import Participant
from fl.flower.records import (
    CONFIG,
    PAYLOAD,
    Bytes,
    RoundAnnouncement,
    payload_digest,
    payload_record,
    record_of,
)
from fl.tasks.base import Parameters
from orchestrator.wire.codec import Message as Struct
from orchestrator.wire.codec import encode

STATE = "qunetlab"


class StateError(Exception):
    """The node's memory of used round numbers is damaged."""


@dataclass(frozen=True)
class Call:
    """A message on its way through the mod; ``call_next`` is the app."""

    message: Message
    context: Context
    call_next: ClientAppCallable
    participant: Participant

    @property
    def last_round(self) -> int:
        """The highest round number of this Flower run that the node has seen."""
        record = self.context.state.config_records.get(STATE)
        number = 0 if record is None else record.get("last-round")
        if not isinstance(number, int):
            raise StateError("the node's memory of used round numbers is damaged")
        return number

    def remember(self, number: int) -> None:
        """Spend a round number."""
        self.context.state[STATE] = ConfigRecord({"last-round": number})

    def aggregation(self, announcement: RoundAnnouncement) -> Aggregation:
        """How the announced run adds up."""
        return aggregation_for(announcement.config, announcement.n_parameters)

    @property
    def model(self) -> ArrayRecord:
        """The global model in the message; raises ModelShapeError."""
        records = RecordDict(dict(self.message.content))
        if PAYLOAD in records:
            del records[PAYLOAD]
        return model_record(records, "the round's message")

    def check_model(self, model: Parameters, announcement: RoundAnnouncement) -> None:
        """Raise ClientRefusesError for a global model that is not the announced one, or no numbers."""
        if model.size != announcement.n_parameters or not np.isfinite(model).all():
            raise ClientRefusesError(
                f"the model has {model.size} values or holds NaN or infinity; {announcement.n_parameters} "
                "finite values were announced"
            )
        if not hmac.compare_digest(model_digest(model), announcement.model):
            raise ClientRefusesError("the model is not the one that was announced to all participants")

    def reply(
        self,
        answer: Struct,
        payload: Bytes | None = None,
        metrics: Mapping[str, MetricRecord] | None = None,
    ) -> Message:
        """The reply that carries ``answer``, proved with the user's key pair where there is one."""
        content, tag = RecordDict(), b""
        beside = None if payload is None else payload_record(payload)
        if self.participant.bond is not None:
            digest = b"" if beside is None else payload_digest(beside["bytes"].data)
            run, node_id = self.context.run_id, self.context.node_id
            tag = self.participant.bond.tag("to server", run, node_id, encode(answer), digest)
        content[CONFIG] = record_of(answer, tag)
        if beside is not None:
            content[PAYLOAD] = beside
        for name, record in (metrics or {}).items():
            content[name] = record
        return Message(content, reply_to=self.message)
