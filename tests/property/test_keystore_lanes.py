"""Two stores that do the same things hold the same bits, whatever the order and the sizes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.keystore.errors import LaneShortError, RefusedError, TamperedError
from orchestrator.keystore.lanes import Lane, Range
from orchestrator.keystore.pieces import join
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import Tagged, TaggedChannel
from orchestrator.secret import SecretBits
from orchestrator.wire.codec import encode
from orchestrator.wire.memory_channel import memory_channel_pair

pytestmark = pytest.mark.early

KEK = Kek(b"k" * 32)

STEPS = st.one_of(
    st.tuples(st.just("deposit"), st.integers(1, 3000)),
    st.tuples(st.just("reserve"), st.integers(1, 9000)),
    st.tuples(st.just("skip"), st.integers(1, 50)),
    st.tuples(st.just("burn"), st.integers(0, 9)),
    st.tuples(st.just("release"), st.integers(0, 9)),
    st.tuples(st.just("tag"), st.integers(1, 600)),
    st.tuples(st.just("restart"), st.just(0)),
)


def secret(data: bytes) -> SecretBits:
    return SecretBits.from_bytes(data)


class Twins:
    """Alice and bob, driven in step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.alice = KeyStore.create(folder / "alice", "alice", KEK)
        self.bob = KeyStore.create(folder / "bob", "bob", KEK)
        ab, ba = np.random.default_rng(1).bytes(8192), np.random.default_rng(2).bytes(8192)
        self.alice.install_initial_secret("bob", secret(ab), secret(ba), pair_end="first")
        self.bob.install_initial_secret("alice", secret(ab), secret(ba), pair_end="second")
        self.open: list[tuple[Range, bytes]] = []
        self.released: list[Range] = []
        self.serial = 0

    def step(self, what: str, size: int) -> None:
        self.serial += 1
        context = self.serial.to_bytes(32, "big")
        if what == "deposit":
            key = np.random.default_rng(self.serial).bytes(size)
            for store, peer in ((self.alice, "bob"), (self.bob, "alice")):
                store.deposit_pending(peer, str(self.serial), secret(key), b"")
                store.confirm_deposit(peer, str(self.serial))
        elif what == "reserve":
            missing = size - self.alice.stock("bob")[Lane.MASK]
            if missing > 0:
                with pytest.raises(LaneShortError, match=f"short of {missing} bits"):
                    self.alice.propose_reservation("bob", "mask", size, context)
                return
            wanted = self.alice.propose_reservation("bob", "mask", size, context)
            self.alice.commit_reservation("bob", "mask", wanted, context)
            self.bob.commit_reservation("alice", "mask", wanted, context)
            self.open.append((wanted, context))
        elif what == "skip":
            heads = {Lane.MASK: self.alice.lane_states("bob")[Lane.MASK].head + size}
            self.alice.raise_heads("bob", heads)
            self.bob.raise_heads("alice", heads)
        elif what == "tag":
            offset, key_bits = self.bob.auth("alice").take_outgoing(size)
            assert self.alice.auth("bob").take_incoming(offset, size).same_as(key_bits)
        elif what == "restart":
            self.alice.close()
            self.bob.close()
            self.alice = KeyStore.open(self._folder / "alice", "alice", KEK)
            self.bob = KeyStore.open(self._folder / "bob", "bob", KEK)
            self.open.clear()
        elif self.open:
            wanted, context = self.open.pop(size % len(self.open))
            if what == "burn":
                self.alice.burn_reservation("bob", "mask", wanted, context)
                self.bob.burn_reservation("alice", "mask", wanted, context)
            else:
                one = self.alice.release("bob", "mask", wanted, context)
                assert one.same_as(self.bob.release("alice", "mask", wanted, context))
                assert all(old.end <= wanted.start or wanted.end <= old.start for old in self.released)
                self.released.append(wanted)


@given(st.lists(STEPS, max_size=14))
@settings(max_examples=40, deadline=None)
def test_both_ends_stay_equal_and_the_books_balance(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as folder:
        twins = Twins(Path(folder))
        try:
            for what, size in steps:
                twins.step(what, size)
                assert twins.alice.ledger("bob") == twins.bob.ledger("alice")
                assert twins.alice.lane_states("bob") == twins.bob.lane_states("alice")
            twins.alice._core.check_books()
            twins.bob._core.check_books()
            assert twins.alice.ledger("bob").delivered == sum(wanted.n_bits for wanted in twins.released)
        finally:
            twins.alice.close()
            twins.bob.close()


@given(st.lists(st.integers(0, 70), max_size=12), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_joining_cut_bits_gives_the_whole(sizes: list[int], seed: int) -> None:
    whole = secret(np.random.default_rng(seed).bytes(110)).take(0, sum(sizes))
    parts, reached = [], 0
    for size in sizes:
        parts.append(whole.take(reached, size))
        reached += size
    assert join(parts).same_as(whole)


@given(
    st.one_of(
        st.binary(max_size=80),
        st.builds(
            lambda body, offset, n, tag: encode(Tagged(body, offset, n, tag)),
            st.binary(max_size=40),
            st.integers(0, 2**62 - 1),
            st.integers(1, 4096),
            st.binary(min_size=16, max_size=16),
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_r4_garbage_is_rejected_and_spends_nothing(data: bytes) -> None:
    store = shared_store()
    here, there = memory_channel_pair()
    there.send(data)
    with pytest.raises(TamperedError):
        TaggedChannel(store, here, "bob").expect(Expect(tagged=(Tagged,)), 1.0)
    assert store.lane_states("bob")[Lane.AUTH_BA].head == 0


_shared: list[tuple[KeyStore, tempfile.TemporaryDirectory[str]]] = []


def shared_store() -> KeyStore:
    """One store for all garbage: none of it may change anything."""
    if not _shared:
        folder = tempfile.TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))
        store = KeyStore.create(Path(folder.name) / "alice", "alice", KEK)
        store.install_initial_secret(
            "bob", secret(bytes(8192)), secret(bytes(range(256)) * 32), pair_end="first"
        )
        _shared.append((store, folder))
    return _shared[0][0]


def test_a_store_without_the_peer_refuses() -> None:
    store = shared_store()
    for call in (store.auth, store.stock, store.ledger, store.lane_states):
        with pytest.raises(RefusedError, match="nobody"):
            call("nobody")
