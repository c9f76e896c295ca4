"""What two key stores settle when they meet again: heads, pending blocks, and who was restored.

Both ends send a fresh 128-bit nonce and their heads in the clear, then their state under a one-time tag
that covers both nonces, so that recorded answers deceive nobody::

    both:  Hello(nonce, heads) ->
    both:  State(nonces, heads, tails, pending blocks with fingerprints, confirmed blocks) ->  [tagged]

From the two states each end draws the same conclusions, and applies them when it holds the other's:

* heads: both adopt the larger (I6), and burn what lies below;
* a block pending on both ends is confirmed if the fingerprints fit, else burnt on both;
* pending here, confirmed there: confirmed, at the place it has there;
* pending here, unknown or burnt there: burnt;
* confirmed here, unknown there (the peer was restored from an old copy): burnt.

An end that receives no state applies nothing, and the next meeting comes to the same result.

**Restored stores.**  The owner of a lane is never behind its peer in it, because it is durable first.  An end
that is behind in a lane of its own was therefore restored from an old copy.  If that is its outgoing
authentication lane, its next tag would reuse spent bits: it waits for the peer's state and adopts its
heads before it tags anything.  If both ends are in that position nobody can tell what was used.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from orchestrator.keystore.agreement import (
    BlockId,
    Context,
    Positions,
    check_role,
    fingerprint_input,
    named_lanes,
)
from orchestrator.keystore.deposits import PendingDeposit
from orchestrator.keystore.errors import AgreementError, RollbackError
from orchestrator.keystore.lanes import Role, incoming_auth, lane_owner, outgoing_auth
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import (
    Position,
    Tag,
    TaggedChannel,
    one_time_tag,
    one_time_tag_fits,
)
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import Message

Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Hello(Message, frozen=True):
    """Untagged greeting; the heads in it only decide who speaks first."""

    nonce: Nonce
    heads: Positions


class PendingBlock(Message, frozen=True):
    """A pending block and its fingerprint under a further key of this message, in their order."""

    block_id: BlockId
    n_bits: Position
    context: Context
    fingerprint: Tag


class ConfirmedBlock(Message, frozen=True):
    """A confirmed block of which free bits are left, and where its parts lie."""

    block_id: BlockId
    starts: Positions


class State(Message, frozen=True):
    """Everything the two ends compare; ``greeting_heads`` are those of the sender's Hello."""

    own_nonce: Nonce
    peer_nonce: Nonce
    greeting_heads: Positions
    heads: Positions
    tails: Positions
    pending: list[PendingBlock]
    confirmed: list[ConfirmedBlock]


@dataclass(frozen=True)
class Reconciled:
    """What a meeting settled; ``rolled_back`` names an end that was restored from an old copy."""

    confirmed: tuple[str, ...]
    burnt: tuple[str, ...]
    burnt_bits: int
    rolled_back: Literal["self", "peer"] | None


def reconcile_pending(
    store: KeyStore,
    channel: Channel,
    role: Role,
    peer: str,
    timeout_s: float = 10.0,
    random_bytes: RandomBytes = random_bytes,
) -> Reconciled:
    """Compare the stores of a pair at every (re)connection, before anything else; both ends call this.

    No deposit with this peer may run meanwhile.
    """
    check_role(store, peer, role)
    tagged = TaggedChannel(store, channel, peer)
    heads = _heads(store, peer)
    nonce = random_bytes(16)
    tagged.send_plain(Hello(nonce, heads))
    hello: Hello = tagged.receive_plain(Hello, timeout_s)
    own_lane, peer_lane = str(outgoing_auth(role)), str(incoming_auth(role))
    behind = hello.heads.get(own_lane, 0) > heads[own_lane]
    peer_behind = heads[peer_lane] > hello.heads.get(peer_lane, 0)
    if behind and peer_behind:
        raise RollbackError(
            f"the stores of {store.owner} and {peer} both look restored from old copies; what was used is"
            " unknown: seed the pair again with fresh stores"
        )
    meeting = _Meeting(store, tagged, peer, nonce, heads, hello)
    if behind:
        theirs, keys = meeting.receive(timeout_s)
        burnt_bits = store.raise_heads(peer, named_lanes(theirs.heads), named_lanes(theirs.tails))
        ours = meeting.send()
    else:
        ours = meeting.send()
        theirs, keys = meeting.receive(timeout_s)
        burnt_bits = store.raise_heads(peer, named_lanes(theirs.heads), named_lanes(theirs.tails))
    confirmed, burnt = _settle(store, peer, ours, theirs, keys)
    return Reconciled(confirmed, burnt, burnt_bits, _restored(role, heads, theirs.greeting_heads))


def _heads(store: KeyStore, peer: str) -> dict[str, int]:
    return {str(lane): state.head for lane, state in store.lane_states(peer).items()}


class _Meeting:
    """Sending and receiving the states of one meeting."""

    def __init__(
        self,
        store: KeyStore,
        tagged: TaggedChannel,
        peer: str,
        nonce: bytes,
        heads: dict[str, int],
        hello: Hello,
    ) -> None:
        self._store = store
        self._tagged = tagged
        self._peer = peer
        self._nonce = nonce
        self._greeting_heads = heads
        self._hello = hello

    def send(self) -> State:
        """Tag and send the own state."""
        store, peer = self._store, self._peer
        lanes = store.lane_states(peer)
        blocks = store.pending_deposits(peer)
        confirmed = [
            ConfirmedBlock(block.block_id, {str(lane): start for lane, start in block.starts.items()})
            for block in store.deposits.confirmed(peer)
        ]
        sent: list[State] = []

        def build(keys: list[SecretBits]) -> State:
            pending = [self._fingerprinted(block, key) for block, key in zip(blocks, keys, strict=True)]
            heads = {str(lane): entry.head for lane, entry in lanes.items()}
            tails = {str(lane): entry.tail for lane, entry in lanes.items()}
            nonces = self._nonce, self._hello.nonce
            sent.append(State(*nonces, self._greeting_heads, heads, tails, pending, confirmed))
            return sent[0]

        self._tagged.send_with_keys(len(blocks), build)
        return sent[0]

    def _fingerprinted(self, block: PendingDeposit, tag_key: SecretBits) -> PendingBlock:
        key = self._store.deposits.pending_key(self._peer, block.block_id)
        fingerprint = one_time_tag(tag_key, fingerprint_input(block.block_id, key))
        key.wipe()
        return PendingBlock(block.block_id, block.n_bits, block.context, fingerprint)

    def receive(self, timeout_s: float) -> tuple[State, dict[str, SecretBits]]:
        """The peer's state, and the fingerprint keys by block id."""
        received, keys = self._tagged.receive_with_keys(State, timeout_s)
        state: State = received
        if not hmac.compare_digest(state.own_nonce + state.peer_nonce, self._hello.nonce + self._nonce):
            raise AgreementError(f"the state of {self._peer} answers another greeting than ours")
        if state.greeting_heads != self._hello.heads or len(keys) != len(state.pending):
            raise AgreementError(f"the state of {self._peer} does not fit its greeting")
        return state, {block.block_id: key for block, key in zip(state.pending, keys, strict=True)}


def _restored(role: Role, ours: dict[str, int], theirs: dict[str, int]) -> Literal["self", "peer"] | None:
    """Who is behind in a lane of its own."""
    for lane, head in named_lanes(theirs).items():
        if lane_owner(lane) == role and head > ours[lane]:
            return "self"
        if lane_owner(lane) != role and head < ours[lane]:
            return "peer"
    return None


def _settle(
    store: KeyStore, peer: str, ours: State, theirs: State, keys: dict[str, SecretBits]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Decide about every block that one end holds, in the same order on both ends."""
    their_pending = {block.block_id: block for block in theirs.pending}
    their_confirmed = {block.block_id: block for block in theirs.confirmed}
    tails = {
        lane: max(ours.tails[lane], named_lanes(theirs.tails).get(lane, 0))
        for lane in named_lanes(ours.tails)
    }
    confirmed: list[str] = []
    burnt: list[str] = []
    for block in sorted(ours.pending, key=lambda entry: entry.block_id):
        mine = block.block_id
        twin, placed = their_pending.get(mine), their_confirmed.get(mine)
        if placed is not None:
            store.confirm_deposit(peer, mine, named_lanes(placed.starts))
            confirmed.append(mine)
        elif twin is not None and _same_block(store, peer, block, twin, keys[mine]):
            starts = store.confirm_deposit(peer, mine, tails)
            for part in store.deposits.parts(block.n_bits):
                tails[part.lane] = starts[part.lane] + part.n_bits
            confirmed.append(mine)
        else:
            store.burn_deposit(peer, mine)
            burnt.append(mine)
    for held in ours.confirmed:
        placed = their_confirmed.get(held.block_id)
        if held.block_id in their_pending or (placed is not None and placed.starts == held.starts):
            continue
        if any(block.block_id == held.block_id for block in store.deposits.confirmed(peer)):
            store.burn_deposit(peer, held.block_id)
            burnt.append(held.block_id)
    return tuple(confirmed), tuple(burnt)


def _same_block(
    store: KeyStore, peer: str, mine: PendingBlock, twin: PendingBlock, tag_key: SecretBits
) -> bool:
    key = store.deposits.pending_key(peer, mine.block_id)
    same = (mine.n_bits, mine.context) == (twin.n_bits, twin.context) and one_time_tag_fits(
        tag_key, fingerprint_input(mine.block_id, key), twin.fingerprint
    )
    tag_key.wipe()
    key.wipe()
    return same
