"""A meeting of two stores over a channel; what is settled and how: :mod:`orchestrator.keystore.meeting`."""

from __future__ import annotations

from orchestrator.keystore import meeting
from orchestrator.keystore.agreement import check_pair_end
from orchestrator.keystore.edge import Edge
from orchestrator.keystore.greeting import MOST_BLOCKS, ConfirmedBlock, Held, Own
from orchestrator.keystore.lanes import PairEnd
from orchestrator.keystore.letters import NONCE_BYTES
from orchestrator.keystore.meeting import Reconciled
from orchestrator.keystore.steps import converse
from orchestrator.keystore.store import KeyStore
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.wire.channel import Channel


def reconcile_pending(
    store: KeyStore,
    channel: Channel,
    pair_end: PairEnd,
    peer: str,
    timeout_s: float = 10.0,
    random_bytes: RandomBytes = random_bytes,
) -> Reconciled:
    """Compare the stores of a pair at every (re)connection, before anything else; both ends call this.

    No deposit with this peer may run meanwhile.  Raises TamperedError or AgreementError for greetings and states
    that are not the peer's of this meeting, RollbackError where both stores were restored, a ChannelError.
    """
    check_pair_end(store, peer, pair_end)
    own = standing(store, pair_end, peer, random_bytes(NONCE_BYTES))
    edge = Edge(store, channel, peer, timeout_s)
    settled: Reconciled = converse(meeting.step, meeting.Meeting(own), edge.perform)
    store.letters(peer).restored = None
    return settled


def standing(store: KeyStore, pair_end: PairEnd, peer: str, fresh: bytes) -> Own:
    """Where this end stands at the beginning of a meeting; ``fresh`` is drawn for it."""
    generation = store.generation(peer)
    letters = store.letters(peer)
    pending = tuple(
        Held(block.block_id, block.n_bits, block.context, store.deposits.parts(peer, block.block_id))
        for block in store.pending_deposits(peer)[:MOST_BLOCKS]
    )
    confirmed = tuple(
        ConfirmedBlock(block.block_id, {str(lane): start for lane, start in block.starts.items()})
        for block in store.deposits.confirmed(peer)
    )
    return Own(
        name=store.owner,
        peer=peer,
        pair_end=pair_end,
        nonce=letters.nonce,
        fresh=fresh,
        keyed=store.mac_keys.get(peer, generation) is not None,
        proved=store.mac_keys.proved(peer, generation),
        settled_with=letters.settled_with,
        heads={str(lane): entry.head for lane, entry in store.lane_states(peer).items()},
        pending=pending,
        confirmed=confirmed,
        suspected=letters.restored,
    )
