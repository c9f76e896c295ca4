"""The client mod: what a Flower client trains leaves it only quantised and masked.

    app = ClientApp(mods=[qkd_secagg_mod])

The app trains as it always does and returns its model; the mod takes the difference to the global model,
quantises it, has it masked with key from the user's own node, and sends the packed result instead: one round
trip per round (four with ``lightsecagg``, :mod:`fl.flower.sharing`).  The server is not trusted.  The mod
itself checks that the message was made by the server of the testbed file, that sums cannot wrap, that mode and
participants are what its user accepts, and that the round number grows.  The last number is kept in
``Context.state``, and a used one is refused before the app trains or a key is asked for; behind that stand the
journal and the ledger of the node, and the nodes of all participants compare the round before they give a pad.

Whatever is not a training message passes to the app, and no array passes back: a model leaves this node
protected or not at all.  Of a training reply only metrics that the user made public pass.
"""

from __future__ import annotations

import logging

from flwr.app import Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable

from fl.aggregation.answers import AnswerBookError, AnswerRefusedError
from fl.distributed.client_rules import ClientRefusesError
from fl.distributed.messages import Decline, PeerShares, Survivors
from fl.flower.arrays import flatten
from fl.flower.call import Call, StateError
from fl.flower.held import HeldError
from fl.flower.identity import IdentityError
from fl.flower.participant import participant_of
from fl.flower.records import (
    Confirmation,
    FromServer,
    Hello,
    Introduction,
    RoundAnnouncement,
    open_record,
    payload_bytes,
    payload_digest,
)
from fl.flower.rules import check_announcement
from fl.flower.sharing import answer, confirm, deal, train_and_mask
from fl.flower.training import AppFailedError, ask_for_keys, protect_update, update_from, upload_of
from fl.keys import CancelledError, KeyServiceError

REFUSALS = (
    ValueError,
    OSError,
    IdentityError,
    ClientRefusesError,
    KeyServiceError,
    CancelledError,
    HeldError,
    StateError,
    AnswerRefusedError,
    AnswerBookError,
)
"""What makes a client sit a round out and say why; anything else is the app's and Flower reports it."""

KEYS_BURNT = (KeyServiceError, CancelledError)
"""What says how much key is gone although nothing was sent."""

_log = logging.getLogger(__name__)


def qkd_secagg_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """The mod for ``ClientApp(mods=[...])``."""
    if message.metadata.message_type.split(".")[0] != "train":
        return _without_arrays(call_next(message, context))
    participant = participant_of(context)
    received: FromServer
    received, data, tag = open_record(message.content, FromServer)
    call = Call(message, context, call_next, participant)
    if isinstance(received, Hello):
        introduction = Introduction(
            participant.user, participant.public_key, participant.key_supply, received.nonce
        )
        return call.reply(introduction)
    try:
        if participant.bond is not None:
            payload = payload_bytes(message.content)
            digest = payload_digest(payload) if payload else b""
            participant.bond.check(tag, "to client", context.run_id, context.node_id, data, digest)
        return _answer(call, received)
    except AppFailedError as error:
        return Message(error.error, reply_to=message)
    except REFUSALS as error:
        run_id, number = _named(received)
        _log.warning("%s sits round %d out: %s", participant.user, number, error)
        burnt = (error.key_bits, error.spent_with) if isinstance(error, KEYS_BURNT) else (0, ())
        return call.reply(Decline(run_id, number, str(error)[:1000], *burnt))


def _answer(call: Call, received: RoundAnnouncement | PeerShares | Survivors | Confirmation) -> Message:
    match received:
        case RoundAnnouncement():
            check_announcement(
                received,
                user=call.participant.user,
                rules=call.participant.rules,
                flower_run=call.context.run_id,
                last_round=call.last_round,
            )
            call.remember(received.round)
            return deal(call, received) if received.config.mode == "lightsecagg" else _masked(call, received)
        case PeerShares():
            return train_and_mask(call, received)
        case Survivors():
            return confirm(call, received)
        case Confirmation():
            return answer(call, received)


def _masked(call: Call, announcement: RoundAnnouncement) -> Message:
    """Train, and mask under pads shared with every other participant (modes otp and expanded)."""
    aggregation = call.aggregation(announcement)
    agreed = aggregation.context(announcement.round, announcement.participants, announcement.model)
    call.check_model(flatten(call.model), announcement)
    with call.participant.node_keys() as keys:
        protected = aggregation.stored(agreed, keys)
        metrics: dict[str, MetricRecord] = {}
        if protected is None:
            ask_for_keys(announcement, aggregation, keys)
            update, metrics = update_from(call)
            protected = protect_update(call, announcement, aggregation, agreed, update, keys)
    return call.reply(
        upload_of(call, announcement, aggregation, agreed, protected), protected.packed, metrics
    )


def _named(received: RoundAnnouncement | PeerShares | Survivors | Confirmation) -> tuple[str, int]:
    """(run, round) of a message."""
    if isinstance(received, RoundAnnouncement):
        return received.config.run_id, received.round
    inner = received.survivors if isinstance(received, Confirmation) else received
    return inner.run_id, inner.round


def _without_arrays(reply: Message) -> Message:
    """``reply`` unless it would carry arrays out of the node unprotected."""
    if reply.has_content() and reply.content.array_records:
        raise ClientRefusesError(
            "a reply other than a protected update carries arrays; they stay on the node"
        )
    return reply
