"""Two stores under everything at once: cut lines, restarts, one of them restored from an old copy.

Whatever happens, a position of a lane leaves each end at most once, and where it leaves both ends it leaves
them for the same context and with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from orchestrator.keystore.agreement import deposit_block, reserve
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.lanes import Lane, PairEnd, Range
from orchestrator.keystore.meeting import Reconciled
from orchestrator.keystore.reconcile import reconcile_pending
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import ChannelBrokenError, ChannelError
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

T = TypeVar("T")
KEK = Kek(b"k" * 32)
NAMES = ("alice", "bob")
TIMEOUT_S = 20.0


class Cut:
    """A line that breaks when this end sends its message number ``at``; it may or may not arrive."""

    def __init__(self, channel: MemoryChannel, at: int, arrives: bool) -> None:
        self._channel, self._left, self._arrives = channel, at, arrives

    def send(self, payload: bytes) -> None:
        self._left -= 1
        if self._left >= 0 or (self._left == -1 and self._arrives):
            self._channel.send(payload)
        if self._left < 0:
            self._channel.close()
            raise ChannelBrokenError("cut")

    def recv(self, timeout_s: float) -> bytes:
        return self._channel.recv(timeout_s)


class Life:
    """The history of a pair, and what left it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._folder = folder
        self._copies = 0
        self._serial = 0
        self.paths = {name: folder / f"{name}.db" for name in NAMES}
        self.stores = {name: KeyStore.create(self.paths[name], name, KEK) for name in NAMES}
        ab, ba = self.rng.bytes(8192), self.rng.bytes(8192)
        for name, peer, pair_end in (("alice", "bob", "first"), ("bob", "alice", "second")):
            secrets = SecretBits.from_bytes(ab), SecretBits.from_bytes(ba)
            self.stores[name].install_initial_secret(
                peer, *secrets, pair_end="first" if pair_end == "first" else "second"
            )
        self.left: dict[str, dict[int, tuple[bytes, bool]]] = {name: {} for name in NAMES}
        self.rollbacks = 0
        self.new_session = True
        """Whether an end was started since the two last settled: only then are heads compared and adopted."""

    def talk(
        self, talk: Callable[[KeyStore, MemoryChannel | Cut, PairEnd, str], T], cut: bool
    ) -> dict[str, T | Exception]:
        ends = dict(zip(NAMES, memory_channel_pair(), strict=True))
        victim = NAMES[self.rng.integers(2)] if cut else None
        at, arrives = int(self.rng.integers(0, 3)), bool(self.rng.integers(2))

        def run(name: str, pair_end: PairEnd, peer: str) -> T | Exception:
            channel: MemoryChannel | Cut = ends[name]
            if name == victim:
                channel = Cut(ends[name], at, arrives)
            try:
                return talk(self.stores[name], channel, pair_end, peer)
            except (KeyStoreError, ChannelError) as error:
                return error
            finally:
                ends[name].close()

        with ThreadPoolExecutor(2) as pool:
            alice = pool.submit(run, "alice", "first", "bob")
            bob = pool.submit(run, "bob", "second", "alice")
            return {"alice": alice.result(), "bob": bob.result()}

    def deposit(self, cut: bool) -> None:
        self._serial += 1
        name, key = f"block{self._serial}", self.rng.bytes(int(self.rng.integers(2000, 9000)))
        other = key[::-1] if self.rng.random() < 0.1 else key
        self.talk(
            lambda store, channel, pair_end, peer: deposit_block(
                store,
                channel,
                pair_end,
                peer,
                name,
                SecretBits.from_bytes(key if pair_end == "first" else other),
                b"",
                TIMEOUT_S,
            ),
            cut,
        )

    def use(self, cut: bool) -> None:
        self._serial += 1
        context, size = self._serial.to_bytes(32, "big"), int(self.rng.integers(1, 6000))
        ranges = self.talk(
            lambda store, channel, pair_end, peer: reserve(
                store, channel, pair_end, peer, "mask", size, context, TIMEOUT_S
            ),
            cut,
        )
        agreed = {taken for taken in ranges.values() if isinstance(taken, Range)}
        assert len(agreed) <= 1, f"one context, two ranges: {agreed}"
        for name, peer in (NAMES, NAMES[::-1]):
            taken = ranges[name]
            if isinstance(taken, Range) and self.rng.random() < 0.9:
                bits = self.stores[name].release(peer, "mask", taken, context)
                self.note(name, taken, context, bits)

    def note(self, name: str, taken: Range, context: bytes, bits: SecretBits) -> None:
        values = np.unpackbits(bits.reveal(), count=len(bits), bitorder="little")
        other = self.left["bob" if name == "alice" else "alice"]
        for position, value in zip(range(taken.start, taken.end), values.tolist(), strict=True):
            assert position not in self.left[name], f"{name} released {position} twice"
            self.left[name][position] = (context, bool(value))
            if position in other:
                assert other[position] == (context, bool(value)), "one position, two purposes"

    def restart(self, name: str) -> None:
        if self.rng.random() < 0.5:
            self.stores[name].close()
        else:  # killed: nothing is said goodbye to
            self.stores[name]._core.db._db.close()
        self.stores[name] = KeyStore.open(self.paths[name], name, KEK)
        self.new_session = True

    def copy(self, name: str) -> Path:
        self._copies += 1
        copy = self._folder / f"{name}-{self._copies}.db"
        for suffix in ("", "-wal"):
            source = Path(f"{self.paths[name]}{suffix}")
            if source.exists():
                Path(f"{copy}{suffix}").write_bytes(source.read_bytes())
        return copy

    def restore(self, name: str, copy: Path) -> None:
        self.stores[name].close()
        self.paths[name] = copy
        self.stores[name] = KeyStore.open(copy, name, KEK)
        self.new_session = True

    def meet(self, cut: bool) -> bool:
        outcomes = self.talk(
            lambda store, channel, pair_end, peer: reconcile_pending(
                store, channel, pair_end, peer, TIMEOUT_S
            ),
            cut,
        )
        self.rollbacks += any(isinstance(o, Reconciled) and o.rolled_back for o in outcomes.values())
        return all(isinstance(outcome, Reconciled) for outcome in outcomes.values())

    def meet_until_settled(self, cut_probability: float) -> None:
        for _ in range(20):
            if self.meet(cut=self.rng.random() < cut_probability):
                return
        raise AssertionError("the two never settle")

    def settled(self) -> None:
        """What holds once the two have settled; their heads are the same where a session began.

        Within a session a use that was cut leaves one end ahead until the next use or the next session; that the
        ranges of later uses are the same at both ends is what :meth:`use` sees to.
        """
        alice, bob = self.stores["alice"], self.stores["bob"]
        if self.new_session:
            assert alice.lane_states("bob") == bob.lane_states("alice")
            assert alice.stock("bob")[Lane.MASK] == bob.stock("alice")[Lane.MASK]
        self.new_session = False
        assert alice.pending_deposits() == bob.pending_deposits() == []
        for name, store in self.stores.items():
            assert store.ledger("bob" if name == "alice" else "alice").balanced
            store._core.check_books()


def live(folder: Path, seed: int, episodes: int) -> Life:
    """Episodes of work between meetings; each may end with a cut, a restart or a restored copy."""
    life = Life(folder, seed)
    for _ in range(episodes):
        life.meet_until_settled(cut_probability=0.2)
        life.settled()
        copy = None
        for _ in range(int(life.rng.integers(1, 5))):
            if life.rng.random() < 0.1:
                name = NAMES[life.rng.integers(2)]
                copy = name, life.copy(name)
            step = life.deposit if life.rng.random() < 0.4 else life.use
            step(life.rng.random() < 0.3)
        if copy is not None:
            life.restore(*copy)
        elif life.rng.random() < 0.4:
            life.restart(NAMES[life.rng.integers(2)])
    life.restart("alice")
    life.meet_until_settled(cut_probability=0.0)
    life.settled()
    for store in life.stores.values():
        store.close()
    return life


@pytest.mark.parametrize("seed", range(3))
def test_no_position_serves_two_purposes(tmp_path: Path, seed: int) -> None:
    life = live(tmp_path, seed, episodes=10)
    assert len(life.left["alice"]) > 10_000
    assert life.rollbacks > 0


@pytest.mark.parametrize("fault", ["raise_heads", "burn_deposit"])
def test_the_test_finds_planted_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(KeyStore, fault, lambda *_: 0)
    with pytest.raises(AssertionError):
        live(tmp_path, seed=1, episodes=10)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(100, 140))
def test_no_position_serves_two_purposes_in_long_lives(tmp_path: Path, seed: int) -> None:
    assert live(tmp_path, seed, episodes=25).left["bob"]
