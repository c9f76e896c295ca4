"""Two nodes' workers over an in-process switchboard and two real key stores."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.keystore.agreement import deposit_block, reserve
from orchestrator.keystore.lanes import AUTH_STOP_BITS, Lane, Role, outgoing_auth
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.postprocessing.block import BlockAborted
from orchestrator.processes.pair_worker import JobExpiredError, PairWorker
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelBrokenError, MemoryChannel, memory_channel_pair

PATIENCE_S = 20.0
BLOCK_BITS = 1 << 16


class Switchboard:
    """Channels by topic between two agents; tells an end about topics that it has not opened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pairs: dict[str, tuple[MemoryChannel, MemoryChannel]] = {}
        self._opened: set[tuple[int, str]] = set()
        self.workers: list[PairWorker] = []
        self.lines = 0

    def open(self, side: int, topic: str) -> MemoryChannel:
        with self._lock:
            pair = self._pairs.setdefault(topic, memory_channel_pair())
            self._opened.add((side, topic))
            fresh = (1 - side, topic) not in self._opened
        if fresh and topic.count("/") == 1 and side == 0:
            self.lines += 1
            self.workers[1].offered(topic)
        return pair[side]

    def close(self, side: int, topic: str) -> None:
        with self._lock:
            pair = self._pairs.get(topic)
        if pair is not None:
            pair[side].close()


class FakeAgent:
    def __init__(self, switchboard: Switchboard, side: int, peer: str) -> None:
        self._switchboard, self._side = switchboard, side
        self.peers = frozenset({peer})

    def channel(self, peer: str, topic: str) -> Channel:
        return self._switchboard.open(self._side, topic)

    def close_channel(self, peer: str, topic: str) -> None:
        self._switchboard.close(self._side, topic)


class Pair:
    """Alice (first) and bob (second)."""

    def __init__(self, folder: Path) -> None:
        shared = [os.urandom(8192), os.urandom(8192)]
        self.stores: list[KeyStore] = []
        names: list[tuple[str, str, Role]] = [("alice", "bob", "first"), ("bob", "alice", "second")]
        for name, peer, role in names:
            store = KeyStore.create(folder / f"{name}.sqlite", name, Kek(bytes(32)))
            secrets = [SecretBits.from_bytes(data) for data in shared]
            store.install_initial_secret(peer, *secrets, role=role)
            self.stores.append(store)
        self.board = Switchboard()
        for side, (_, peer, _) in enumerate(names):
            agent = FakeAgent(self.board, side, peer)
            worker = PairWorker(agent, self.stores[side], peer)  # type: ignore[arg-type]
            self.board.workers.append(worker)
        for worker in self.board.workers:
            worker.start()

    def both(self, name: str, *conversations: object) -> list[Future[object]]:
        return [
            worker.submit(name, conversation, PATIENCE_S)  # type: ignore[arg-type]
            for worker, conversation in zip(self.board.workers, conversations, strict=True)
        ]

    def close(self) -> None:
        for worker in self.board.workers:
            worker.close()
        for store in self.stores:
            store.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def deposit(pair: Pair, name: str, data: bytes) -> list[Future[object]]:
    def conversation(side: int) -> object:
        store, peer = pair.stores[side], ("bob", "alice")[side]

        def run(channel: Channel, role: Role) -> object:
            return deposit_block(store, channel, role, peer, name, SecretBits.from_bytes(data))

        return run

    return pair.both(name, conversation(0), conversation(1))


def reservation(pair: Pair, side: int, context: bytes) -> object:
    store, peer = pair.stores[side], ("bob", "alice")[side]

    def run(channel: Channel, role: Role) -> object:
        return reserve(store, channel, role, peer, Lane.MASK, 800, context)

    return run


def results(futures: list[Future[object]]) -> list[object]:
    return [future.result(timeout=PATIENCE_S) for future in futures]


def test_blocks_and_reservations_submitted_at_once_all_succeed_in_one_order(pair: Pair) -> None:
    rng = np.random.default_rng(1)
    results(deposit(pair, "block/1/0", rng.bytes(BLOCK_BITS // 8)))
    waiting = [deposit(pair, f"block/1/{k}", rng.bytes(BLOCK_BITS // 8)) for k in range(1, 4)]
    contexts = [bytes([k]) * 32 for k in range(6)]
    for context in contexts:
        name = f"reserve/{context.hex()}"
        waiting.append(pair.both(name, reservation(pair, 0, context), reservation(pair, 1, context)))
    for futures in waiting:
        first, second = results(futures)
        assert first == second
    ledgers = [store.ledger(peer) for store, peer in zip(pair.stores, ("bob", "alice"), strict=True)]
    assert ledgers[0] == ledgers[1]
    assert pair.board.lines == 1


def test_a_failed_job_is_reported_on_both_sides_and_the_two_meet_again(pair: Pair) -> None:
    def gives_up(channel: Channel, role: Role) -> object:
        raise BlockAborted("planted")

    def waits(channel: Channel, role: Role) -> object:
        return channel.recv(PATIENCE_S)

    failing, waiting = pair.both("block/1/1", gives_up, waits)
    with pytest.raises(BlockAborted):
        failing.result(timeout=PATIENCE_S)
    with pytest.raises(ChannelBrokenError):
        waiting.result(timeout=PATIENCE_S)
    first, second = results(deposit(pair, "block/1/2", bytes(BLOCK_BITS // 8)))
    assert first == second
    assert pair.board.lines >= 2


def test_a_job_that_only_one_side_has_expires_and_blocks_nothing(pair: Pair) -> None:
    lonely = pair.board.workers[0].submit("block/9/9", lambda channel, role: None, 0.2)
    assert results(deposit(pair, "block/1/1", bytes(BLOCK_BITS // 8)))
    with pytest.raises(JobExpiredError, match="bob was not ready"):
        lonely.result(timeout=PATIENCE_S)


def test_a_name_waits_once(pair: Pair) -> None:
    pair.board.workers[0].submit("block/9/9", lambda channel, role: None, PATIENCE_S)
    with pytest.raises(ValueError, match="already"):
        pair.board.workers[0].submit("block/9/9", lambda channel, role: None, PATIENCE_S)


def test_closing_fails_what_waits(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    lonely = pair.board.workers[0].submit("block/9/9", lambda channel, role: None, PATIENCE_S)
    pair.close()
    with pytest.raises(JobExpiredError, match="stopping"):
        lonely.result(timeout=PATIENCE_S)


def test_a_job_that_comes_back_at_once_does_not_starve_an_older_one(pair: Pair) -> None:
    """A client short of key asks again and again; the block that would end its need must get its turn."""
    attempts: list[int] = []

    def ask_again(side: int) -> None:
        worker = pair.board.workers[side]
        if len(attempts) < 2000 and not block[side].done():
            attempts.append(side)
            future = worker.submit("reserve/00", lambda channel, role: None, PATIENCE_S)
            future.add_done_callback(lambda _: ask_again(side))

    block: list[Future[object]] = []
    gate = threading.Event()
    busy = pair.both("block/0/0", *[lambda channel, role: gate.wait(PATIENCE_S)] * 2)
    block += pair.both("reserve/zz", *[lambda channel, role: None] * 2)
    for side in (0, 1):
        ask_again(side)
    gate.set()
    results(busy)
    results(block)
    assert len(attempts) < 100


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_new_secret_is_begun_on_running_nodes_under_load_in_either_order(
    pair: Pair, order: tuple[int, int]
) -> None:
    """Blocks are deposited all the while; none of them fails, and none waits for the second half to come."""
    secret, peers = PairSecret.draw("alice", "bob"), ("bob", "alice")
    stop, done = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            first, second = results(deposit(pair, f"block/3/{len(done)}", bytes(BLOCK_BITS // 8)))
            assert first == second
            done.append(pair.stores[0].generation("bob"))

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        for side in order:
            seen = len(done)
            wait_until(lambda seen=seen: len(done) > seen + 2)
            assert set(done) == {0}
            pair.stores[side].generations.keep(peers[side], secret.auth_ab, secret.auth_ba)
            pair.board.workers[side].meet_again()
        wait_until(lambda: done[-1] == 1)
        seen = len(done)
        wait_until(lambda: len(done) > seen + 2)
        stop.set()
        loading.result()
    assert [store.generation(peer) for store, peer in zip(pair.stores, peers, strict=True)] == [1, 1]
    ledgers = [store.ledger(peer) for store, peer in zip(pair.stores, peers, strict=True)]
    assert ledgers[0] == ledgers[1]
    assert all(store.ledger(peer).balanced for store, peer in zip(pair.stores, peers, strict=True))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_drained_pair_that_waits_for_an_operator_begins_with_a_new_secret(
    pair: Pair, order: tuple[int, int]
) -> None:
    """No lane bit is left for a meeting, and none is needed."""
    peers = ("bob", "alice")
    results(deposit(pair, "block/4/0", bytes(BLOCK_BITS // 8)))
    for store, peer in zip(pair.stores, peers, strict=True):
        lane = outgoing_auth(store.role(peer))
        store.auth(peer).take_outgoing(store.stock(peer)[lane] - AUTH_STOP_BITS)
    pair.board.workers[0].meet_again()
    wait_until(lambda: all(worker.hold is not None for worker in pair.board.workers))
    secret = PairSecret.draw("alice", "bob")
    for side in order:
        pair.stores[side].generations.keep(peers[side], secret.auth_ab, secret.auth_ba)
        pair.board.workers[side].meet_again()
    wait_until(lambda: [s.generation(p) for s, p in zip(pair.stores, peers, strict=True)] == [1, 1])
    first, second = results(deposit(pair, "block/4/1", bytes(BLOCK_BITS // 8)))
    assert first == second
    assert all(worker.hold is None for worker in pair.board.workers)
