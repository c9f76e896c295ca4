"""The client mod: what a Flower client trains leaves it only quantised and masked.

    app = ClientApp(mods=[qkd_secagg_mod])

The app trains as it always does and returns its model; the mod takes the difference to the global model,
quantises it, has it masked with key from the user's own node, and sends the packed result instead: one round
trip per round (four with ``lightsecagg``, :mod:`fl.carriers.flower.sharing`).  The server is not trusted.  The mod
itself checks that the message was made by the server of the testbed file, that sums cannot wrap, that mode and
participants are what its user accepts, and that the round number grows.  The last number is kept in
``Context.state``, and a used one is refused before the app trains or a key is asked for; behind that stand the
journal and the ledger of the node, and the nodes of all participants compare the round before they give a pad.

Nothing passes the mod but by an allow-list.  Messages: those of :mod:`fl.carriers.flower.records`, with the server's
proof, under the message types ``train`` and ``evaluate``; to any other the app is not even asked.  Replies: made
here from nothing, with the metadata of the message as it arrived, and holding a message of ours, the protected
update, and the coarse metrics that the user made public (:mod:`fl.carriers.flower.leaving`).  Neither a record of the
app's nor the text of an exception goes out, for Flower sends those to the server as well.
"""

from __future__ import annotations

import hmac
import logging
from typing import TypeAlias

from flwr.app import Context, Message, MessageType

from fl.carriers.flower.arrays import flatten
from fl.carriers.flower.call import Call, ClientAppCallable, without_content
from fl.carriers.flower.consenting import begin, check_handed, stand
from fl.carriers.flower.held import HeldError
from fl.carriers.flower.identity import IdentityError
from fl.carriers.flower.leaving import AppFailedError, StateError, Told, reason_of, told_of
from fl.carriers.flower.participant import participant_of
from fl.carriers.flower.records import (
    Confirmation,
    Evaluated,
    Evaluation,
    FromServer,
    Hello,
    Introduction,
    RoundAnnouncement,
    beside_digest,
    open_record,
    payload_bytes,
)
from fl.carriers.flower.rules import check_announcement, check_evaluation
from fl.carriers.flower.sharing import answer, confirm, deal, train_and_mask
from fl.carriers.flower.training import ask_for_keys, protect_update, update_from, upload_of
from fl.keys.node import KeySpentError
from fl.modes.answers import AnswerBookError, AnswerRefusedError
from fl.rounds.client_rules import ClientRefusesError
from fl.rounds.messages import Decline, PeerShares, Survivors
from orchestrator.delivery.errors import DeliveryError
from orchestrator.wire.codec import WireError

Order: TypeAlias = RoundAnnouncement | PeerShares | Survivors | Confirmation | Evaluation

REFUSALS = (
    ValueError,
    OSError,
    IdentityError,
    ClientRefusesError,
    KeySpentError,
    HeldError,
    StateError,
    AnswerRefusedError,
    AnswerBookError,
    AppFailedError,
    DeliveryError,
)
"""Errors with which a client declines a round and tells the reason."""

_log = logging.getLogger(__name__)


def qkd_secagg_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """The mod for ``ClientApp(mods=[...])``; raises ClientRefusesError, or WireError for no message of ours."""
    try:
        return _guarded(message, context, call_next)
    except (ClientRefusesError, WireError):
        raise
    except Exception as error:  # noqa: BLE001 - Flower would send the server what an exception says
        _log.exception("a message of the server's is not answered")
        raise ClientRefusesError(reason_of(error)) from None


def _guarded(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    kind = message.metadata.message_type
    if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
        raise ClientRefusesError(f"messages of type {kind} are not answered")
    asked = without_content(message)
    received: FromServer
    received, data, tag = open_record(message.content, FromServer)
    if (kind == MessageType.EVALUATE) != isinstance(received, Evaluation):
        raise ClientRefusesError(f"a {type(received).__name__} is no message of type {kind}")
    participant = participant_of(context)
    call = Call(message, asked, context, call_next, participant)
    if isinstance(received, Hello):
        return _introduce(call, received)
    try:
        if participant.bond is not None:
            beside = beside_digest(payload_bytes(message.content))
            participant.bond.check(tag, "to client", context.run_id, context.node_id, data, beside)
        return _answer(call, received)
    except REFUSALS as error:
        run_id, number = _named(received)
        _log.warning("%s sits round %d out: %s", participant.user, number, error)
        burnt = (error.key_bits, error.spent_with) if isinstance(error, KeySpentError) else (0, ())
        return call.reply(Decline(run_id, number, reason_of(error)[:1000], *burnt))


def _introduce(call: Call, hello: Hello) -> Message:
    """Tell the server of the testbed file, and nobody else, whose node this is."""
    user, context = call.participant, call.context
    if user.bond is not None:
        user.bond.check_greeting(hello.proofs, context.run_id, context.node_id, hello.nonce)
    return call.reply(Introduction(user.user, user.public_key, user.key_supply, hello.nonce))


def _answer(call: Call, received: Order) -> Message:
    match received:
        case RoundAnnouncement():
            check_announcement(
                received,
                user=call.participant.user,
                rules=call.participant.rules,
                flower_run=call.context.run_id if call.participant.keys is None else None,
                last_round=call.last_round,
            )
            call.remember(received.round)
            return deal(call, received) if received.config.protection.thresholds else _masked(call, received)
        case PeerShares():
            return train_and_mask(call, received)
        case Survivors():
            return confirm(call, received)
        case Confirmation():
            return answer(call, received)
        case Evaluation():
            return _evaluated(call, received)


def _masked(call: Call, announcement: RoundAnnouncement) -> Message:
    """Train, and mask under pads shared with every other participant (modes otp and expanded)."""
    standing = stand(call, announcement)
    aggregation, user = standing.aggregation, call.participant.user
    agreed = aggregation.context(announcement.round, announcement.participants, announcement.model)
    model = flatten(call.model)
    call.check_model(model, announcement.n_parameters, announcement.model)
    check_handed(call, announcement)
    standing.check(agreed, announcement.config.weights_of((user,))[0])
    begin(call, aggregation, model)
    with call.participant.node_keys() as keys:
        protected = aggregation.stored(agreed, keys)
        told, bands = Told({}), None
        if protected is None:
            ask_for_keys(announcement, aggregation, keys)
            update, told = update_from(call)
            protected, bands = protect_update(call, announcement, aggregation, agreed, update, keys)
    upload = upload_of(call, announcement, aggregation, agreed, protected, bands)
    return call.reply(upload, protected.packed, told)


def _evaluated(call: Call, order: Evaluation) -> Message:
    """Have the app evaluate the model after the last round, once; only public metrics are answered."""
    last = order.last
    check_evaluation(last.round, last_round=call.last_round, last_evaluation=call.last_evaluation)
    standing = stand(call, last)
    call.check_model(flatten(call.model), last.n_parameters, order.model)
    if standing.followed is None or not hmac.compare_digest(standing.followed.digest, order.model):
        raise ClientRefusesError(
            "the model to evaluate does not follow from the last one and the published sum"
        )
    call.remember_evaluation(last.round)
    told = told_of(call.app_reply(), call.participant.public_metrics)
    return call.reply(Evaluated(last.config.run_id, last.round), told=told)


def _named(received: Order) -> tuple[str, int]:
    """(run, round) of a message."""
    if isinstance(received, Evaluation):
        received = received.last
    if isinstance(received, RoundAnnouncement):
        return received.config.run_id, received.round
    inner = received.survivors if isinstance(received, Confirmation) else received
    return inner.run_id, inner.round
