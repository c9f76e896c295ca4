"""Two ends reserve the same range for the same context, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.keystore.agreement import reserve
from orchestrator.keystore.errors import (
    AgreementError,
    AlreadyReleasedError,
    LaneShortError,
    ReservationError,
    TamperedError,
)
from orchestrator.keystore.lanes import Lane, PairEnd, Range, SplitRule
from orchestrator.keystore.reserving import Accept, Ask, Offer, Refuse
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import TaggedChannel
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.codec import encode
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

KEK = Kek(b"k" * 32)
KEY = np.random.default_rng(3).bytes(20_000)
TIMEOUT_S = 10.0
C1, C2 = b"1" * 32, b"2" * 32
SPLIT = SplitRule(otp_per_1024=64)

Wish = tuple[str, int, bytes]


def secret(data: bytes) -> SecretBits:
    return SecretBits.from_bytes(data)


class Lossy:
    """Loses this end's message number ``lost`` without telling it; the line is broken from then on."""

    def __init__(self, channel: MemoryChannel, lost: int) -> None:
        self._channel, self._lost, self._sent = channel, lost, 0

    def send(self, payload: bytes) -> None:
        self._sent += 1
        if self._sent - 1 == self._lost:
            self._channel.close()
        else:
            self._channel.send(payload)

    def recv(self, timeout_s: float) -> bytes:
        return self._channel.recv(timeout_s)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[KeyStore, KeyStore]]:
    rng = np.random.default_rng(1)
    ab, ba = rng.bytes(8192), rng.bytes(8192)
    alice = KeyStore.create(tmp_path / "alice.db", "alice", KEK, split=SPLIT)
    bob = KeyStore.create(tmp_path / "bob.db", "bob", KEK, split=SPLIT)
    alice.install_initial_secret("bob", secret(ab), secret(ba), pair_end="first")
    bob.install_initial_secret("alice", secret(ab), secret(ba), pair_end="second")
    for store, peer in ((alice, "bob"), (bob, "alice")):
        store.deposit_pending(peer, "b1", secret(KEY), b"")
        store.confirm_deposit(peer, "b1")
    yield alice, bob
    alice.close()
    bob.close()


def both(
    stores: tuple[KeyStore, KeyStore],
    alice: Wish,
    bob: Wish,
    wrap: Callable[[MemoryChannel, PairEnd], Channel] = lambda channel, _: channel,
    again: tuple[bool, bool] = (False, False),
) -> tuple[Range | Exception, Range | Exception]:
    one, two = memory_channel_pair()
    ends = {"first": one, "second": two}

    def run(
        store: KeyStore, channel: MemoryChannel, pair_end: PairEnd, peer: str, wish: Wish
    ) -> Range | Exception:
        try:
            done = again[pair_end == "second"]
            return reserve(
                store, wrap(channel, pair_end), pair_end, peer, *wish, timeout_s=TIMEOUT_S, again=done
            )
        except Exception as error:  # noqa: BLE001 - the outcome of the test
            return error
        finally:
            ends[pair_end].close()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, stores[0], one, "first", "bob", alice)
        second = pool.submit(run, stores[1], two, "second", "alice", bob)
        return first.result(), second.result()


def burnt(stores: tuple[KeyStore, KeyStore]) -> tuple[int, int]:
    return stores[0].ledger("bob").burnt, stores[1].ledger("alice").burnt


@pytest.mark.parametrize("lane", ["mask", "otp_ab", "otp_ba"])
def test_both_ends_get_the_same_range_and_bits(stores: tuple[KeyStore, KeyStore], lane: str) -> None:
    alice, bob = both(stores, (lane, 1001, C1), (lane, 1001, C1))
    assert isinstance(alice, Range)
    assert alice == bob
    one = stores[0].release("bob", lane, alice, C1)
    two = stores[1].release("alice", lane, alice, C1)
    assert len(one) == 1001
    assert one.same_as(two)
    assert stores[0].ledger("bob") == stores[1].ledger("alice")


@pytest.mark.parametrize(
    "bob", [("mask", 1000, C2), ("mask", 1008, C1), ("otp_ab", 1000, C1)], ids=["context", "size", "lane"]
)
def test_i3_ends_that_want_different_things_get_nothing(stores: tuple[KeyStore, KeyStore], bob: Wish) -> None:
    for outcome in both(stores, ("mask", 1000, C1), bob):
        assert isinstance(outcome, ReservationError)
    assert burnt(stores) == (0, 0)
    assert stores[0].lane_states("bob")[Lane.MASK].head == 0


def test_too_little_key_at_either_end_burns_nothing(stores: tuple[KeyStore, KeyStore]) -> None:
    free = stores[0].stock("bob")[Lane.MASK]
    for outcome in both(stores, ("mask", free + 7, C1), ("mask", free + 7, C1)):
        assert isinstance(outcome, LaneShortError)
        assert outcome.missing_bits == 7
    stores[1].raise_heads("alice", {Lane.MASK: 100})
    before = burnt(stores)
    for outcome in both(stores, ("mask", free, C1), ("mask", free, C1)):
        assert isinstance(outcome, LaneShortError)
        assert outcome.missing_bits == 100
    assert burnt(stores) == before


def test_a_released_context_is_never_reserved_again(stores: tuple[KeyStore, KeyStore]) -> None:
    first, _ = both(stores, ("mask", 100, C1), ("mask", 100, C1))
    assert isinstance(first, Range)
    stores[1].release("alice", "mask", first, C1)
    stores[0].burn_reservation("bob", "mask", first, C1)
    alice, bob = both(stores, ("mask", 100, C1), ("mask", 100, C1))
    assert isinstance(bob, AlreadyReleasedError)
    assert isinstance(alice, ReservationError)


@pytest.mark.parametrize(("end", "lost"), [("second", 0), ("first", 0), ("second", 1)])
def test_a_lost_message_costs_no_bit_and_the_context_keeps_its_range(
    stores: tuple[KeyStore, KeyStore], end: PairEnd, lost: int
) -> None:
    alice, bob = both(
        stores,
        ("mask", 1000, C1),
        ("mask", 1000, C1),
        lambda channel, pair_end: Lossy(channel, lost) if pair_end == end else channel,
    )
    assert isinstance(alice, ChannelError)
    if (end, lost) == ("second", 1):  # bob followed
        assert bob == Range(0, 1000)
    else:
        assert isinstance(bob, ChannelError)
    for _ in range(3):
        assert both(stores, ("mask", 1000, C1), ("mask", 1000, C1)) == (Range(0, 1000), Range(0, 1000))
    assert burnt(stores) == (0, 0)
    spent = [stores[0].ledger("bob").authentication, stores[1].ledger("alice").authentication]
    assert spent == [512, 512], "one tag in each direction, however often the messages went out"


def test_an_end_that_is_done_answers_again_after_it_released_its_bits(
    stores: tuple[KeyStore, KeyStore],
) -> None:
    """Bob's acceptance was lost, and bob has masked; alice asks once more."""
    alice, bob = both(
        stores,
        ("mask", 1000, C1),
        ("mask", 1000, C1),
        lambda channel, pair_end: Lossy(channel, 1) if pair_end == "second" else channel,
    )
    assert isinstance(alice, ChannelError)
    assert isinstance(bob, Range)
    two = stores[1].release("alice", "mask", bob, C1)
    assert isinstance(both(stores, ("mask", 1000, C1), ("mask", 1000, C1))[1], AlreadyReleasedError)
    assert both(stores, ("mask", 1000, C1), ("mask", 1000, C1), again=(False, True)) == (bob, bob)
    assert stores[0].release("bob", "mask", bob, C1).same_as(two)
    for store, peer in zip(stores, ("bob", "alice"), strict=True):
        with pytest.raises(AlreadyReleasedError):
            store.release(peer, "mask", bob, C1)
    assert both(stores, ("mask", 1000, C1), ("mask", 1000, C1), again=(True, True)) == (bob, bob)
    assert stores[0].ledger("bob") == stores[1].ledger("alice")


def test_an_end_that_is_done_reserves_nothing_on_its_own(stores: tuple[KeyStore, KeyStore]) -> None:
    """What was agreed on was burnt meanwhile: only the application may ask for something else."""
    first, _ = both(stores, ("mask", 100, C1), ("mask", 100, C1))
    assert isinstance(first, Range)
    for store, peer in zip(stores, ("bob", "alice"), strict=True):
        store.burn_reservation(peer, "mask", first, C1)
    for again in ((True, False), (False, True)):
        for outcome in both(stores, ("mask", 100, C1), ("mask", 100, C1), again=again):
            assert isinstance(outcome, ReservationError)
    assert stores[0].lane_states("bob")[Lane.MASK].head == 100


def test_the_other_end_does_not_follow_an_offer_for_another_context(
    stores: tuple[KeyStore, KeyStore],
) -> None:
    """The tagged context of the offer counts, not the one that bob asked for (I3)."""
    one, two = memory_channel_pair()
    with ThreadPoolExecutor(1) as pool:
        bob = pool.submit(reserve, stores[1], two, "second", "alice", "mask", 1000, C1, TIMEOUT_S)
        tagged = TaggedChannel(stores[0], one, "bob")
        tagged.expect(Expect(plain=(Ask,)), TIMEOUT_S)
        tagged.send(Offer("mask", 0, 1000, C2))
        assert isinstance(bob.exception(), ReservationError)
    refusal, _ = tagged.expect(Expect(plain=(Refuse,)), TIMEOUT_S)
    assert isinstance(refusal, Refuse)
    assert refusal.reason == "context"
    assert stores[1].lane_states("alice")[Lane.MASK].head == 0
    for context in (C1, C2):
        assert stores[1].held_reservation("alice", "mask", 1000, context) is None


def offered(tagged: TaggedChannel) -> Offer:
    """The offer that comes next."""
    offer, _ = tagged.expect(Expect(tagged=(Offer,)), TIMEOUT_S)
    assert isinstance(offer, Offer)
    return offer


def run_owner(
    stores: tuple[KeyStore, KeyStore], peer_talk: Callable[[Channel, TaggedChannel], None]
) -> Exception:
    """What alice's reserve raises while bob says what ``peer_talk`` says."""
    one, two = memory_channel_pair()
    with ThreadPoolExecutor(1) as pool:
        alice = pool.submit(reserve, stores[0], one, "first", "bob", "mask", 1000, C1, TIMEOUT_S)
        peer_talk(two, TaggedChannel(stores[1], two, "alice"))
        error = alice.exception()
    assert isinstance(error, Exception)
    return error


def test_an_owner_believes_no_wrong_or_untagged_acceptance(stores: tuple[KeyStore, KeyStore]) -> None:
    ask = Ask("mask", 1000, C1, 10**6)

    def untagged(channel: Channel, tagged: TaggedChannel) -> None:
        tagged.send_plain(ask)
        offer = offered(tagged)
        channel.send(encode(Accept("mask", offer.start, 1000, C1)))

    def other_range(channel: Channel, tagged: TaggedChannel) -> None:
        tagged.send_plain(ask)
        offer = offered(tagged)
        tagged.send(Accept("mask", offer.start + 1000, 1000, C1))

    def refusal(channel: Channel, tagged: TaggedChannel) -> None:
        tagged.send_plain(ask)
        offered(tagged)
        tagged.send_plain(Refuse("refused"))

    assert isinstance(run_owner(stores, untagged), TamperedError)
    assert isinstance(run_owner(stores, other_range), AgreementError)
    assert isinstance(run_owner(stores, refusal), ReservationError)
    assert stores[0].ledger("bob").burnt == 0
    assert stores[0].lane_states("bob")[Lane.MASK].head == 1000, "one range, whatever bob answers"


def test_the_other_end_follows_only_forward(stores: tuple[KeyStore, KeyStore]) -> None:
    """An owner restored from an old copy offers used bits; the peer refuses."""
    first, _ = both(stores, ("mask", 1000, C1), ("mask", 1000, C1))
    one, two = memory_channel_pair()
    with ThreadPoolExecutor(1) as pool:
        bob = pool.submit(reserve, stores[1], two, "second", "alice", "mask", 1000, C2, TIMEOUT_S)
        tagged = TaggedChannel(stores[0], one, "bob")
        tagged.expect(Expect(plain=(Ask,)), TIMEOUT_S)
        tagged.send(Offer("mask", 500, 1000, C2))
        error = bob.exception()
    assert "used up to 1000 before" in str(error)
    assert first == Range(0, 1000)
