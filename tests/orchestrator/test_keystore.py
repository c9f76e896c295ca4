"""The key store of one node: its invariants, by name, and the rules of its file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.keystore.database import (
    NETWORK_FILE_SYSTEMS,
    SCHEMA_VERSION,
    SETTINGS,
    Database,
    file_system_type,
)
from orchestrator.keystore.errors import (
    AlreadyReleasedError,
    AuthLaneExhaustedError,
    DepositError,
    LaneShortError,
    LedgerError,
    RefusedError,
    ReplayError,
    ReservationError,
    StoreBusyError,
    StoreError,
    StoreSettingsError,
)
from orchestrator.keystore.lanes import AUTH_ALARM_BITS, AUTH_STOP_BITS, Lane, Range
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits

KEK = Kek(b"k" * 32)
AUTH_AB, AUTH_BA = np.random.default_rng(1).bytes(8192), np.random.default_rng(2).bytes(8192)
KEY = np.random.default_rng(3).bytes(50_000)
MASK_START = 2 * 12_496
"""The mask share of KEY begins here: two authentication shares of 400 000 * 32/1024 bits, whole bytes."""


def context(n: int) -> bytes:
    return n.to_bytes(32, "big")


def secret(data: bytes) -> SecretBits:
    return SecretBits.from_bytes(data)


def key_bits(start: int, n_bits: int) -> SecretBits:
    return secret(KEY).take(MASK_START + start, n_bits)


Open = Callable[[], KeyStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


@pytest.fixture
def store(path: Path) -> Iterator[KeyStore]:
    """Alice's store, first of the pair with bob, one confirmed block of KEY."""
    store = make_store(path)
    store.deposit_pending("bob", "b1", secret(KEY), b"block 1")
    store.confirm_deposit("bob", "b1")
    yield store
    store.close()


def make_store(path: Path, pair_end: str = "first") -> KeyStore:
    store = KeyStore.create(path, "alice", KEK, random_bytes=np.random.default_rng(5).bytes)
    store.install_initial_secret(
        "bob", secret(AUTH_AB), secret(AUTH_BA), pair_end="first" if pair_end == "first" else "second"
    )
    return store


def reserve(store: KeyStore, n_bits: int, n: int, peer: str = "bob") -> Range:
    wanted = store.propose_reservation(peer, "mask", n_bits, context(n))
    store.commit_reservation(peer, "mask", wanted, context(n))
    return wanted


def reopen(store: KeyStore) -> KeyStore:
    path = store._core.db.path
    store.close()
    return KeyStore.open(path, "alice", KEK)


def free_bits(store: KeyStore) -> int:
    return store.stock("bob")[Lane.MASK]


# -- invariants ----------------------------------------------------------------------------------------


def test_i1_heads_only_grow_and_are_durable_before_bits_leave(store: KeyStore, path: Path) -> None:
    """At the moment a call returns bits, a copy of the files already has the head behind them."""
    copy = path.with_name("copy.db")
    wanted = reserve(store, 1000, 1)
    store.release("bob", "mask", wanted, context(1))
    offset, _ = store.auth("bob").take_outgoing(256)
    for suffix in ("", "-wal"):
        source = Path(str(path) + suffix)
        Path(str(copy) + suffix).write_bytes(source.read_bytes())
    with KeyStore.open(copy, "alice", KEK) as image:
        states = image.lane_states("bob")
        assert states[Lane.MASK].head == wanted.end
        assert states[Lane.AUTH_AB].head == offset + 256
        with pytest.raises(AlreadyReleasedError):
            image.release("bob", "mask", wanted, context(1))
        assert image.auth("bob").take_outgoing(256)[0] == offset + 256
    with pytest.raises(RefusedError, match="only grows"), store._core.transaction():
        store._core.set_head("bob", Lane.MASK, wanted.end - 1)
    assert store.raise_heads("bob", {Lane.MASK: 5}) == 0
    assert store.lane_states("bob")[Lane.MASK].head == wanted.end


def test_i2_a_bit_is_released_once(store: KeyStore) -> None:
    first, second = reserve(store, 1001, 1), reserve(store, 999, 2)
    assert first.end == second.start
    assert store.release("bob", "mask", first, context(1)).same_as(key_bits(0, 1001))
    assert store.release("bob", "mask", second, context(2)).same_as(key_bits(1001, 999))
    for wanted, n in ((first, 1), (second, 2)):
        with pytest.raises(AlreadyReleasedError):
            store.release("bob", "mask", wanted, context(n))
    store = reopen(store)
    with pytest.raises(AlreadyReleasedError):
        store.release("bob", "mask", first, context(1))
    with pytest.raises(AlreadyReleasedError):
        store.propose_reservation("bob", "mask", 1001, context(1))
    store.close()


def test_i2_holds_between_threads(store: KeyStore) -> None:
    wanted = reserve(store, 1000, 1)
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def attempt() -> None:
        barrier.wait()
        try:
            store.release("bob", "mask", wanted, context(1))
            outcomes.append("released")
        except AlreadyReleasedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["released"]


def test_i3_a_range_is_released_only_for_its_context(store: KeyStore) -> None:
    wanted = reserve(store, 1000, 1)
    with pytest.raises(ReservationError):
        store.release("bob", "mask", wanted, context(2))
    with pytest.raises(ReservationError):
        store.release("bob", "mask", Range(wanted.start, 999), context(1))
    with pytest.raises(ReservationError, match="already, with 1000 bits"):
        store.propose_reservation("bob", "mask", 999, context(1))
    proposed = store.propose_reservation("bob", "mask", 1000, context(3))
    with pytest.raises(ReservationError, match="proposed, not committed"):
        store.release("bob", "mask", proposed, context(3))


def test_i5_a_context_keeps_its_range_however_often_it_asks(store: KeyStore) -> None:
    first = store.propose_reservation("bob", "mask", 1000, context(1))
    store.propose_reservation("bob", "mask", 10, context(2))
    free = free_bits(store)
    assert store.propose_reservation("bob", "mask", 1000, context(1)) == first
    store.commit_reservation("bob", "mask", first, context(1))
    assert store.propose_reservation("bob", "mask", 1000, context(1)) == first
    assert store.check_reservation("bob", "mask", 1000, context(1)) == first
    assert free_bits(store) == free
    store.release("bob", "mask", first, context(1))
    with pytest.raises(AlreadyReleasedError):
        store.propose_reservation("bob", "mask", 1000, context(1))
    assert store.held_reservation("bob", "mask", 1000, context(1)) == first
    assert store.held_reservation("bob", "mask", 999, context(1)) is None
    assert store.ledger("bob").burnt == 0


def test_i4_what_was_reserved_is_burnt_at_the_start(store: KeyStore) -> None:
    committed = reserve(store, 1000, 1)
    proposed = store.propose_reservation("bob", "mask", 500, context(2))
    released = reserve(store, 250, 3)
    store.release("bob", "mask", released, context(3))
    free = free_bits(store)
    store = reopen(store)
    assert store.ledger("bob").burnt == 1500
    assert free_bits(store) == free
    for wanted, n in ((committed, 1), (proposed, 2)):
        with pytest.raises(ReservationError, match="burnt"):
            store.release("bob", "mask", wanted, context(n))
    again = reserve(store, 1000, 1)
    assert again.start == released.end
    store.close()


def test_i5_a_retry_returns_the_stored_output(store: KeyStore) -> None:
    assert store.stored_output(context(1)) is None
    store.journal_output(context(1), b"masked")
    store.journal_output(context(1), b"masked")
    with pytest.raises(RefusedError, match="another output"):
        store.journal_output(context(1), b"other")
    store = reopen(store)
    assert store.stored_output(context(1)) == b"masked"
    store.close()


def test_i6_the_larger_head_wins(store: KeyStore) -> None:
    kept = reserve(store, 1000, 1)
    burnt = store.raise_heads("bob", {Lane.MASK: 5000, Lane.AUTH_AB: 0})
    assert burnt == 4000
    assert store.lane_states("bob")[Lane.MASK].head == 5000
    assert store.release("bob", "mask", kept, context(1)).same_as(key_bits(0, 1000))
    following = reserve(store, 100, 2)
    assert following.start == 5000
    assert store.release("bob", "mask", following, context(2)).same_as(key_bits(5000, 100))


def test_i8_applications_cannot_draw_on_the_authentication_lanes(store: KeyStore) -> None:
    for lane in ("auth_ab", "auth_ba"):
        with pytest.raises(RefusedError, match="I8"):
            store.propose_reservation("bob", lane, 8, context(1))
        with pytest.raises(RefusedError, match="I8"):
            store.commit_reservation("bob", "auth_ba", Range(0, 8), context(1))


def test_i8_alarm_and_hard_stop(path: Path) -> None:
    store = make_store(path)
    auth = store.auth("bob")
    auth.take_outgoing(65536 - 256 - AUTH_ALARM_BITS)
    assert store.auth_alarms() == ()
    auth.take_outgoing(1)
    assert store.auth_alarms() == ("bob",)
    auth.take_outgoing(AUTH_ALARM_BITS - 1 - AUTH_STOP_BITS)
    with pytest.raises(AuthLaneExhaustedError, match="seed the pair again"):
        auth.take_outgoing(1)
    before = store.ledger("bob")
    store.generations.begin("bob", store.generations.keep("bob", secret(AUTH_BA), secret(AUTH_AB)), 1)
    offset, bits = auth.take_outgoing(256)
    assert offset == 1 << 40
    assert bits.same_as(secret(AUTH_BA).take(0, 256))
    assert store.ledger("bob").burnt == before.burnt + AUTH_STOP_BITS + 65536 - 256
    reopen(store).close()


@pytest.mark.parametrize("far", [(1 << 62) - 1, 1 << 61, (1 << 40) + (1 << 30)])
def test_no_position_that_a_peer_names_moves_a_lane_out_of_reach(store: KeyStore, far: int) -> None:
    """Or no further secret could ever be begun with: generations lie 2^40 apart below 2^61."""
    before = store.lane_states("bob"), store.ledger("bob")
    for heads, tails in (({Lane.AUTH_BA: far}, {}), ({}, {Lane.MASK: far})):
        with pytest.raises(RefusedError, match="names position"):
            store.raise_heads("bob", heads, tails)
    store.deposit_pending("bob", "far", secret(KEY), b"")
    starts = dict.fromkeys(Lane, far)
    with pytest.raises(RefusedError, match="names position"):
        store.confirm_deposit("bob", "far", starts)
    store.burn_deposit("bob", "far")
    assert store.lane_states("bob") == before[0]
    assert store.ledger("bob").delivered == before[1].delivered
    assert store.generations.least("bob") == 1


def test_i9_the_books_balance_after_everything(store: KeyStore) -> None:
    store.deposit_pending("bob", "b2", secret(KEY[:999]), b"")
    store.burn_deposit("bob", "b2")
    store.deposit_pending("bob", "b3", secret(KEY[:777]), b"")
    store.release("bob", "mask", reserve(store, 1001, 1), context(1))
    reserve(store, 77, 2)
    store.auth("bob").take_outgoing(256)
    store.auth("bob").take_incoming(512, 256)
    ledger = store.ledger("bob")
    assert ledger.produced == 2 * (65536 - 256) + 8 * (50_000 + 999 + 777)
    assert (ledger.delivered, ledger.authentication, ledger.burnt) == (1001, 1024, 999 * 8)
    assert ledger.balanced
    store = reopen(store)
    assert store.ledger("bob").burnt == 999 * 8 + 77
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE lanes SET delivered = delivered + 1 WHERE lane = 'mask'",
        "DELETE FROM pieces WHERE lane = 'auth_ba'",
        "UPDATE pieces SET start = start - 8 WHERE lane = 'auth_ab'",
        "UPDATE pieces SET start = start + 8 WHERE lane = 'auth_ab'",
        "UPDATE pieces SET start = 0 WHERE lane = 'mask'",
        "UPDATE lanes SET head = head + 8 WHERE lane = 'mask'",
        "UPDATE lanes SET produced = -1, burnt = -1 WHERE lane = 'otp_ab'",
    ],
)
def test_i9_is_checked_at_opening(store: KeyStore, path: Path, damage: str) -> None:
    store.auth("bob").take_outgoing(256)
    store.release("bob", "mask", reserve(store, 1001, 1), context(1))
    store.close()
    with sqlite3.connect(path) as db:
        db.executescript(damage)
    db.close()
    with pytest.raises(LedgerError):
        KeyStore.open(path, "alice", KEK)


# -- reservations --------------------------------------------------------------------------------------


def test_the_other_end_follows_and_keeps_what_was_overtaken(path: Path) -> None:
    store = make_store(path, pair_end="second")
    store.deposit_pending("bob", "b1", secret(KEY), b"")
    store.confirm_deposit("bob", "b1")
    with pytest.raises(RefusedError, match="allocated by bob"):
        store.propose_reservation("bob", "mask", 100, context(1))
    wanted = Range(300, 1000)
    store.commit_reservation("bob", "mask", wanted, context(1))
    assert store.ledger("bob").burnt == 0
    store.commit_reservation("bob", "mask", wanted, context(1))
    assert store.release("bob", "mask", wanted, context(1)).same_as(key_bits(300, 1000))
    for used in (Range(1200, 200), Range(299, 2), Range(1000, 10)):
        with pytest.raises(ReplayError):
            store.commit_reservation("bob", "mask", used, context(2))
    with pytest.raises(ReservationError, match="not all stored"):
        store.commit_reservation("bob", "mask", Range(1300, 10**6), context(2))
    assert store.lane_states("bob")[Lane.MASK].head == 1300
    overtaken = Range(100, 50)
    store.commit_reservation("bob", "mask", overtaken, context(2))
    with pytest.raises(ReplayError):
        store.commit_reservation("bob", "mask", Range(120, 10), context(3))
    assert store.release("bob", "mask", overtaken, context(2)).same_as(key_bits(100, 50))
    store._core.check_books()
    store = reopen(store)
    assert store.ledger("bob").burnt == 250, "what still waited is burnt at the start (I4)"
    with pytest.raises(ReplayError):
        store.commit_reservation("bob", "mask", Range(0, 50), context(4))
    store.close()


def test_an_abandoned_context_gets_another_range_from_its_owner(path: Path) -> None:
    store = make_store(path, pair_end="second")
    store.deposit_pending("bob", "b1", secret(KEY), b"")
    store.confirm_deposit("bob", "b1")
    store.commit_reservation("bob", "mask", Range(0, 100), context(1))
    store.commit_reservation("bob", "mask", Range(100, 100), context(1))
    assert store.ledger("bob").burnt == 100
    store.release("bob", "mask", Range(100, 100), context(1))
    with pytest.raises(AlreadyReleasedError):
        store.commit_reservation("bob", "mask", Range(200, 100), context(1))
    store.close()


def test_too_few_bits_burn_nothing(store: KeyStore) -> None:
    free = free_bits(store)
    with pytest.raises(LaneShortError) as caught:
        store.propose_reservation("bob", "mask", free + 5, context(1))
    assert caught.value.missing_bits == 5
    assert free_bits(store) == free
    assert store.ledger("bob").burnt == 0


def test_a_burnt_reservation_may_be_repeated_for_its_context(store: KeyStore) -> None:
    wanted = store.propose_reservation("bob", "mask", 100, context(1))
    store.burn_reservation("bob", "mask", wanted, context(1))
    assert store.ledger("bob").burnt == 100
    with pytest.raises(ReservationError):
        store.release("bob", "mask", wanted, context(1))
    again = reserve(store, 100, 1)
    assert again.start == 100
    store.release("bob", "mask", again, context(1))
    with pytest.raises(AlreadyReleasedError):
        store.burn_reservation("bob", "mask", again, context(1))


@pytest.mark.parametrize(
    ("lane", "n_bits", "digest"), [("mask", 0, context(1)), ("mask", -8, context(1)), ("mask", 8, b"short")]
)
def test_senseless_reservations_are_refused(store: KeyStore, lane: str, n_bits: int, digest: bytes) -> None:
    with pytest.raises(RefusedError):
        store.propose_reservation("bob", lane, n_bits, digest)


# -- authentication bits -------------------------------------------------------------------------------


def test_tag_keys_come_in_order_and_never_twice(store: KeyStore) -> None:
    auth = store.auth("bob")
    assert auth.take_outgoing(256)[1].same_as(secret(AUTH_AB).take(0, 256))
    offset, bits = auth.take_outgoing(100)
    assert offset == 256
    assert bits.same_as(secret(AUTH_AB).take(256, 100))
    assert auth.peek_incoming(512, 256).same_as(secret(AUTH_BA).take(512, 256))
    assert store.ledger("bob").burnt == 0
    assert auth.take_incoming(512, 256).same_as(secret(AUTH_BA).take(512, 256))
    assert store.ledger("bob").authentication == 356 + 768
    for offset in (512, 767, 511):
        with pytest.raises(ReplayError):
            auth.take_incoming(offset, 256)
    overtaken = auth.take_incoming(100, 156)
    assert overtaken.same_as(secret(AUTH_BA).take(100, 156)), "a message that was on its way"
    for offset in (100, 99, 255):
        with pytest.raises(ReplayError):
            auth.take_incoming(offset, 2)
    assert store.ledger("bob").authentication == 356 + 768
    assert store.ledger("bob").burnt == 0
    store = reopen(store)
    with pytest.raises(ReplayError):
        store.auth("bob").take_incoming(0, 100)
    auth = store.auth("bob")
    with pytest.raises(RefusedError):
        auth.take_incoming(10**9, 256)
    with pytest.raises(RefusedError):
        auth.take_outgoing(0)


def test_an_overtaken_tag_key_that_spans_two_blocks_waits_whole(store: KeyStore) -> None:
    auth, edge = store.auth("bob"), store.lane_states("bob")[Lane.AUTH_BA].tail
    store.deposit_pending("bob", "more", secret(KEY), b"")
    store.confirm_deposit("bob", "more")
    auth.take_incoming(edge - 512, 256).wipe()
    wanted = auth.peek_incoming(edge - 128, 256)
    auth.take_incoming(edge + 128, 256).wipe()
    assert auth.take_incoming(edge - 128, 256).same_as(wanted)
    with pytest.raises(ReplayError):
        auth.take_incoming(edge - 128, 256)


def test_an_overtaken_tag_key_is_there_after_a_disk_that_was_full(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message comes again with the same bytes, so what failed once must not be refused for ever."""
    auth = store.auth("bob")
    auth.take_incoming(512, 256).wipe()

    def full(self: Database) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "commit", full)
        with pytest.raises(StoreError, match="full"):
            auth.take_incoming(0, 256, 1e-30)
    assert auth.take_incoming(0, 256, 1e-30).same_as(secret(AUTH_BA).take(0, 256))
    assert store.epsilons("bob").tags == 1


def test_initial_secrets_are_installed_once(store: KeyStore) -> None:
    with pytest.raises(RefusedError, match="installed already"):
        store.install_initial_secret("bob", secret(AUTH_AB), secret(AUTH_BA), pair_end="first")
    with pytest.raises(RefusedError, match="at least"):
        store.install_initial_secret("eve", secret(b"short"), secret(b"short"), pair_end="first")
    assert store.peers() == ("bob",)
    with pytest.raises(RefusedError, match="no initial secret is shared with eve"):
        store.auth("eve")


# -- blocks --------------------------------------------------------------------------------------------


def test_a_pending_block_survives_restarts_and_cannot_be_used(path: Path) -> None:
    store = make_store(path)
    store.deposit_pending("bob", "b1", secret(KEY), b"block 1")
    assert free_bits(store) == 0
    store = reopen(store)
    (pending,) = store.pending_deposits()
    assert (pending.peer, pending.block_id, pending.n_bits, pending.context) == (
        "bob",
        "b1",
        400_000,
        b"block 1",
    )
    starts = store.confirm_deposit("bob", "b1")
    assert store.confirm_deposit("bob", "b1") == starts
    assert free_bits(store) == 400_000 - MASK_START
    assert store.release("bob", "mask", reserve(store, 99, 1), context(1)).same_as(key_bits(0, 99))
    store.close()


def test_block_ids_are_used_once(store: KeyStore) -> None:
    with pytest.raises(DepositError, match="used once"):
        store.deposit_pending("bob", "b1", secret(KEY), b"")
    store.burn_deposit("bob", "b1")
    with pytest.raises(DepositError, match="used once"):
        store.deposit_pending("bob", "b1", secret(KEY), b"")
    with pytest.raises(DepositError, match="burnt, not pending"):
        store.confirm_deposit("bob", "b1")
    with pytest.raises(DepositError, match="no block"):
        store.confirm_deposit("bob", "b9")
    for bad in ("", "seed:x", "x" * 129):
        with pytest.raises(DepositError):
            store.deposit_pending("bob", bad, secret(KEY), b"")


def test_a_block_confirmed_late_never_lies_below_the_head_or_on_another(store: KeyStore) -> None:
    tail = store.lane_states("bob")[Lane.MASK].tail
    reserve(store, 1000, 1)
    store.deposit_pending("bob", "b2", secret(KEY), b"")
    starts = {lane: state.tail for lane, state in store.lane_states("bob").items()}
    with pytest.raises(DepositError, match="taken by another block"):
        store.confirm_deposit("bob", "b2", {**starts, Lane.MASK: tail - 1})
    store.raise_heads("bob", {Lane.MASK: tail + 500})
    store.confirm_deposit("bob", "b2", starts)
    assert free_bits(store) == 400_000 - MASK_START - 500
    assert reserve(store, 10, 2).start == tail + 500
    reopen(store).close()


def test_pieces_larger_than_one_row_come_out_whole(path: Path) -> None:
    store = make_store(path)
    key = np.random.default_rng(9).bytes(300_000)
    store.deposit_pending("bob", "big", secret(key), b"")
    store.confirm_deposit("bob", "big")
    start = 2 * (2_400_000 * 32 // 1024 // 8 * 8)
    taken = 0
    for n, size in enumerate((1, 7, 524_289, 3, 1_000_001)):
        bits = store.release("bob", "mask", reserve(store, size, n), context(n))
        assert bits.same_as(secret(key).take(start + taken, size))
        taken += size
    reopen(store).close()


# -- the file ------------------------------------------------------------------------------------------


def test_settings_are_read_back(store: KeyStore) -> None:
    for name, _, expected in SETTINGS:
        assert store._core.db.query(f"PRAGMA {name}")[0][0] == expected


def test_a_setting_that_does_not_take_effect_is_refused(path: Path) -> None:
    class Careless(Database):
        settings = (*SETTINGS[:3], ("synchronous", "NORMAL", 2))

    class CarelessStore(KeyStore):
        database_class = Careless

    with pytest.raises(StoreSettingsError, match="synchronous is 1 instead of 2"):
        CarelessStore.create(path, "alice", KEK)
    other = path.with_name("foreign.db")
    sqlite3.connect(other).execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(StoreSettingsError, match="page_size"):
        KeyStore.open(other, "alice", KEK)


def test_network_file_systems_are_refused(path: Path, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"36 22 0:34 / {tmp_path}/with\\040space rw - nfs4 server:/home rw\n"
        "garbage\n"
    )
    assert file_system_type(path, mounts) == "ext4"
    assert file_system_type(tmp_path / "with space" / "s.db", mounts) == "nfs4"
    assert file_system_type(path, tmp_path / "missing") == ""
    assert file_system_type(path) not in NETWORK_FILE_SYSTEMS
    with pytest.raises(StoreSettingsError, match="needs a local file system"):
        Database(path, create=True, file_system="nfs4")
    assert not path.exists()


def test_a_store_has_one_owner(store: KeyStore, path: Path) -> None:
    with pytest.raises(StoreBusyError, match="owned by another process"):
        KeyStore.open(path, "alice", KEK)
    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.keystore.store import KeyStore; from orchestrator.keystore.sealing import Kek\n"
        "from orchestrator.keystore.errors import StoreBusyError\n"
        "try: KeyStore.open(Path(sys.argv[1]), 'alice', Kek(b'k' * 32))\n"
        "except StoreBusyError: sys.exit(7)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert result.returncode == 7


def test_the_file_is_private_and_names_its_owner(store: KeyStore, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert Path(f"{path}-wal").stat().st_mode & 0o777 == 0o600
    store.close()
    with pytest.raises(StoreError, match="key store of 'alice', not of 'bob'"):
        KeyStore.open(path, "bob", KEK)
    with pytest.raises(StoreError, match="exists already"):
        KeyStore.create(path, "alice", KEK)
    with pytest.raises(StoreError, match="no key store"):
        KeyStore.open(path.with_name("missing.db"), "alice", KEK)
    store = KeyStore.open(path, "alice", KEK)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match=f"format 99, this program knows {SCHEMA_VERSION}"):
        KeyStore.open(path, "alice", KEK)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id=1")
    db.close()
    with pytest.raises(StoreError, match="not a qunetlab key store"):
        KeyStore.open(path, "alice", KEK)
    path.write_bytes(os.urandom(16384))
    with pytest.raises(StoreError):
        KeyStore.open(path, "alice", KEK)


def test_the_log_is_cut_when_bits_are_destroyed(store: KeyStore, path: Path) -> None:
    wal = Path(f"{path}-wal")
    reserve(store, 100, 1)
    assert wal.stat().st_size > 0
    store.burn_reservation("bob", "mask", Range(0, 100), context(1))
    assert wal.stat().st_size == 0


def test_many_threads_and_peers(store: KeyStore) -> None:
    for n, peer in enumerate(("carol", "dave")):
        own = bytes([n]) + AUTH_AB[1:]  # no two pairs share a secret
        store.install_initial_secret(peer, secret(own), secret(AUTH_BA), pair_end="first")
        store.deposit_pending(peer, f"b{n}", secret(KEY), b"")
        store.confirm_deposit(peer, f"b{n}")

    def work(peer: str, n: int) -> tuple[str, Range, int]:
        wanted = reserve(store, 500, n, peer)
        store.release(peer, "mask", wanted, context(n))
        return peer, wanted, store.auth(peer).take_outgoing(256)[0]

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: work(("bob", "carol", "dave")[n % 3], n), range(60)))
    for peer in ("bob", "carol", "dave"):
        assert sorted(r.start for p, r, _ in done if p == peer) == [500 * i for i in range(20)]
        assert sorted(o for p, _, o in done if p == peer) == [256 * i for i in range(20)]
    reopen(store).close()
