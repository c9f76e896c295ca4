"""Deposits and reservations over a channel: the blocking conversations of a node.

The agreements themselves are the pure steps of :mod:`orchestrator.keystore.depositing` and
:mod:`orchestrator.keystore.reserving`; here they meet a store and a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.keystore import depositing, reserving
from orchestrator.keystore.edge import Edge
from orchestrator.keystore.errors import AgreementError, DepositError
from orchestrator.keystore.lanes import Lane, PairEnd, Range, lane_owner
from orchestrator.keystore.steps import converse
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel


@dataclass(frozen=True)
class Deposited:
    """A block that both ends hold and may use."""

    block_id: str
    n_bits: int
    starts: dict[Lane, int]


def check_pair_end(store: KeyStore, peer: str, pair_end: PairEnd) -> None:
    """Raise AgreementError unless this store is ``pair_end`` of the pair with ``peer``."""
    if store.pair_end(peer) != pair_end:
        raise AgreementError(
            f"{store.owner} is the {store.pair_end(peer)} of the pair with {peer}, not the {pair_end}"
        )


def deposit_block(
    store: KeyStore,
    channel: Channel,
    pair_end: PairEnd,
    peer: str,
    block_id: str,
    key: SecretBits,
    context: bytes = b"",
    timeout_s: float = 10.0,
) -> Deposited:
    """Put a block into both stores; both ends call this with their copy of the key.

    Raises KeyMismatchError if the copies differ (both are destroyed).  After any other error nothing is burnt: the
    block is pending here (or confirmed already, if only the last message was lost), and
    :func:`orchestrator.keystore.reconcile.reconcile_pending` settles it.
    """
    check_pair_end(store, peer, pair_end)
    _hold(store, peer, block_id, key, context)
    tails = {lane: state.tail for lane, state in store.lane_states(peer).items()}
    split = store.split.auth_bits, store.split.auth_per_1024, store.split.otp_per_1024
    placed = store.deposits.starts(peer, block_id) or None
    block = depositing.Block(block_id, len(key), context, split, tails, placed)
    step = depositing.first_step if pair_end == "first" else depositing.second_step
    edge = Edge(store, channel, peer, timeout_s)
    converse(step, depositing.Depositing(peer, block), edge.perform)
    return Deposited(block_id, len(key), store.deposits.starts(peer, block_id))


def _hold(store: KeyStore, peer: str, block_id: str, key: SecretBits, context: bytes) -> None:
    """Hold the block as pending; a retry finds it held, and must bring the same key."""
    state = store.deposits.state(peer, block_id)
    if state is None:
        store.deposit_pending(peer, block_id, key, context)
        return
    if state == "confirmed":
        return
    held = store.deposits.pending_key(peer, block_id)
    same = held.same_as(key)
    held.wipe()
    if not same:
        raise DepositError(f"block {block_id} with {peer} waits here with another key; ids are used once")


def reserve(
    store: KeyStore,
    channel: Channel,
    pair_end: PairEnd,
    peer: str,
    lane: str,
    n_bits: int,
    context_digest: bytes,
    timeout_s: float = 10.0,
    *,
    again: bool = False,
) -> Range:
    """Reserve ``n_bits`` of ``lane`` on both ends for one context; both ends call this.

    Asking again gives the same range.  Nothing is burnt, whatever is raised: LaneShortError or ReservationError
    (the peer asks for something else), AgreementError, TamperedError or a ChannelError if the exchange broke.
    ``again``: the part of this end is done, and only the peer still has to hear of it; nothing is reserved, and a
    range that was released is named once more for its context.
    """
    check_pair_end(store, peer, pair_end)
    stock = store.stock(peer)[Lane(lane)]
    if store.held_reservation(peer, lane, n_bits, context_digest) is not None:
        stock += n_bits
    wish = reserving.Wish(str(Lane(lane)), n_bits, context_digest, stock, again)
    step = reserving.owner_step if lane_owner(Lane(lane)) == pair_end else reserving.other_step
    edge = Edge(store, channel, peer, timeout_s)
    chosen: Range = converse(step, reserving.Reserving(peer, wish), edge.perform)
    return chosen
