"""Two stores agree on a block, or neither keeps it; interruptions are settled when they meet again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from orchestrator.keystore.agreement import Deposited, deposit_block, reserve
from orchestrator.keystore.depositing import Propose, Verdict
from orchestrator.keystore.errors import (
    AgreementError,
    KeyMismatchError,
    KeyStoreError,
    RollbackError,
    TamperedError,
)
from orchestrator.keystore.lanes import Lane, PairEnd, Range, SplitRule
from orchestrator.keystore.meeting import Reconciled
from orchestrator.keystore.reconcile import reconcile_pending
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import Tagged, TaggedChannel
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelBrokenError, ChannelError
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.memory_channel import memory_channel_pair

T = TypeVar("T")
KEK = Kek(b"k" * 32)
KEY = np.random.default_rng(3).bytes(20_000)
MASK_BITS = 160_000 - 2 * 5000
CONTEXT = b"c" * 32
TIMEOUT_S = 10.0

Outcome = T | Exception


def secret(data: bytes) -> SecretBits:
    return SecretBits.from_bytes(data)


class Pair:
    """Alice (first) and bob (second), and a line between them that can be cut or tampered with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(1)
        ab, ba = rng.bytes(8192), rng.bytes(8192)
        self.alice = KeyStore.create(folder / "alice.db", "alice", KEK)
        self.bob = KeyStore.create(folder / "bob.db", "bob", KEK)
        self.alice.install_initial_secret("bob", secret(ab), secret(ba), pair_end="first")
        self.bob.install_initial_secret("alice", secret(ab), secret(ba), pair_end="second")

    def both(
        self,
        talk: Callable[[KeyStore, Channel, PairEnd, str], T],
        wrap: Callable[[Channel, PairEnd], Channel] = lambda channel, _: channel,
    ) -> tuple[Outcome[T], Outcome[T]]:
        """What ``talk`` returned or raised at alice and at bob."""
        one, two = memory_channel_pair()
        ends = {"first": one, "second": two}

        def run(store: KeyStore, channel: Channel, pair_end: PairEnd, peer: str) -> Outcome[T]:
            try:
                return talk(store, wrap(channel, pair_end), pair_end, peer)
            except Exception as error:  # noqa: BLE001 - the outcome of the test
                return error
            finally:
                ends[pair_end].close()

        with ThreadPoolExecutor(2) as pool:
            alice = pool.submit(run, self.alice, one, "first", "bob")
            bob = pool.submit(run, self.bob, two, "second", "alice")
            return alice.result(), bob.result()

    def deposit(
        self, name: str, wrap: Callable[[Channel, PairEnd], Channel] = lambda c, _: c, bob_key: bytes = KEY
    ) -> tuple[Outcome[Deposited], Outcome[Deposited]]:
        return self.both(
            lambda store, channel, pair_end, peer: deposit_block(
                store,
                channel,
                pair_end,
                peer,
                name,
                secret(KEY if pair_end == "first" else bob_key),
                b"ctx",
                TIMEOUT_S,
            ),
            wrap,
        )

    def reconcile(self) -> tuple[Outcome[Reconciled], Outcome[Reconciled]]:
        return self.both(
            lambda store, channel, pair_end, peer: reconcile_pending(
                store, channel, pair_end, peer, TIMEOUT_S
            )
        )

    def reserve(self, n_bits: int, digest: bytes) -> tuple[Outcome[Range], Outcome[Range]]:
        return self.both(
            lambda store, channel, pair_end, peer: reserve(
                store, channel, pair_end, peer, "mask", n_bits, digest, TIMEOUT_S
            )
        )

    def drain(self, n_bits: int, digest: bytes) -> tuple[SecretBits, SecretBits]:
        """Reserve and release at both ends."""
        alice, bob = self.reserve(n_bits, digest)
        assert isinstance(alice, Range)
        assert alice == bob
        return self.alice.release("bob", "mask", alice, digest), self.bob.release(
            "alice", "mask", alice, digest
        )

    def same_lanes(self) -> None:
        """Both ends agree on everything but who spent the last tags."""
        assert self.alice.stock("bob") == self.bob.stock("alice")
        assert self.alice.lane_states("bob") == self.bob.lane_states("alice")
        assert self.alice.pending_deposits() == self.bob.pending_deposits() == []
        assert self.alice.ledger("bob").balanced
        assert self.bob.ledger("alice").balanced

    def close(self) -> None:
        self.alice.close()
        self.bob.close()


class Cut:
    """The line breaks when this end sends message number ``last``."""

    def __init__(self, channel: Channel, last: int) -> None:
        self._channel, self._left = channel, last

    def send(self, payload: bytes) -> None:
        self._left -= 1
        if self._left < 0:
            raise ChannelBrokenError("cut")
        self._channel.send(payload)

    def recv(self, timeout_s: float) -> bytes:
        if self._left < 0:
            raise ChannelBrokenError("cut")
        return self._channel.recv(timeout_s)


class Rewrite:
    """Passes every message through ``change(number, payload)``."""

    def __init__(self, channel: Channel, change: Callable[[int, bytes], bytes]) -> None:
        self._channel, self._change, self._sent = channel, change, 0

    def send(self, payload: bytes) -> None:
        self._sent += 1
        self._channel.send(self._change(self._sent - 1, payload))

    def recv(self, timeout_s: float) -> bytes:
        return self._channel.recv(timeout_s)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def test_a_block_lands_in_both_stores(pair: Pair) -> None:
    alice, bob = pair.deposit("b1")
    assert isinstance(alice, Deposited)
    assert alice == bob
    assert pair.alice.stock("bob")[Lane.MASK] == MASK_BITS
    pair.same_lanes()
    one, two = pair.drain(1001, CONTEXT)
    assert one.same_as(two)
    assert one.same_as(secret(KEY).take(10_000, 1001))
    assert pair.alice.ledger("bob") == pair.bob.ledger("alice")


def test_r13_different_keys_under_one_id_destroy_both(pair: Pair) -> None:
    other = KEY[:-1] + bytes([KEY[-1] ^ 1])
    for outcome in pair.deposit("b1", bob_key=other):
        assert isinstance(outcome, KeyMismatchError)
    for store, peer in ((pair.alice, "bob"), (pair.bob, "alice")):
        assert store.stock(peer)[Lane.MASK] == 0
        assert store.ledger(peer).burnt == 160_000
        assert store.deposits.state(peer, "b1") == "burnt"
    pair.same_lanes()


@pytest.mark.parametrize("bob_key", [KEY[:-1], KEY + b"\0"])
def test_r13_different_lengths_destroy_both(pair: Pair, bob_key: bytes) -> None:
    for outcome in pair.deposit("b1", bob_key=bob_key):
        assert isinstance(outcome, KeyMismatchError)
    assert pair.alice.stock("bob")[Lane.MASK] == pair.bob.stock("alice")[Lane.MASK] == 0


@pytest.mark.parametrize(("end", "last"), [("first", 0), ("second", 0), ("first", 1)])
def test_a_lost_message_is_settled_on_reconnection(pair: Pair, end: PairEnd, last: int) -> None:
    """Whichever message is the last to arrive, both ends end up with the block or without it."""
    pair.deposit("b1", lambda channel, pair_end: Cut(channel, last) if pair_end == end else channel)
    states = {pair.alice.deposits.state("bob", "b1"), pair.bob.deposits.state("alice", "b1")}
    assert states == {
        ("first", 0): {"pending"},
        ("second", 0): {"pending"},
        ("first", 1): {"confirmed", "pending"},
    }.get((end, last))
    for outcome in pair.reconcile():
        assert isinstance(outcome, Reconciled)
    pair.same_lanes()
    assert pair.alice.deposits.state("bob", "b1") == pair.bob.deposits.state("alice", "b1") == "confirmed"
    one, two = pair.drain(100, CONTEXT)
    assert one.same_as(two)


def test_a_block_that_one_end_never_had_is_burnt(pair: Pair) -> None:
    pair.alice.deposit_pending("bob", "b1", secret(KEY), b"")
    alice, bob = pair.reconcile()
    assert isinstance(alice, Reconciled)
    assert isinstance(bob, Reconciled)
    assert (alice.burnt, bob.burnt) == (("b1",), ())
    pair.same_lanes()
    assert pair.alice.ledger("bob").burnt == 160_000


def test_several_pending_blocks_are_settled_together(pair: Pair) -> None:
    for name in ("b3", "b1", "b2"):
        pair.alice.deposit_pending("bob", name, secret(KEY), b"")
        pair.bob.deposit_pending("alice", name, secret(KEY if name != "b2" else KEY[::-1]), b"")
    pair.alice.deposit_pending("bob", "b4", secret(KEY), b"")
    alice, bob = pair.reconcile()
    assert isinstance(alice, Reconciled)
    assert isinstance(bob, Reconciled)
    assert alice.confirmed == bob.confirmed == ("b1", "b3")
    assert alice.burnt == ("b2", "b4")
    pair.same_lanes()
    one, two = pair.drain(2 * MASK_BITS, CONTEXT)
    assert one.same_as(two)


def test_a_meeting_that_breaks_off_is_repeated_with_the_same_result(pair: Pair) -> None:
    for name in ("b1", "b2"):
        pair.alice.deposit_pending("bob", name, secret(KEY), b"")
    pair.bob.deposit_pending("alice", "b1", secret(KEY), b"")
    broken = pair.both(
        lambda store, channel, pair_end, peer: reconcile_pending(store, channel, pair_end, peer, TIMEOUT_S),
        lambda channel, pair_end: Cut(channel, 1) if pair_end == "first" else channel,
    )
    assert any(isinstance(outcome, Exception) for outcome in broken)
    for outcome in pair.reconcile():
        assert isinstance(outcome, Reconciled)
    pair.same_lanes()
    assert pair.bob.deposits.state("alice", "b1") == "confirmed"
    assert pair.alice.deposits.state("bob", "b2") == "burnt"


def flips(payload: bytes) -> Iterator[bytes]:
    """Every field of a tagged message changed, and the frame cut short."""
    message = decode(payload, Tagged)
    for at in range(0, len(message.body), 7):
        body = bytearray(message.body)
        body[at] ^= 1
        yield encode(Tagged(bytes(body), message.offset, message.n_keys, message.tag))
    yield encode(Tagged(message.body, message.offset + 256, message.n_keys, message.tag))
    yield encode(Tagged(message.body, message.offset, message.n_keys + 1, message.tag))
    yield encode(Tagged(message.body, message.offset, message.n_keys, bytes(16)))
    yield payload[:-1]
    yield b""


@pytest.mark.parametrize("end", ["first", "second"])
def test_r6_tampering_aborts_and_nothing_is_stored(pair: Pair, end: PairEnd) -> None:
    """Each variant of each message: an abort, nothing usable, and a later meeting brings both together."""
    captured: list[bytes] = []

    def capture(number: int, payload: bytes) -> bytes:
        captured.append(payload)
        return payload

    pair.deposit("probe", lambda channel, pair_end: Rewrite(channel, capture) if pair_end == end else channel)
    variants = [(number, index) for number, p in enumerate(captured) for index, _ in enumerate(flips(p))]
    free = pair.alice.stock("bob")[Lane.MASK]
    for number, index in variants[:: max(1, len(variants) // 12)]:
        name = f"b{number}-{index}"

        def change(sent: int, payload: bytes, number: int = number, index: int = index) -> bytes:
            choices = list(flips(payload)) if sent == number else []
            return choices[min(index, len(choices) - 1)] if choices else payload

        outcomes = pair.deposit(
            name,
            lambda channel, pair_end, change=change: Rewrite(channel, change) if pair_end == end else channel,
        )
        receiver = outcomes[1 if end == "first" else 0]
        assert isinstance(receiver, TamperedError)
        receiving = pair.bob if end == "first" else pair.alice
        assert receiving.stock("alice" if end == "first" else "bob")[Lane.MASK] == free
        for outcome in pair.reconcile():
            assert isinstance(outcome, Reconciled)
        pair.same_lanes()
        free = pair.alice.stock("bob")[Lane.MASK]


def test_r7_a_recorded_message_is_rejected(pair: Pair) -> None:
    recorded: list[bytes] = []

    def record(_: int, payload: bytes) -> bytes:
        recorded.append(payload)
        return payload

    pair.deposit("b1", lambda channel, pair_end: Rewrite(channel, record) if pair_end == "first" else channel)
    outcomes = pair.deposit(
        "b2",
        lambda channel, pair_end: (
            Rewrite(channel, lambda number, _: recorded[number]) if pair_end == "first" else channel
        ),
    )
    assert isinstance(outcomes[1], AgreementError)
    assert pair.bob.deposits.state("alice", "b2") == "pending"


def test_an_attacker_cannot_burn_the_lane_by_naming_far_offsets(pair: Pair) -> None:
    far = encode(Tagged(b"x", 60_000, 1, bytes(16)))
    outcomes = pair.deposit(
        "b1",
        lambda channel, pair_end: Rewrite(channel, lambda *_: far) if pair_end == "first" else channel,
    )
    assert isinstance(outcomes[1], TamperedError)
    assert pair.bob.lane_states("alice")[Lane.AUTH_AB].head == 0


def test_stores_with_different_split_rules_or_roles_do_not_work_together(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.bob.close()
    rng = np.random.default_rng(1)
    ab, ba = rng.bytes(8192), rng.bytes(8192)
    pair.bob = KeyStore.create(tmp_path / "bob2.db", "bob", KEK, split=SplitRule(auth_bits=8192))
    pair.bob.install_initial_secret("alice", secret(ab), secret(ba), pair_end="second")
    outcomes = pair.deposit("b1")
    assert isinstance(outcomes[1], AgreementError)
    assert "another rule" in str(outcomes[1])
    one, _ = memory_channel_pair()
    with pytest.raises(AgreementError, match="is the first of the pair"):
        deposit_block(pair.alice, one, "second", "bob", "b9", secret(KEY))
    pair.close()


# -- restored stores -----------------------------------------------------------------------------------


def copy_store(store: KeyStore, copy: Path) -> None:
    path = store._core.db.path
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            Path(f"{copy}{suffix}").write_bytes(source.read_bytes())


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("clean_stop", [False, True])
def test_r3_a_restored_store_is_found_out_and_reuses_nothing(
    pair: Pair, tmp_path: Path, who: str, clean_stop: bool
) -> None:
    pair.deposit("b1")
    pair.drain(100, b"0" * 32)
    store = getattr(pair, who)
    if clean_stop:
        store.close()
        store = KeyStore.open(tmp_path / f"{who}.db", who, KEK)
        setattr(pair, who, store)
    copy = tmp_path / "backup.db"
    copy_store(store, copy)
    pair.drain(5000, b"1" * 32)
    pair.deposit("b2")
    head = pair.alice.lane_states("bob")
    store.close()
    setattr(pair, who, KeyStore.open(copy, who, KEK))
    alice, bob = pair.reconcile()
    assert isinstance(alice, Reconciled)
    assert isinstance(bob, Reconciled)
    own, other = (alice, bob) if who == "alice" else (bob, alice)
    assert (own.rolled_back, other.rolled_back) == ("self", "peer")
    pair.same_lanes()
    for lane, state in pair.alice.lane_states("bob").items():
        assert state.head >= head[lane].head
    alice_again, bob_again = pair.reserve(100, b"1" * 32)
    assert isinstance(alice_again, KeyStoreError | ChannelError)
    assert isinstance(bob_again, KeyStoreError | ChannelError)
    one, two = pair.drain(100, b"2" * 32)
    assert one.same_as(two)


def test_r3_without_taking_the_larger_head_bits_would_be_reused(pair: Pair, tmp_path: Path) -> None:
    """The fault that I6 prevents, planted: a meeting that adopts the smaller heads."""
    pair.deposit("b1")
    copy_store(pair.alice, tmp_path / "backup.db")
    used, _ = pair.drain(5000, b"1" * 32)
    pair.alice.close()
    pair.alice = KeyStore.open(tmp_path / "backup.db", "alice", KEK)
    again = pair.alice.propose_reservation("bob", "mask", 5000, b"2" * 32)
    pair.alice.commit_reservation("bob", "mask", again, b"2" * 32)
    assert pair.alice.release("bob", "mask", again, b"2" * 32).same_as(used)


def test_two_restored_stores_are_refused(pair: Pair, tmp_path: Path) -> None:
    pair.deposit("b1")
    for who in ("alice", "bob"):
        copy_store(getattr(pair, who), tmp_path / f"{who}-old.db")
    # Each goes on without the other's knowledge reaching the copy: both copies are behind the other original.
    pair.deposit("b2")
    originals = pair.alice, pair.bob
    pair.alice = KeyStore.open(tmp_path / "alice-old.db", "alice", KEK)
    pair.alice.auth("bob").take_incoming(pair.alice.lane_states("bob")[Lane.AUTH_BA].head + 256, 256)
    pair.bob = KeyStore.open(tmp_path / "bob-old.db", "bob", KEK)
    pair.bob.auth("alice").take_incoming(pair.bob.lane_states("alice")[Lane.AUTH_AB].head + 256, 256)
    for outcome in pair.reconcile():
        assert isinstance(outcome, RollbackError)
    for store in originals:
        store.close()


def test_recorded_answers_do_not_deceive(pair: Pair) -> None:
    """The peer's state of an earlier meeting, replayed, does not fit the fresh nonce."""
    recorded: list[bytes] = []

    def record(_: int, payload: bytes) -> bytes:
        recorded.append(payload)
        return payload

    def talk(store: KeyStore, channel: Channel, pair_end: PairEnd, peer: str) -> Reconciled:
        return reconcile_pending(store, channel, pair_end, peer, TIMEOUT_S)

    copy_store(pair.alice, pair.folder / "backup.db")
    pair.both(talk, lambda channel, pair_end: Rewrite(channel, record) if pair_end == "second" else channel)
    pair.alice.close()
    pair.alice = KeyStore.open(pair.folder / "backup.db", "alice", KEK)
    outcomes = pair.both(
        talk,
        lambda channel, pair_end: (
            Rewrite(channel, lambda number, _: recorded[number]) if pair_end == "second" else channel
        ),
    )
    assert isinstance(outcomes[0], AgreementError)


@pytest.mark.parametrize("start", [(1 << 62) - 1, 1 << 61, 1 << 50])
def test_no_peer_moves_the_end_of_a_lane_out_of_reach(pair: Pair, start: int) -> None:
    """Not even under a right tag: the next message about that lane could not be written any more."""
    one, two = memory_channel_pair()
    with ThreadPoolExecutor(1) as pool:
        alice = pool.submit(deposit_block, pair.alice, one, "first", "bob", "b1", secret(KEY), b"", TIMEOUT_S)
        tagged = TaggedChannel(pair.bob, two, "alice")
        tagged.expect(Expect(tagged=(Propose,)), TIMEOUT_S)
        tagged.send(Verdict("b1", True, {str(lane): start for lane in Lane}))
        assert isinstance(alice.exception(), AgreementError)
    assert pair.alice.deposits.state("bob", "b1") == "pending"
    assert pair.alice.lane_states("bob")[Lane.MASK].tail == 0
    pair.bob.deposit_pending("alice", "b1", secret(KEY), b"")
    with pair.bob._core.transaction():
        pair.bob._core.set_tail("alice", Lane.MASK, start)
    assert isinstance(pair.reconcile()[0], AgreementError)
    assert pair.alice.deposits.state("bob", "b1") == "pending"
