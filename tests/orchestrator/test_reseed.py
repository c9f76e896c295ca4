"""A new generation of a pair: begun at both ends or at neither, with a crash at every step and whatever the hub does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.keystore.agreement import deposit_block
from orchestrator.keystore.database import Database
from orchestrator.keystore.errors import (
    AgreementError,
    AuthLaneExhaustedError,
    KeyStoreError,
    RefusedError,
    ReplayError,
    TamperedError,
)
from orchestrator.keystore.generations import MOST_KEPT
from orchestrator.keystore.lanes import AUTH_LANES, AUTH_STOP_BITS, Lane, PairEnd
from orchestrator.keystore.pair_macs import MAC_KEY_BITS
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.keystore.reseed import GenerationError, Standing, conclude, settle_generation
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelError
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.memory_channel import memory_channel_pair

KEK = Kek(b"k" * 32)
NAMES = ("alice", "bob")
PAIR_ENDS: tuple[PairEnd, PairEnd] = ("first", "second")
FULL = 65536 - MAC_KEY_BITS
TIMEOUT_S = 5.0


class CrashError(BaseException):
    """This end stops here, like a killed process."""


@dataclass
class CrashAt:
    """Ends one end's thread before its n-th operation on its store; ``seen`` counts them."""

    owner: str
    n: int
    seen: int = 0

    def __call__(self, path: Path) -> None:
        if path.name != self.owner:
            return
        self.seen += 1
        if self.seen == self.n:
            raise CrashError


class WatchedDatabase(Database):
    """Calls :attr:`before` ahead of every write, commit and checkpoint."""

    before: Callable[[Path], None] = staticmethod(lambda path: None)

    def write(self, sql: str, *values: object) -> int:
        WatchedDatabase.before(self.path)
        return super().write(sql, *values)

    def checkpoint(self) -> None:
        WatchedDatabase.before(self.path)
        super().checkpoint()


class WatchedStore(KeyStore):
    database_class = WatchedDatabase


@contextmanager
def watched(before: Callable[[Path], None]) -> Iterator[None]:
    WatchedDatabase.before = before
    try:
        yield
    finally:
        WatchedDatabase.before = lambda path: None


@dataclass
class Pair:
    """Alice's and bob's stores, opened, closed and killed together."""

    folder: Path
    stores: list[KeyStore] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path) -> Pair:
        pair = cls(folder)
        shared = PairSecret.draw(*NAMES)
        for own, peer, pair_end in zip(NAMES, NAMES[::-1], PAIR_ENDS, strict=True):
            store = WatchedStore.create(folder / own, own, KEK)
            store.install_initial_secret(peer, shared.auth_ab, shared.auth_ba, pair_end=pair_end)
            pair.stores.append(store)
        return pair

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def reopen(self) -> None:
        """After a kill: what was not committed is gone."""
        for store in self.stores:
            store._core.db.close()
        self.stores = [WatchedStore.open(self.folder / name, name, KEK) for name in NAMES]

    def keep(self, secret: PairSecret, *ends: int) -> None:
        for end in ends or (0, 1):
            self.stores[end].generations.keep(
                NAMES[1 - end], secret.auth_ab, secret.auth_ba, secret.generation
            )

    def both(
        self, conversation: Callable[[int, Channel], object], channels: tuple[Channel, Channel] | None = None
    ) -> list[object]:
        """Run one conversation at both ends; what each returned or raised."""
        ends = channels or memory_channel_pair()
        results: list[object] = [None, None]

        def run(end: int) -> None:
            try:
                results[end] = conversation(end, ends[end])
            except (KeyStoreError, ChannelError, CrashError) as error:
                results[end] = error
            finally:
                ends[end].close()  # type: ignore[attr-defined]

        threads = [threading.Thread(target=run, args=(end,)) for end in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def settle(
        self, channels: tuple[Channel, Channel] | None = None, timeout_s: float = TIMEOUT_S
    ) -> list[object]:
        return self.both(
            lambda end, channel: settle_generation(
                self.stores[end], channel, PAIR_ENDS[end], NAMES[1 - end], timeout_s
            ),
            channels,
        )

    def generations(self) -> list[int]:
        return [store.generation(NAMES[1 - end]) for end, store in enumerate(self.stores)]

    def works(self, name: str) -> None:
        """A block is agreed on under tags: generations, lanes and reusable keys fit together."""
        made = self.both(
            lambda end, channel: deposit_block(
                self.stores[end],
                channel,
                PAIR_ENDS[end],
                NAMES[1 - end],
                name,
                SecretBits.from_bytes(b"b" * 8192),
                timeout_s=TIMEOUT_S,
            )
        )
        assert made[0] == made[1], made

    def free(self) -> list[int]:
        return [self.stores[end].stock(NAMES[1 - end])[lane] for end in (0, 1) for lane in AUTH_LANES]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair.make(tmp_path)
    yield made
    made.close()


def drain(pair: Pair) -> None:
    """Spend alice's lane to its hard stop, as an attack or long use does; bob's end follows or not."""
    auth = pair.stores[0].auth("bob")
    auth.take_outgoing(pair.stores[0].stock("bob")[Lane.AUTH_AB] - AUTH_STOP_BITS)
    with pytest.raises(AuthLaneExhaustedError):
        auth.take_outgoing(1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_drained_pair_is_full_again_once_both_took_the_secret_in_either_order(
    pair: Pair, order: tuple[int, int]
) -> None:
    drain(pair)
    secret = PairSecret.draw(*NAMES, generation=1)
    pair.keep(secret, order[0])
    assert pair.settle() == [None, None]
    assert pair.generations() == [0, 0]
    pair.keep(secret, order[1])
    assert pair.settle() == [1, 1]
    assert pair.generations() == [1, 1]
    assert pair.free() == [FULL] * 4
    assert [store.generations.kept(NAMES[1 - end]) for end, store in enumerate(pair.stores)] == [(), ()]
    pair.works("block/1")
    assert pair.settle() == [None, None]
    for end, store in enumerate(pair.stores):
        assert store.lane_states(NAMES[1 - end])[Lane.AUTH_AB].head >= 1 << 40
        assert store.mac_keys.get(NAMES[1 - end], 0) is None
        assert store.ledger(NAMES[1 - end]).balanced
    pair.reopen()  # which checks the books


def steps_of(pair: Pair, owner: str) -> int:
    """How many operations on its store an end makes in a whole reseed."""
    pair.works("before")
    drain(pair)
    counter = CrashAt(owner, 10**9)
    with watched(counter):
        pair.keep(PairSecret.draw(*NAMES))
        assert pair.settle() == [1, 1]
    return counter.seen


@pytest.mark.parametrize("owner", NAMES)
def test_a_crash_at_every_step_leaves_both_with_the_old_generation_or_both_with_the_new(
    tmp_path: Path, owner: str
) -> None:
    """The end is killed at its n-th operation, both are started again, and the two simply meet."""
    (tmp_path / "count").mkdir()
    counted = Pair.make(tmp_path / "count")
    n_steps = steps_of(counted, owner)
    counted.close()
    assert n_steps > 10
    ended_at = set()
    for n in range(1, n_steps + 1):
        folder = tmp_path / f"crash{n}"
        folder.mkdir()
        pair = Pair.make(folder)
        pair.works("before")
        drain(pair)
        secret = PairSecret.draw(*NAMES)
        crashed = CrashAt(owner, n)
        with watched(crashed):
            for end in (0, 1):
                try:
                    pair.keep(secret, end)
                except CrashError:
                    assert NAMES[end] == owner
                    break
            else:
                pair.settle()
        assert crashed.seen >= n
        pair.reopen()
        ended_at.add(tuple(pair.generations()))
        for end in (0, 1):
            if not pair.stores[end].deposits.took(secret.auth_ab, secret.auth_ba):
                pair.keep(secret, end)  # its file is still there
        settled = pair.settle()
        assert not any(isinstance(result, BaseException) for result in settled), (n, settled)
        assert pair.generations() == [1, 1], n
        assert pair.free() == [FULL] * 4, n
        pair.works("after")
        pair.close()
    assert ended_at == {(0, 0), (1, 0) if owner == "bob" else (0, 1), (1, 1)}


class Meddler:
    """A hub between two ends: ``meddle(end, n, payload)`` gives what arrives of the n-th message of an end."""

    def __init__(self, meddle: Callable[[int, int, bytes], list[bytes]]) -> None:
        self._meddle = meddle
        self._ends = memory_channel_pair()

    def channels(self) -> tuple[Channel, Channel]:
        return self._channel(0), self._channel(1)

    def _channel(self, end: int) -> Channel:
        inner, meddle = self._ends[end], self._meddle

        class Meddled:
            sent = 0

            def send(self, payload: bytes) -> None:
                for changed in meddle(end, self.sent, payload):
                    inner.send(changed)
                self.sent += 1

            def recv(self, timeout_s: float) -> bytes:
                return inner.recv(timeout_s)

            def close(self) -> None:
                inner.close()

        return Meddled()


def flipped(end: int, n: int, at: int) -> Callable[[int, int, bytes], list[bytes]]:
    def meddle(sender: int, number: int, payload: bytes) -> list[bytes]:
        if (sender, number) != (end, n):
            return [payload]
        place = at % len(payload)
        return [payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]]

    return meddle


def test_every_byte_of_every_message_counts_and_a_wrong_one_costs_nothing(pair: Pair) -> None:
    """Whatever is flipped, no end begins without the other being able to follow, and no lane bit is spent."""
    drain(pair)
    before = pair.free()
    pair.keep(PairSecret.draw(*NAMES))
    for end in (0, 1):
        for n in (0, 1):
            for at in range(0, 200, 7):
                settled = pair.settle(Meddler(flipped(end, n, at)).channels())
                if pair.generations() == [0, 0]:
                    assert pair.free() == before
                    continue
                # one proof arrived unharmed: the other end follows at the next meeting
                assert any(isinstance(result, BaseException) for result in settled)
                assert pair.settle() != [None, None] or pair.generations()[0] == pair.generations()[1]
                assert len(set(pair.generations())) == 1
                pair.keep(PairSecret.draw(*NAMES))
                before = pair.free()
    pair.settle()
    pair.works("after")


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("n", [0, 1])
def test_a_message_that_is_lost_is_made_good_at_the_next_meeting(pair: Pair, end: int, n: int) -> None:
    pair.keep(PairSecret.draw(*NAMES))

    def lose(sender: int, number: int, payload: bytes) -> list[bytes]:
        return [] if (sender, number) == (end, n) else [payload]

    pair.settle(Meddler(lose).channels())
    pair.reopen()
    pair.settle()
    assert pair.generations() == [1, 1]
    pair.works("after")


def test_recorded_proofs_are_worth_nothing_in_another_meeting(pair: Pair) -> None:
    recorded: dict[tuple[int, int], bytes] = {}

    def record(sender: int, number: int, payload: bytes) -> list[bytes]:
        recorded[sender, number] = payload
        return [payload] if number == 0 else []

    pair.keep(PairSecret.draw(*NAMES))
    pair.settle(Meddler(record).channels(), timeout_s=0.2)
    assert pair.generations() == [0, 0]
    assert len(recorded) == 4

    def replay(sender: int, number: int, payload: bytes) -> list[bytes]:
        return [recorded[sender, number]] if number == 1 else [payload]

    assert all(isinstance(error, TamperedError) for error in pair.settle(Meddler(replay).channels()))
    assert pair.generations() == [0, 0]
    everything = pair.settle(Meddler(lambda sender, number, _: [recorded[sender, number]]).channels())
    assert all(isinstance(error, TamperedError) for error in everything)
    assert pair.settle() == [1, 1]


def test_halves_of_two_secrets_begin_nothing_and_a_common_one_still_does(pair: Pair) -> None:
    pair.keep(PairSecret.draw(*NAMES), 0)
    pair.keep(PairSecret.draw(*NAMES), 1)
    assert pair.settle() == [None, None]
    pair.works("meanwhile")
    pair.keep(PairSecret.draw(*NAMES))
    assert pair.settle() == [1, 1]


def test_a_secret_that_differs_in_one_lane_bit_is_not_begun(pair: Pair) -> None:
    """Same reusable keys, so same name; the proof covers every bit."""
    secret = PairSecret.draw(*NAMES)
    data = bytearray(secret.auth_ab.reveal_bytes())
    data[1000] ^= 1
    pair.keep(secret, 0)
    pair.stores[1].generations.keep("alice", SecretBits.from_bytes(bytes(data)), secret.auth_ba)
    assert all(isinstance(error, TamperedError) for error in pair.settle())
    assert pair.generations() == [0, 0]


def test_bad_secrets_are_refused_and_nothing_is_kept(pair: Pair) -> None:
    generations = pair.stores[0].generations
    secret = PairSecret.draw(*NAMES, generation=1)
    pair.keep(secret)
    with pytest.raises(RefusedError, match="was taken before"):
        pair.keep(secret, 0)
    assert pair.settle() == [1, 1]
    pair.reopen()
    generations = pair.stores[0].generations
    with pytest.raises(RefusedError, match="was taken before"):
        pair.keep(secret, 0)
    late = PairSecret.draw(*NAMES, generation=1)
    with pytest.raises(RefusedError, match=r"made for generation 1 .* at 1"):
        pair.keep(late, 0)
    assert not pair.stores[0].deposits.took(late.auth_ab, late.auth_ba)
    with pytest.raises(RefusedError, match="at least"):
        generations.keep("bob", SecretBits.from_bytes(b"s" * 100), SecretBits.from_bytes(b"t" * 100))
    assert generations.kept("bob") == ()
    with pytest.raises(RefusedError, match="no initial secret is shared with eve"):
        generations.keep("eve", late.auth_ab, late.auth_ba)


def test_of_many_that_wait_the_oldest_that_the_peer_never_saw_is_dropped(pair: Pair) -> None:
    generations = pair.stores[0].generations
    names = []
    for _ in range(MOST_KEPT + 2):
        secret = PairSecret.draw(*NAMES)
        names.append(generations.keep("bob", secret.auth_ab, secret.auth_ba))
        generations.note_shown("bob", names[0])
    assert set(generations.kept("bob")) == {names[0], *names[-MOST_KEPT + 1 :]}
    for name in generations.kept("bob"):
        generations.note_shown("bob", name)
    secret = PairSecret.draw(*NAMES)
    with pytest.raises(RefusedError, match="take the other half of one of them at bob"):
        generations.keep("bob", secret.auth_ab, secret.auth_ba)
    assert not pair.stores[0].deposits.took(secret.auth_ab, secret.auth_ba)


def test_a_store_restored_from_before_a_reseed_needs_a_further_one(tmp_path: Path) -> None:
    pair = Pair.make(tmp_path)
    pair.stores[1].close()
    old = (tmp_path / "bob").read_bytes()
    pair.stores[1] = WatchedStore.open(tmp_path / "bob", "bob", KEK)
    pair.keep(PairSecret.draw(*NAMES))
    assert pair.settle() == [1, 1]
    pair.close()
    (tmp_path / "bob").write_bytes(old)
    pair.reopen()
    assert all(isinstance(error, GenerationError) for error in pair.settle())
    pair.keep(PairSecret.draw(*NAMES))
    assert pair.settle() == [2, 2]
    pair.works("after")
    pair.close()


def test_an_end_that_lost_its_store_comes_back_with_the_secret_that_the_other_keeps(tmp_path: Path) -> None:
    pair = Pair.make(tmp_path)
    pair.works("before")
    secret = PairSecret.draw(*NAMES, generation=1)
    pair.keep(secret, 0)
    pair.stores[1].close()
    for file in tmp_path.glob("bob*"):
        file.unlink()
    pair.stores[1] = WatchedStore.create(tmp_path / "bob", "bob", KEK)
    pair.stores[1].install_initial_secret(
        "alice", secret.auth_ab, secret.auth_ba, pair_end="second", generation=secret.generation
    )
    assert pair.generations() == [0, 1]
    assert pair.settle() == [1, None]
    assert pair.free() == [FULL] * 4
    pair.works("after")
    pair.reopen()
    pair.close()


def test_an_end_that_came_back_with_a_secret_for_any_generation_is_told_and_a_further_one_helps(
    tmp_path: Path,
) -> None:
    pair = Pair.make(tmp_path)
    secret = PairSecret.draw(*NAMES)  # made where no node of the pair ran
    pair.keep(secret, 0)
    pair.stores[1].close()
    for file in tmp_path.glob("bob*"):
        file.unlink()
    pair.stores[1] = WatchedStore.create(tmp_path / "bob", "bob", KEK)
    pair.stores[1].install_initial_secret("alice", secret.auth_ab, secret.auth_ba, pair_end="second")
    assert pair.generations() == [0, 0]
    for told in pair.settle():
        assert isinstance(told, GenerationError)
        assert "make a new secret with `qunetlab keys reseed PAIR --new` while both nodes run" in str(told)
    pair.keep(PairSecret.draw(*NAMES))
    assert pair.settle() == [1, 1]
    pair.works("after")
    pair.close()


def test_a_secret_dropped_for_newer_ones_is_not_shown(pair: Pair) -> None:
    """The names go out at the beginning of a meeting; an operator may bring further secrets before the proof."""
    generations = pair.stores[0].generations
    gone, *_ = [
        generations.keep("bob", secret.auth_ab, secret.auth_ba)
        for secret in (PairSecret.draw(*NAMES) for _ in range(MOST_KEPT + 1))
    ]
    with pytest.raises(RefusedError, match="no secret with bob waits under that name"):
        generations.note_shown("bob", gone)


def test_tag_bits_of_the_old_generation_that_wait_in_memory_go_with_it(pair: Pair) -> None:
    auth = pair.stores[1].auth("alice")
    auth.take_incoming(512, 256).wipe()
    assert len(auth.peek_incoming(0, 256)) == 256
    pair.keep(PairSecret.draw(*NAMES))
    assert pair.settle() == [1, 1]
    with pytest.raises(ReplayError):
        auth.peek_incoming(0, 256)


def test_a_peer_may_not_use_up_the_generations(pair: Pair) -> None:
    pair.keep(PairSecret.draw(*NAMES))

    def far(sender: int, number: int, payload: bytes) -> list[bytes]:
        if (sender, number) != (1, 0):
            return [payload]
        said = decode(payload, Standing)
        return [encode(Standing(said.nonce, said.generation, 1 << 20, said.begun, said.kept))]

    asked, asking = pair.settle(Meddler(far).channels())
    assert isinstance(asked, AgreementError)
    assert "far above" in str(asked)
    assert isinstance(asking, ChannelError)
    assert pair.generations() == [0, 0]


STANDINGS = st.builds(
    Standing,
    st.just(bytes(16)),
    st.integers(0, 3),
    st.integers(1, 5),
    st.sampled_from([b"", b"a" * 16, b"b" * 16]),
    st.lists(st.sampled_from([b"a" * 16, b"b" * 16, b"c" * 16]), unique=True, max_size=3),
)


@given(STANDINGS, STANDINGS)
def test_both_ends_draw_the_same_conclusion(first: Standing, second: Standing) -> None:
    def end(pair_end: PairEnd, ours: Standing, theirs: Standing) -> object:
        try:
            return conclude(pair_end, ours, theirs)
        except GenerationError:
            return GenerationError

    one, other = end("first", first, second), end("second", second, first)
    turned = {"lead": "follow", "follow": "lead", "both": "both"}
    if one is None or one is GenerationError:
        assert other is one
    else:
        assert (one.name, one.generation) == (other.name, other.generation)  # type: ignore[attr-defined]
        assert turned[one.kind] == other.kind  # type: ignore[attr-defined]
