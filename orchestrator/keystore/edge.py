"""Where the agreements of a pair touch the world: the store, the letters and the channel of one peer.

An end that waits for an answer repeats its last message every second: the bytes are the same, so that costs no key,
and a message that was lost arrives after all.  What has been heard in the same conversation before is passed over.
"""

from __future__ import annotations

import hashlib

from orchestrator import runtime
from orchestrator.keystore.depositing import Block, Confirm, Destroy, Propose, SayProposal
from orchestrator.keystore.errors import RefusedError, ReservationError
from orchestrator.keystore.greeting import Gift, Own, PendingBlock, State
from orchestrator.keystore.lanes import Range
from orchestrator.keystore.letters import Session
from orchestrator.keystore.meeting import Enter, GiveGift, MarkSettled, Renew, SayState, Suspect
from orchestrator.keystore.reserving import Allocate, Check, Follow, Note, Wish
from orchestrator.keystore.steps import (
    Effect,
    Event,
    Expect,
    Heard,
    Say,
    SaySigned,
    SayTagged,
    Told,
)
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import TaggedChannel
from orchestrator.one_time_tags import one_time_tag, one_time_tag_fits
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelTimeoutError
from orchestrator.wire.codec import decode

REPEAT_S = 1.0


class Edge:
    """Carries out the effects of one conversation; messages are waited for at most ``timeout_s`` each."""

    def __init__(self, store: KeyStore, channel: Channel, peer: str, timeout_s: float) -> None:
        self._store = store
        self._peer = peer
        self._timeout_s = timeout_s
        self._letters = store.letters(peer)
        self._tagged = TaggedChannel(store, _Once(channel), peer)
        self._last_words: list[Effect] = []
        self._listened = True

    def perform(self, effect: Effect) -> Event:
        """Carry out ``effect``; raises KeyStoreError or ChannelError."""
        if isinstance(effect, Say | SaySigned | SayTagged | SayProposal | SayState | GiveGift):
            if self._listened:
                self._last_words.clear()
                self._listened = False
            self._last_words.append(effect)
            return Told(self._say(effect))
        match effect:
            case Expect():
                self._listened = True
                return self._hear(effect)
            case Check() | Allocate() | Follow() | Note():
                return Told(self._reserve(effect))
            case Confirm(block_id, starts):
                self._store.confirm_deposit(self._peer, block_id, starts)
            case Destroy(block_id):
                self._store.burn_deposit(self._peer, block_id)
            case Enter(peer_nonce):
                self._enter(peer_nonce)
            case Renew(heads, tails):
                return Told(self._store.renew(self._peer, heads, tails))
            case Suspect(who):
                self._letters.restored = who
            case MarkSettled(peer_nonce):
                self._letters.settled_with = peer_nonce
            case _:
                raise TypeError(f"no way to carry out {type(effect).__name__}")
        return Told()

    def _say(self, effect: Effect) -> State | None:
        match effect:
            case Say(message):
                self._tagged.send_plain(message)
            case SaySigned(message, covers):
                self._tagged.send_signed(message, covers)
            case SayTagged(place, message):
                self._tagged.send(message, place)
            case SayProposal(block):
                self._propose(block)
            case GiveGift():
                self._give()
            case SayState(own, peer_nonce):
                return self._say_state(own, peer_nonce)
        return None

    def _hear(self, wanted: Expect) -> Heard:
        keep = self._keep_gift if Gift in wanted.tagged else None
        left_s = self._timeout_s
        while True:
            try:
                message, keys = self._tagged.expect(wanted, min(left_s, REPEAT_S), keep)
                break
            except ChannelTimeoutError:
                left_s -= REPEAT_S
                if left_s <= 0:
                    raise
                for words in self._last_words:
                    self._say(words)
        fits: frozenset[str] = frozenset()
        if isinstance(message, Propose) and len(keys) == 1:
            fits = self._fitting([(message.block_id, message.fingerprint)], keys)
        elif isinstance(message, State) and len(keys) == len(message.pending):
            fits = self._fitting([(block.block_id, block.fingerprint) for block in message.pending], keys)
        for key in keys:
            key.wipe()
        return Heard(message, fits)

    def _fitting(self, named: list[tuple[str, bytes]], keys: list[SecretBits]) -> frozenset[str]:
        """The blocks that wait here and whose key has this fingerprint."""
        waiting = {block.block_id for block in self._store.pending_deposits(self._peer)}
        fits = set()
        for (block_id, fingerprint), tag_key in zip(named, keys, strict=True):
            if block_id in waiting:
                key = self._store.deposits.pending_key(self._peer, block_id)
                if one_time_tag_fits(tag_key, fingerprint_input(block_id, key), fingerprint):
                    fits.add(block_id)
                key.wipe()
        return frozenset(fits)

    def _reserve(self, effect: Check | Allocate | Follow | Note) -> Range | None:
        store, peer, wish = self._store, self._peer, effect.wish
        held = self._held_again(wish)
        match effect:
            case Check():
                return held or store.check_reservation(peer, wish.lane, wish.n_bits, wish.context)
            case Allocate():
                return held or store.propose_reservation(peer, wish.lane, wish.n_bits, wish.context)
            case Follow(chosen=chosen) if held is not None and held != chosen:
                raise RefusedError(f"{peer} names other bits for a context whose bits were agreed on")
            case Follow(chosen=chosen) | Note(chosen=chosen):
                if held is None:
                    store.commit_reservation(peer, wish.lane, chosen, wish.context)
                return chosen

    def _held_again(self, wish: Wish) -> Range | None:
        """The range of a context whose part here is done, released or not; without one there is nothing to answer."""
        if not wish.again:
            return None
        held = self._store.held_reservation(self._peer, wish.lane, wish.n_bits, wish.context)
        if held is None:
            raise ReservationError(f"what was agreed on with {self._peer} for this context was given up")
        return held

    def _propose(self, block: Block) -> None:
        tails = {str(lane): tail for lane, tail in block.tails.items()}

        def build(keys: list[SecretBits]) -> Propose:
            key = self._store.deposits.pending_key(self._peer, block.block_id)
            fingerprint = one_time_tag(keys[0], fingerprint_input(block.block_id, key))
            key.wipe()
            return Propose(block.block_id, block.n_bits, block.context, block.split, tails, fingerprint)

        self._tagged.send_with_keys(1, build, block.place("propose"), block.context)

    def _enter(self, peer_nonce: bytes) -> None:
        store, peer = self._store, self._peer
        generation = store.generation(peer)
        macs = store.mac_keys.get(peer, generation)
        if macs is None:
            raise RefusedError(f"there are no reusable keys for greetings with {peer}")
        store.mac_keys.note_proved(peer, generation)
        own = self._letters.nonce
        nonces = own + peer_nonce if store.pair_end(peer) == "first" else peer_nonce + own
        if self._letters.enter(peer_nonce, Session(nonces, generation, macs)):
            store.forget_skipped(peer)

    def _say_state(self, own: Own, peer_nonce: bytes) -> State:
        store, peer = self._store, self._peer
        lanes = store.lane_states(peer)

        def build(keys: list[SecretBits]) -> State:
            pending = []
            for block, tag_key in zip(own.pending, keys, strict=True):
                key = store.deposits.pending_key(peer, block.block_id)
                fingerprint = one_time_tag(tag_key, fingerprint_input(block.block_id, key))
                key.wipe()
                pending.append(PendingBlock(block.block_id, block.n_bits, block.context, fingerprint))
            heads = {str(lane): entry.head for lane, entry in lanes.items()}
            tails = {str(lane): entry.tail for lane, entry in lanes.items()}
            return State(own.nonce, peer_nonce, heads, tails, pending, list(own.confirmed))

        content = own.nonce + peer_nonce + own.digest()
        body = self._tagged.send_with_keys(len(own.pending), build, "state", content)
        sent: State = decode(body, State)
        return sent

    def _give(self) -> None:
        """The further keys of Gift become the reusable ones, durably before the message leaves."""

        def build(keys: list[SecretBits]) -> Gift:
            self._keep_gift(keys)
            return Gift()

        self._tagged.send_with_keys(2, build, "gift")

    def _keep_gift(self, keys: list[SecretBits]) -> None:
        if len(keys) != 2:
            raise RefusedError(f"{self._peer} gives {len(keys)} reusable keys instead of 2")
        generation = self._store.generation(self._peer)
        self._store.install_mac_keys(self._peer, generation, keys[0], keys[1])


class _Once:
    """A channel that passes over what it has brought before."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._brought: set[bytes] = set()

    def send(self, payload: bytes) -> None:
        self._channel.send(payload)

    def recv(self, timeout_s: float) -> bytes:
        deadline = runtime.now() + timeout_s
        while True:
            payload = self._channel.recv(max(0.0, deadline - runtime.now()))
            digest = hashlib.sha256(payload).digest()
            if digest not in self._brought:
                self._brought.add(digest)
                return payload


def fingerprint_input(block_id: str, key: SecretBits) -> bytes:
    """What the one-time fingerprint of a block covers."""
    return f"qunetlab-block-v1|{block_id}|{len(key)}|".encode() + key.reveal_bytes()
