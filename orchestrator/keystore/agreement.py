"""What two key stores agree on before bits are used: deposits and reservations.

**Deposit** of a block that both ends hold (three messages; each end stores it as pending before it sends)::

    first                                    second
      Propose(id, size, tails, fingerprint) ->   compares the fingerprint with its own key
      <- Verdict(id, same, starts)               [different: destroys its key]
    confirms [or destroys its key]
      Stored(id) ->                              confirms

The fingerprint is a one-time tag of the key itself, so it says nothing about it.  If the last message is
lost, the first has confirmed and the second has not: :func:`orchestrator.keystore.reconcile` settles that
when the two meet again.

**Reservation** of a range for one context, asked for by the applications of both ends::

    owner of the lane                        the other
      <- Ask(lane, size, context, stock)         [untagged: can only lead to an abort]
    allocates, durably
      Offer(range, context) ->                   follows, durably
      <- Accept(range, context)
    notes it; both may release

A missing Accept makes the owner burn the range.  Different contexts or too little key are found before
anything is allocated, so they burn nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from orchestrator.keystore.errors import (
    AgreementError,
    KeyMismatchError,
    KeysShortError,
    KeyStoreError,
    ReservationError,
)
from orchestrator.keystore.lanes import Lane, Range, Role, lane_owner
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import (
    Position,
    Tag,
    TaggedChannel,
    one_time_tag,
    one_time_tag_fits,
)
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.codec import Message

BlockId = Annotated[str, Meta(min_length=1, max_length=128)]
Context = Annotated[bytes, Meta(max_length=64)]
Positions = Annotated[dict[str, Position], Meta(max_length=len(Lane))]


class Propose(Message, frozen=True):
    """First to second: I hold this block; here is its fingerprint under the second key of this message."""

    block_id: BlockId
    n_bits: Position
    context: Context
    split: tuple[int, int, int]
    tails: Positions
    fingerprint: Tag


class Verdict(Message, frozen=True):
    """Second to first: whether I hold the same block, and where its parts go."""

    block_id: BlockId
    same: bool
    starts: Positions


class Stored(Message, frozen=True):
    """First to second: confirmed here."""

    block_id: BlockId


class Ask(Message, frozen=True):
    """The other end to the owner: my application wants this; ``stock`` bits are free here."""

    lane: str
    n_bits: Position
    context: Context
    stock: Position


class Offer(Message, frozen=True):
    """The owner: these bits, for this context."""

    lane: str
    start: Position
    n_bits: Position
    context: Context


class Accept(Message, frozen=True):
    """The other end: followed, durably."""

    lane: str
    start: Position
    n_bits: Position
    context: Context


class Refuse(Message, frozen=True):
    """Either end: no reservation, and nothing is allocated for it any more."""

    reason: Literal["context", "short", "refused"]
    missing_bits: Position = 0


@dataclass(frozen=True)
class Deposited:
    """A block that both ends hold and may use."""

    block_id: str
    n_bits: int
    starts: dict[Lane, int]


def fingerprint_input(block_id: str, key: SecretBits) -> bytes:
    """What the one-time fingerprint of a block covers."""
    return f"qunetlab-block-v1|{block_id}|{len(key)}|".encode() + key.reveal_bytes()


def check_role(store: KeyStore, peer: str, role: Role) -> None:
    """Both ends must not play the same part."""
    if store.role(peer) != role:
        raise AgreementError(
            f"{store.owner} is the {store.role(peer)} of the pair with {peer}, not the {role}"
        )


def deposit_block(
    store: KeyStore,
    channel: Channel,
    role: Role,
    peer: str,
    block_id: str,
    key: SecretBits,
    context: bytes = b"",
    timeout_s: float = 10.0,
) -> Deposited:
    """Put a block into both stores; both ends call this with their copy of the key.

    Raises KeyMismatchError if the copies differ (both are destroyed).  After any other error the block is
    pending here, and :func:`orchestrator.keystore.reconcile.reconcile_pending` decides about it.
    """
    check_role(store, peer, role)
    store.deposit_pending(peer, block_id, key, context)
    tagged = TaggedChannel(store, channel, peer)
    if role == "first":
        starts = _deposit_first(store, tagged, peer, block_id, key, context, timeout_s)
    else:
        starts = _deposit_second(store, tagged, peer, block_id, key, context, timeout_s)
    return Deposited(block_id, len(key), store.confirm_deposit(peer, block_id, starts))


def _split(store: KeyStore) -> tuple[int, int, int]:
    return store.split.auth_bits, store.split.auth_per_1024, store.split.otp_per_1024


def _deposit_first(
    store: KeyStore,
    tagged: TaggedChannel,
    peer: str,
    block_id: str,
    key: SecretBits,
    context: bytes,
    timeout_s: float,
) -> dict[Lane, int]:
    tails = {str(lane): state.tail for lane, state in store.lane_states(peer).items()}

    def propose(keys: list[SecretBits]) -> Propose:
        fingerprint = one_time_tag(keys[0], fingerprint_input(block_id, key))
        return Propose(block_id, len(key), context, _split(store), tails, fingerprint)

    tagged.send_with_keys(1, propose)
    verdict: Verdict = tagged.receive(Verdict, timeout_s)
    if verdict.block_id != block_id:
        raise AgreementError(f"{peer} answers about another block than {block_id}")
    if not verdict.same:
        store.burn_deposit(peer, block_id)
        raise KeyMismatchError(f"{peer} holds another key as block {block_id}; both were destroyed")
    starts = named_lanes(verdict.starts)
    if any(starts.get(Lane(lane), -1) < tail for lane, tail in tails.items()):
        raise AgreementError(f"{peer} wants block {block_id} where other blocks lie")
    store.confirm_deposit(peer, block_id, starts)
    tagged.send(Stored(block_id))
    return starts


def _deposit_second(
    store: KeyStore,
    tagged: TaggedChannel,
    peer: str,
    block_id: str,
    key: SecretBits,
    context: bytes,
    timeout_s: float,
) -> dict[Lane, int]:
    received, keys = tagged.receive_with_keys(Propose, timeout_s)
    propose: Propose = received
    if len(keys) != 1:
        raise AgreementError(f"{peer} proposes block {block_id} without a key for its fingerprint")
    if propose.block_id != block_id:
        raise AgreementError(f"{peer} deposits another block than {block_id}")
    if propose.split != _split(store):
        raise AgreementError(f"{peer} divides blocks by another rule; create both stores with the same one")
    same = (propose.n_bits, propose.context) == (len(key), context) and one_time_tag_fits(
        keys[0], fingerprint_input(block_id, key), propose.fingerprint
    )
    keys[0].wipe()
    if not same:
        store.burn_deposit(peer, block_id)
        tagged.send(Verdict(block_id, False, {}))
        raise KeyMismatchError(f"{peer} holds another key as block {block_id}; both were destroyed")
    theirs = named_lanes(propose.tails)
    starts = {lane: max(state.tail, theirs.get(lane, 0)) for lane, state in store.lane_states(peer).items()}
    tagged.send(Verdict(block_id, True, {str(lane): start for lane, start in starts.items()}))
    stored: Stored = tagged.receive(Stored, timeout_s)
    if stored.block_id != block_id:
        raise AgreementError(f"{peer} confirms another block than {block_id}")
    return starts


def named_lanes(positions: dict[str, int]) -> dict[Lane, int]:
    """Positions by lane; raises AgreementError for a name that is no lane."""
    try:
        return {Lane(name): position for name, position in positions.items()}
    except ValueError as error:
        raise AgreementError("the peer names a lane that does not exist") from error


def reserve(
    store: KeyStore,
    channel: Channel,
    role: Role,
    peer: str,
    lane: str,
    n_bits: int,
    context_digest: bytes,
    timeout_s: float = 10.0,
) -> Range:
    """Reserve ``n_bits`` of ``lane`` on both ends for one context; both ends call this.

    Raises KeysShortError or ReservationError (the peer asks for something else) with nothing burnt;
    AgreementError, TamperedError or a ChannelError if the exchange broke, and then the range is burnt
    by its owner.
    """
    check_role(store, peer, role)
    tagged = TaggedChannel(store, channel, peer)
    wanted = Ask(str(Lane(lane)), n_bits, context_digest, store.stock(peer)[Lane(lane)])
    if lane_owner(Lane(lane)) == role:
        return _reserve_owner(store, tagged, peer, wanted, timeout_s)
    return _reserve_other(store, tagged, peer, wanted, timeout_s)


def _reserve_owner(store: KeyStore, tagged: TaggedChannel, peer: str, wanted: Ask, timeout_s: float) -> Range:
    asked: Ask | Refuse = tagged.receive_plain(Ask | Refuse, timeout_s)
    if isinstance(asked, Refuse):
        raise _refusal(peer, wanted, asked)
    if (asked.lane, asked.n_bits, asked.context) != (wanted.lane, wanted.n_bits, wanted.context):
        tagged.send_plain(Refuse("context"))
        raise _refusal(peer, wanted, Refuse("context"))
    if asked.stock < wanted.n_bits:
        short = Refuse("short", wanted.n_bits - asked.stock)
        tagged.send_plain(short)
        raise _refusal(peer, wanted, short)
    try:
        chosen = store.propose_reservation(peer, wanted.lane, wanted.n_bits, wanted.context)
    except KeysShortError as error:
        tagged.send_plain(Refuse("short", error.missing_bits))
        raise
    except KeyStoreError:
        tagged.send_plain(Refuse("refused"))
        raise
    try:
        tagged.send(Offer(wanted.lane, chosen.start, chosen.n_bits, wanted.context))
        answer: Accept | Refuse = tagged.receive(Accept, timeout_s, plain=Refuse)
        if isinstance(answer, Refuse):
            raise _refusal(peer, wanted, answer)
        if answer != Accept(wanted.lane, chosen.start, chosen.n_bits, wanted.context):
            raise AgreementError(f"{peer} accepts another range than the one offered")
        store.commit_reservation(peer, wanted.lane, chosen, wanted.context)
    except (KeyStoreError, ChannelError):
        store.burn_reservation(peer, wanted.lane, chosen, wanted.context)
        raise
    return chosen


def _reserve_other(store: KeyStore, tagged: TaggedChannel, peer: str, wanted: Ask, timeout_s: float) -> Range:
    try:
        store.check_reservation(peer, wanted.lane, wanted.n_bits, wanted.context)
    except KeyStoreError:
        tagged.send_plain(Refuse("refused"))
        raise
    tagged.send_plain(wanted)
    offer: Offer | Refuse = tagged.receive(Offer, timeout_s, plain=Refuse)
    if isinstance(offer, Refuse):
        raise _refusal(peer, wanted, offer)
    if (offer.lane, offer.n_bits, offer.context) != (wanted.lane, wanted.n_bits, wanted.context):
        tagged.send_plain(Refuse("context"))
        raise _refusal(peer, wanted, Refuse("context"))
    chosen = Range(offer.start, offer.n_bits)
    try:
        store.commit_reservation(peer, wanted.lane, chosen, wanted.context)
    except KeyStoreError:
        tagged.send_plain(Refuse("refused"))
        raise
    try:
        tagged.send(Accept(offer.lane, offer.start, offer.n_bits, offer.context))
    except (KeyStoreError, ChannelError):
        store.burn_reservation(peer, wanted.lane, chosen, wanted.context)
        raise
    return chosen


def _refusal(peer: str, wanted: Ask, refuse: Refuse) -> KeyStoreError:
    if refuse.reason == "short":
        return KeysShortError(peer, wanted.lane, max(refuse.missing_bits, 1))
    if refuse.reason == "context":
        return ReservationError(
            f"{peer} asks for another purpose, round, participant set or size; nothing was allocated"
        )
    return ReservationError(f"{peer} refuses bits of lane {wanted.lane} for this context; see its log")
