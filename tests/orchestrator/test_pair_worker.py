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

from lab.alarms.book import AlarmBook
from lab.alarms.table import TABLE
from orchestrator.keystore.agreement import deposit_block, reserve
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.lanes import AUTH_STOP_BITS, LOW_WATER_BITS, Lane, PairEnd, Range, outgoing_auth
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.processes.alarm_sources import OldCopies
from orchestrator.processes.pair_worker import (
    LONGEST_WAIT_S,
    POLL_S,
    BackOff,
    JobExpiredError,
    LowWater,
    PairWorker,
)
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelBrokenError, ChannelError
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

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
        names: list[tuple[str, str, PairEnd]] = [("alice", "bob", "first"), ("bob", "alice", "second")]
        for name, peer, pair_end in names:
            store = KeyStore.create(folder / f"{name}.sqlite", name, Kek(bytes(32)))
            secrets = [SecretBits.from_bytes(data) for data in shared]
            store.install_initial_secret(peer, *secrets, pair_end=pair_end)
            self.stores.append(store)
        self._begin()

    def _begin(self) -> None:
        self.board = Switchboard()
        for side, peer in enumerate(("bob", "alice")):
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

    def restarted(self, folder: Path) -> None:
        """Both are started again with what lies in ``folder``."""
        self.stores = [
            KeyStore.open(folder / f"{name}.sqlite", name, Kek(bytes(32))) for name in ("alice", "bob")
        ]
        self._begin()

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

        def run(channel: Channel, pair_end: PairEnd) -> object:
            return deposit_block(store, channel, pair_end, peer, name, SecretBits.from_bytes(data))

        return run

    return pair.both(name, conversation(0), conversation(1))


def reservation(pair: Pair, side: int, context: bytes) -> object:
    store, peer = pair.stores[side], ("bob", "alice")[side]

    def run(channel: Channel, pair_end: PairEnd) -> object:
        return reserve(store, channel, pair_end, peer, Lane.MASK, 800, context)

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


@pytest.mark.parametrize("old", ["alice", "bob"])
def test_both_ends_say_whose_store_was_put_back_from_an_old_copy(tmp_path: Path, old: str) -> None:
    pair = Pair(tmp_path)
    results(deposit(pair, "block/1/1", bytes(BLOCK_BITS // 8)))
    assert [worker.old_copy for worker in pair.board.workers] == ["", ""]
    pair.close()
    copy = (tmp_path / f"{old}.sqlite").read_bytes()
    pair.restarted(tmp_path)
    for k in range(2):
        name, context = f"reserve/{k}", bytes([k]) * 32
        results(pair.both(name, reservation(pair, 0, context), reservation(pair, 1, context)))
    pair.close()
    (tmp_path / f"{old}.sqlite").write_bytes(copy)
    pair.restarted(tmp_path)
    try:
        results(pair.both("reserve/9", reservation(pair, 0, b"9" * 32), reservation(pair, 1, b"9" * 32)))
        told = [worker.old_copy for worker in pair.board.workers]
        assert told == (["self", "peer"] if old == "alice" else ["peer", "self"])
        workers = dict(zip(("bob", "alice"), pair.board.workers, strict=True))
        (observed,) = OldCopies("alice", {"bob": workers["bob"]})()
        (alarm,) = AlarmBook("alice", TABLE).observe([observed], 0.0)
        assert (alarm.name, alarm.peer, alarm.severity) == ("old-copy", "bob", "major")
        assert alarm.text.startswith(f"{old} knew less")
    finally:
        pair.close()


def test_a_failed_job_is_reported_on_both_sides_and_the_two_meet_again(pair: Pair) -> None:
    def gives_up(channel: Channel, pair_end: PairEnd) -> object:
        raise BlockAborted("planted")

    def waits(channel: Channel, pair_end: PairEnd) -> object:
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
    lonely = pair.board.workers[0].submit("block/9/9", lambda channel, pair_end: None, 0.2)
    assert results(deposit(pair, "block/1/1", bytes(BLOCK_BITS // 8)))
    with pytest.raises(JobExpiredError, match="bob was not ready"):
        lonely.result(timeout=PATIENCE_S)


def test_a_name_waits_once(pair: Pair) -> None:
    pair.board.workers[0].submit("block/9/9", lambda channel, pair_end: None, PATIENCE_S)
    with pytest.raises(ValueError, match="already"):
        pair.board.workers[0].submit("block/9/9", lambda channel, pair_end: None, PATIENCE_S)


def test_closing_fails_what_waits(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    lonely = pair.board.workers[0].submit("block/9/9", lambda channel, pair_end: None, PATIENCE_S)
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
            future = worker.submit("reserve/00", lambda channel, pair_end: None, PATIENCE_S)
            future.add_done_callback(lambda _: ask_again(side))

    block: list[Future[object]] = []
    gate = threading.Event()
    busy = pair.both("block/0/0", *[lambda channel, pair_end: gate.wait(PATIENCE_S)] * 2)
    block += pair.both("reserve/zz", *[lambda channel, pair_end: None] * 2)
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
        lane = outgoing_auth(store.pair_end(peer))
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


# -- bad lines -----------------------------------------------------------------------------------------


class Meddled:
    """An end of a channel whose messages pass through ``meddle``."""

    def __init__(self, channel: MemoryChannel, meddle: Callable[[bytes], list[bytes]]) -> None:
        self._channel, self._meddle = channel, meddle

    def send(self, payload: bytes) -> None:
        for arrives in self._meddle(payload):
            self._channel.send(arrives)

    def recv(self, timeout_s: float) -> bytes:
        return self._channel.recv(timeout_s)

    def close(self) -> None:
        self._channel.close()


def meddling(patch: pytest.MonkeyPatch, meddle: Callable[[bytes], list[bytes]]) -> None:
    """Every channel opened from here on passes through ``meddle``."""
    honest = Switchboard.open
    patch.setattr(Switchboard, "open", lambda self, side, topic: Meddled(honest(self, side, topic), meddle))


def flipped(payload: bytes) -> bytes:
    return payload[:-1] + bytes([payload[-1] ^ 1])


def repeatable(pair: Pair, context: bytes) -> list[Future[object]]:
    """A reservation as a node submits it."""

    def conversation(side: int, again: bool) -> Callable[[Channel, PairEnd], object]:
        store, peer = pair.stores[side], ("bob", "alice")[side]
        return lambda channel, pair_end: reserve(
            store, channel, pair_end, peer, Lane.MASK, 800, context, 5.0, again=again
        )

    return [
        worker.submit(
            f"reserve/{context.hex()}", conversation(side, False), PATIENCE_S, conversation(side, True)
        )
        for side, worker in enumerate(pair.board.workers)
    ]


def test_ends_that_were_shown_different_ends_of_a_meeting_meet_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub withholds alice's last words and then bob's hanging up: alice believes in a line that bob has left."""
    monkeypatch.setattr("orchestrator.processes.pair_worker.MEETING_TIMEOUT_S", 0.3)
    monkeypatch.setattr("orchestrator.processes.pair_worker.SILENT_S", 0.5)
    evil, honest_open, honest_close = threading.Event(), Switchboard.open, Switchboard.close
    evil.set()

    def opened(board: Switchboard, side: int, topic: str) -> object:
        channel = honest_open(board, side, topic)
        return Meddled(
            channel, lambda said: [] if evil.is_set() and b"Settled" in said and side == 0 else [said]
        )

    def closed(board: Switchboard, side: int, topic: str) -> None:
        if side == 0 or not evil.is_set():
            honest_close(board, side, topic)

    monkeypatch.setattr(Switchboard, "open", opened)
    monkeypatch.setattr(Switchboard, "close", closed)
    pair = Pair(tmp_path)
    wait_until(lambda: pair.board.workers[1].failures == 1)
    evil.clear()
    assert pair.board.workers[0].failures == 0
    first, second = [
        future.result(timeout=8) for future in deposit(pair, "block/1/0", bytes(BLOCK_BITS // 8))
    ]
    assert first == second
    pair.close()


@pytest.mark.parametrize("message", [b"Offer", b"Accept"])
def test_a_reservation_whose_message_was_garbled_is_agreed_on_all_the_same(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, message: bytes
) -> None:
    """Neither application asks twice; where bob was done already he answers again, though his pads are gone."""
    results(deposit(pair, "block/5/0", bytes(BLOCK_BITS // 8)))
    head = pair.stores[0].lane_states("bob")[Lane.MASK].head
    bad = [3]

    def meddle(payload: bytes) -> list[bytes]:
        if message in payload and bad[0]:
            bad[0] -= 1
            return [flipped(payload)]
        return [payload]

    meddling(monkeypatch, meddle)
    spent = [store.ledger(p).authentication for store, p in zip(pair.stores, ("bob", "alice"), strict=True)]
    futures = repeatable(pair, b"g" * 32)
    if message == b"Accept":
        taken = futures[1].result(timeout=PATIENCE_S)
        pair.stores[1].release("alice", "mask", taken, b"g" * 32)  # type: ignore[arg-type]
    first, second = results(futures)
    assert first == second
    assert (first.start, first.n_bits) == (head, 800)  # type: ignore[attr-defined]
    assert bad == [0]
    for store, peer, before in zip(pair.stores, ("bob", "alice"), spent, strict=True):
        assert store.ledger(peer).authentication == before + 512
        assert store.ledger(peer).burnt == 0


def test_lines_are_opened_ever_more_slowly_until_a_job_is_done(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    results(deposit(pair, "block/6/0", bytes(BLOCK_BITS // 8)))
    first = pair.board.workers[0]
    monkeypatch.setattr(first, "_pause", lambda wait_s: (waits.append(wait_s), first._stop.wait(0.01)))
    with monkeypatch.context() as evil:
        meddling(evil, lambda payload: [flipped(payload) if b"Signed" in payload else payload])
        first.meet_again()
        wait_until(lambda: len([wait for wait in waits if wait > POLL_S]) > 6)
    backed_off = [wait for wait in waits if wait > POLL_S]
    assert backed_off[:6] == [0.25, 0.5, 1.0, 2.0, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert first.failures >= 6
    assert first.rejected["wrong MAC"] + pair.board.workers[1].rejected.get("wrong MAC", 0) >= 6
    results(deposit(pair, "block/6/1", bytes(BLOCK_BITS // 8)))
    assert first.failures == 0
    assert first._back_off == BackOff()


def test_a_low_lane_waits_for_an_operator_who_lets_it_go_on(pair: Pair) -> None:
    results(deposit(pair, "block/7/0", bytes(BLOCK_BITS // 8)))
    store, worker = pair.stores[0], pair.board.workers[0]
    store.auth("bob").take_outgoing(store.stock("bob")[Lane.AUTH_AB] - LOW_WATER_BITS + 1)
    worker.meet_again()
    wait_until(lambda: worker.hold is not None)
    assert worker.hold == LowWater("bob", "auth_ab", LOW_WATER_BITS - 1)
    assert "meetings wait" in str(worker.hold)
    waiting = deposit(pair, "block/7/1", bytes(BLOCK_BITS // 8))
    lines = pair.board.lines
    time.sleep(0.2)
    assert not waiting[0].done()
    assert pair.board.lines == lines
    worker.go_on()
    first, second = results(waiting)
    assert first == second
    assert worker.hold is None


KINDS: dict[str, Callable[[int, bytes], list[bytes]]] = {
    "flips tagged": lambda n, p: [flipped(p) if b"Tagged" in p else p],
    "flips all": lambda n, p: [flipped(p)],
    "loses every third": lambda n, p: [] if n % 3 == 0 else [p],
    "loses tagged": lambda n, p: [] if b"Tagged" in p else [p],
    "doubles": lambda n, p: [p, p],
    "cuts": lambda n, p: [p[: n % len(p)]],
    "delays": lambda n, p: (time.sleep(0.3), [p])[1],
}


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_the_pair_works_within_ten_seconds_of_the_hubs_honesty(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """In real time: half a minute of wickedness, blocks and reservations waiting all the while."""
    results(deposit(pair, "block/8/0", bytes(BLOCK_BITS // 8)))
    peers, count = ("bob", "alice"), [0]

    def meddle(payload: bytes) -> list[bytes]:
        count[0] += 1
        return KINDS[kind](count[0], payload)

    def spent() -> int:
        return sum(
            store.lane_states(peer)[outgoing_auth(store.pair_end(peer))].head
            for store, peer in zip(pair.stores, peers, strict=True)
        )

    before = spent()
    with monkeypatch.context() as evil:
        meddling(evil, meddle)
        pair.board.workers[0].meet_again()
        futures = repeatable(pair, b"h" * 32)
        time.sleep(30)
        assert spent() - before <= 1024
    began = time.monotonic()
    outcomes = []
    for future in (*futures, *repeatable(pair, b"i" * 32)):
        try:
            outcomes.append(future.result(timeout=10))
        except (JobExpiredError, ChannelError, KeyStoreError) as error:
            outcomes.append(error)
    assert outcomes[2] == outcomes[3]
    assert isinstance(outcomes[2], Range)
    assert time.monotonic() - began < 10
