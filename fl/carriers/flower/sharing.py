"""A client's part in a ``lightsecagg`` round, one message at a time (:mod:`fl.modes.lightsecagg`).

Between the messages the client's mask, shares and channel lie encrypted in ``Context.state``
(:mod:`fl.carriers.flower.held`); every step takes out what the one before put in.  That a step is not done twice does
not rest on it, as a state can be put back: the node's journal knows the dealt round, another journal the
used mask, and the book of answers (:mod:`fl.modes.answers`) the list of survivors.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Message

from fl.carriers.flower.arrays import flatten
from fl.carriers.flower.call import Call
from fl.carriers.flower.consenting import begin, check_handed, stand
from fl.carriers.flower.held import Held, Step, keep, symbols_from_bytes, symbols_to_bytes, take
from fl.carriers.flower.records import Confirmation, RoundAnnouncement, payload_array, payload_bytes
from fl.carriers.flower.training import ask_for_keys, patience, quantise, update_from, upload_of
from fl.keys.node import KeyServiceError
from fl.modes.answers import AnswerBook
from fl.modes.lightsecagg import HeldShares, LightSecAgg, MaskedSum
from fl.rounds.aggregation import aggregation_for
from fl.rounds.answering import Answerer
from fl.rounds.client_rules import ClientRefusesError
from fl.rounds.messages import PeerShares, Shares, Survivors, header_of
from orchestrator.delivery.errors import OutputLostError
from orchestrator.delivery.journal import write_entry
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.sharing import ShareChannel


def deal(call: Call, announcement: RoundAnnouncement) -> Message:
    """Draw a mask and send every other participant its sealed share."""
    standing = stand(call, announcement)
    aggregation, agreed = _agreed(announcement)
    standing.check(agreed)
    user = call.participant.user
    with call.participant.node_keys() as keys, patience(call, announcement) as (cancelled, tell):
        ask_for_keys(announcement, aggregation, keys)
        channel = keys.share_channel(agreed, cancelled, tell)
    dealt, mask, sealed = aggregation.deal(channel, user)
    kept = {user: symbols_to_bytes(dealt.shares[user])}
    key_bits = channel.key_bits_used
    _keep(call, announcement, "shared", channel, symbols_to_bytes(mask), kept)
    mask[:] = 0
    dealt.close()
    peers = [name for name in agreed.participants if name != user]
    rows = np.stack([np.frombuffer(sealed[peer], np.uint8) for peer in peers])
    answer = Shares(agreed.run_id, agreed.round, agreed.digest(), key_bits, header_of(rows))
    return call.reply(answer, rows)


def train_and_mask(call: Call, message: PeerShares) -> Message:
    """Open the shares of the others, train, and upload the update under the own mask."""
    user = call.participant.user
    rows = payload_array(message.header, payload_bytes(call.message.content))
    held, channel = _resume(call, message.run_id, message.round, "shared")
    announcement = held.announcement
    aggregation, agreed = _agreed(announcement)
    code = aggregation.code(len(agreed.participants))
    model = flatten(call.model)
    call.check_model(model, announcement.n_parameters, announcement.model)
    check_handed(call, announcement)
    begin(call, aggregation, model)
    if rows.shape[0] != len(message.senders) or user in message.senders:
        raise ClientRefusesError(f"{rows.shape[0]} shares of {len(message.senders)} other senders")
    shares = dict(held.shares)
    for peer, row in zip(message.senders, rows, strict=True):
        shares[peer] = symbols_to_bytes(aggregation.open_share(channel, peer, row.tobytes()))
    senders = tuple(name for name in agreed.participants if name in shares)
    everybody = Survivors(agreed.run_id, agreed.round, agreed.participants, senders, senders)
    call.participant.rules.check_survivors(user, announcement.config, everybody)
    update, told = update_from(call)
    values, bands = quantise(update, announcement, call.participant)
    weight = announcement.config.weights_of((user,))[0]
    _spend(call, agreed, channel)
    mask = symbols_from_bytes(held.mask)
    protected = MaskedSum(code, channel.key_bits_used, mask).protect(values, weight)
    _keep(call, announcement, "uploaded", channel, b"", shares)
    return call.reply(
        upload_of(call, announcement, aggregation, agreed, protected, bands), protected.packed, told
    )


def confirm(call: Call, message: Survivors) -> Message:
    """Bind this client durably to the survivors that the server names, and confirm them to the other share holders."""
    held, channel = _resume(call, message.run_id, message.round, "uploaded")
    held_shares = _held_shares(call, held, channel)
    answer, payload = _answerer(call, held).confirm(message, held_shares)
    _keep(call, held.announcement, "confirmed", channel, b"", held.shares)
    return call.reply(answer, payload)


def answer(call: Call, message: Confirmation) -> Message:
    """Answer with the sum of the survivors' shares, once U clients are known to be bound to them."""
    payload = payload_bytes(call.message.content)
    survivors = message.survivors
    held, channel = _resume(call, survivors.run_id, survivors.round, "confirmed")
    held_shares, answerer = _held_shares(call, held, channel), _answerer(call, held)
    answerer.confirm(survivors, held_shares)  # the same list again, or refused
    tags = payload_array(message.confirmed.header, payload)
    reply, packed = answerer.answer(message.confirmed, tags, held_shares)
    held_shares.close()
    return call.reply(reply, packed)


def _agreed(announcement: RoundAnnouncement) -> tuple[LightSecAgg, RoundContext]:
    aggregation = aggregation_for(announcement.config, announcement.n_parameters, announcement.first_model)
    if not isinstance(aggregation, LightSecAgg):
        raise ClientRefusesError(f"mode {announcement.config.mode} exchanges no shares")
    return aggregation, aggregation.context(announcement.round, announcement.participants, announcement.model)


def _keep(
    call: Call,
    announcement: RoundAnnouncement,
    step: Step,
    channel: ShareChannel,
    mask: bytes,
    shares: dict[str, bytes],
) -> None:
    keep(call.context, call.participant.held_key, Held(announcement, step, channel.park(), mask, shares))


def _resume(call: Call, run_id: str, round_number: int, step: Step) -> tuple[Held, ShareChannel]:
    held = take(call.context, call.participant.held_key, run_id, round_number, step)
    return held, ShareChannel.resume(held.channel)


def _spend(call: Call, agreed: RoundContext, channel: ShareChannel) -> None:
    """Use the mask of the round, once: two messages in flight may start from one state, and a state be put back."""
    try:
        write_entry(call.participant.state_folder / "masks", agreed)
    except OutputLostError as error:
        raise KeyServiceError(str(error), channel.key_bits_used) from error


def _held_shares(call: Call, held: Held, channel: ShareChannel) -> HeldShares:
    aggregation, agreed = _agreed(held.announcement)
    shares = {name: symbols_from_bytes(data) for name, data in held.shares.items()}
    return HeldShares(aggregation.code(len(agreed.participants)), call.participant.user, channel, shares)


def _answerer(call: Call, held: Held) -> Answerer:
    participant = call.participant
    book = AnswerBook(participant.state_folder / "answers")
    return Answerer(participant.user, held.announcement.config, participant.rules, book)
