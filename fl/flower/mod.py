"""The client mod: what a Flower client trains leaves it only quantised and masked.

    app = ClientApp(mods=[qkd_secagg_mod])

The app trains as it always does and returns its model; the mod takes the difference to the global model,
quantises it, has it masked by the delivery of the user's own node, and sends the packed result instead.
One round trip per round.  The server is not trusted: the mod itself checks that the message was made by the
server of the testbed file, that the ring cannot wrap, that mode and participants are what its user accepts,
and that the round number grows.  The last number is kept in ``Context.state`` and a used one is refused
before the app trains or a key is asked for; behind that stand the journal and the ledger of the node, which
the nodes of all participants agree on.

Whatever is not a training message passes to the app, and no array passes back: a model leaves this node
protected or not at all.  Of a training reply only metrics that the user made public pass.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl.aggregation import Aggregation, aggregation_for
from fl.aggregation.base import Holdings, Workshop
from fl.compression import Compression
from fl.flower.arrays import change, flatten, model_record
from fl.flower.identity import IdentityError
from fl.flower.participant import Participant, participant_of
from fl.flower.records import (
    CONFIG,
    PAYLOAD,
    FromServer,
    Hello,
    Introduction,
    Refusal,
    RoundAnnouncement,
    Upload,
    open_record,
    payload_digest,
    payload_record,
    record_of,
)
from fl.flower.rules import RoundRefusedError, check_announcement
from fl.keys import CancelledError, KeyServiceError, KeyWait, NodeKeys, ProtectedUpdate
from fl.quantise import check_finite, quantisation_rng
from fl.tasks.base import Parameters
from orchestrator.delivery.messages import RoundContext
from orchestrator.wire.codec import encode

STATE = "qunetlab"
REFUSALS = (ValueError, OSError, IdentityError, RoundRefusedError, KeyServiceError, CancelledError)
"""What makes a client sit a round out and say why; anything else is the app's and Flower reports it."""

_log = logging.getLogger(__name__)


def qkd_secagg_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """The mod for ``ClientApp(mods=[...])``."""
    if message.metadata.message_type.split(".")[0] != "train":
        return _without_arrays(call_next(message, context))
    participant = participant_of(context)
    received: Hello | RoundAnnouncement
    received, data, tag = open_record(message.content, FromServer)
    if isinstance(received, Hello):
        return _reply(message, participant, _introduction(received, participant))
    try:
        return _take_part(message, context, call_next, participant, received, data, tag)
    except REFUSALS as error:
        _log.warning("%s sits round %d out: %s", participant.user, received.round, error)
        spent = error.key_bits if isinstance(error, KeyServiceError) else 0
        refusal = Refusal(received.config.run_id, received.round, str(error)[:1000], spent)
        return _reply(message, participant, refusal)


def _introduction(hello: Hello, participant: Participant) -> Introduction:
    return Introduction(participant.user, participant.public_key, participant.key_supply, hello.nonce)


def _take_part(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    participant: Participant,
    announcement: RoundAnnouncement,
    data: bytes,
    tag: bytes,
) -> Message:
    run = message.metadata.run_id
    if participant.bond is not None:
        participant.bond.check(tag, "to client", run, context.node_id, data)
    model = model_record(message.content, "the round's message")
    parameters = flatten(model)
    check_announcement(
        announcement,
        user=participant.user,
        mode=participant.mode,
        min_participants=participant.min_participants,
        flower_run=run,
        last_round=_last_round(context),
        model=parameters,
    )
    _remember(context, announcement.round)
    with participant.node_keys() as keys:
        return _uploaded(message, context, call_next, participant, announcement, parameters, keys)


def _uploaded(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    participant: Participant,
    announcement: RoundAnnouncement,
    parameters: Parameters,
    keys: NodeKeys,
) -> Message:
    aggregation = aggregation_for(announcement.config, parameters.size)
    agreed = aggregation.context(announcement.round, announcement.participants)
    protected = aggregation.stored(agreed, keys)
    public: dict[str, MetricRecord] = {}
    if protected is None:
        model = model_record(message.content, "the round's message")
        del message.content[CONFIG]
        trained = call_next(message, context)
        if trained.has_error():
            return trained
        public = _public_metrics(trained.content, participant)
        update = change(model, model_record(trained.content, "the app's reply"))
        values = _quantise(update, announcement, participant.user)
        protected = _protect(aggregation, agreed, values, announcement, participant, keys)
    upload = Upload(
        agreed.run_id,
        agreed.round,
        agreed.digest(),
        _weight(announcement, participant),
        aggregation.n_values,
        aggregation.value_bits,
        protected.key_bits,
    )
    return _reply(message, participant, upload, protected, public)


def _protect(
    aggregation: Aggregation,
    agreed: RoundContext,
    values: npt.NDArray[np.int64],
    announcement: RoundAnnouncement,
    participant: Participant,
    keys: NodeKeys,
) -> ProtectedUpdate:
    """The masked update; gives up, with the reserved pads burnt, after the run's time for waiting."""
    config, cancelled = announcement.config, threading.Event()
    told: set[bool] = set()

    def tell(wait: KeyWait) -> None:
        if wait.for_keys not in told:
            told.add(wait.for_keys)
            _log.info("%s waits in round %d: %s", participant.user, agreed.round, wait.detail)

    bound = config.levels * sum(config.weights_of(announcement.participants))
    workshop = Workshop(agreed, participant.user, bound, keys, NoExchange(), cancelled, tell)
    patience = threading.Timer(config.wait_timeout_s, cancelled.set)
    patience.daemon = True
    patience.start()
    try:
        return aggregation.prepare(workshop).protect(values, _weight(announcement, participant))
    finally:
        patience.cancel()


class NoExchange:
    """Pads of a pair need no messages between clients."""

    def swap(self, sealed: Mapping[str, bytes], key_bits: int) -> Mapping[str, bytes]:
        raise KeyServiceError("this mode exchanges no shares")

    def hold(self, holdings: Holdings) -> None:
        raise KeyServiceError("this mode exchanges no shares")


def _quantise(update: Parameters, announcement: RoundAnnouncement, user: str) -> npt.NDArray[np.int64]:
    """The integers to send for an update; raises UpdateNotFiniteError."""
    config, number = announcement.config, announcement.round
    compression = Compression.from_config(config)
    check_finite(update, client=user, round_number=number)
    sent = update[compression.coordinates(config.seed, number, update.size)]
    rng = quantisation_rng(config.seed, number, config.clients.index(user))
    values = compression.quantiser(number).quantise(sent, rng, client=user, round_number=number)
    return values.astype(np.int64)


def _weight(announcement: RoundAnnouncement, participant: Participant) -> int:
    return announcement.config.weights_of((participant.user,))[0]


def _last_round(context: Context) -> int:
    """The highest round number of this Flower run that the node has seen."""
    record = context.state.config_records.get(STATE)
    number = 0 if record is None else record["last-round"]
    if not isinstance(number, int):
        raise RoundRefusedError("the node's memory of used round numbers is damaged")
    return number


def _remember(context: Context, number: int) -> None:
    context.state[STATE] = ConfigRecord({"last-round": number})


def _public_metrics(content: RecordDict, participant: Participant) -> dict[str, MetricRecord]:
    """The metrics that may be told, record by record."""
    kept = {
        name: MetricRecord({key: value for key, value in record.items() if key in participant.public_metrics})
        for name, record in content.metric_records.items()
    }
    return {name: record for name, record in kept.items() if record}


def _reply(
    message: Message,
    participant: Participant,
    answer: Introduction | Upload | Refusal,
    protected: ProtectedUpdate | None = None,
    metrics: dict[str, MetricRecord] | None = None,
) -> Message:
    """The reply that carries ``answer``, proved with the user's key pair where there is one."""
    tag, payload = b"", b"" if protected is None else payload_digest(protected.packed)
    if participant.bond is not None:
        run, node_id = message.metadata.run_id, message.metadata.dst_node_id
        tag = participant.bond.tag("to server", run, node_id, encode(answer), payload)
    content = RecordDict({CONFIG: record_of(answer, tag)})
    if protected is not None:
        content[PAYLOAD] = payload_record(protected.packed)
    for name, record in (metrics or {}).items():
        content[name] = record
    return Message(content, reply_to=message)


def _without_arrays(reply: Message) -> Message:
    """``reply`` unless it would carry arrays out of the node unprotected."""
    if reply.has_content() and reply.content.array_records:
        raise RoundRefusedError("a reply other than a protected update carries arrays; they stay on the node")
    return reply
