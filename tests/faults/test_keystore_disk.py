"""R14: the disk fills up or turns read-only at the n-th write: a typed error, nothing released, then recovery."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.keystore.database import Database
from orchestrator.keystore.errors import KeyStoreError, StoreError
from orchestrator.keystore.lanes import Lane, Range, SplitRule
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import LeasedKey, Use
from orchestrator.secret import SecretBits

KEK = Kek(b"k" * 32)
RNG = np.random.default_rng(4)
CONTEXT = b"c" * 32


class FailingDatabase(Database):
    """Fails write number ``fail_at`` (of those that change the file) as a full or read-only disk does."""

    writes = 0
    fail_at: int | None = None
    error = "SQLITE_FULL"

    def write(self, sql: str, *values: object) -> int:
        if not sql.startswith("BEGIN"):
            FailingDatabase.writes += 1
            if FailingDatabase.writes == FailingDatabase.fail_at:
                failure = sqlite3.OperationalError("injected")
                failure.sqlite_errorname = FailingDatabase.error  # type: ignore[misc]
                raise self.failure("write", failure) from failure
        return super().write(sql, *values)


class FailingStore(KeyStore):
    database_class = FailingDatabase


@pytest.fixture(autouse=True)
def _healthy_disk() -> Iterator[None]:
    yield
    FailingDatabase.fail_at = None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    FailingDatabase.fail_at = None
    store = FailingStore.create(tmp_path / "s.db", "alice", KEK, split=SplitRule(otp_per_1024=128))
    store.install_initial_secret(
        "bob",
        SecretBits.from_bytes(RNG.bytes(8192)),
        SecretBits.from_bytes(RNG.bytes(8192)),
        pair_end="first",
    )
    store.deposit_pending("bob", "b1", SecretBits.from_bytes(RNG.bytes(20_000)), b"")
    store.confirm_deposit("bob", "b1")
    yield store
    store.close()


def operations(store: KeyStore) -> list[Callable[[], object]]:
    """Each changes the store; each is run against every possible moment of failure."""
    taken = store.propose_reservation("bob", "mask", 1001, CONTEXT)
    store.commit_reservation("bob", "mask", taken, CONTEXT)
    return [
        lambda: store.release("bob", "mask", taken, CONTEXT),
        lambda: store.auth("bob").take_outgoing(256),
        lambda: store.auth("bob").take_incoming(512, 256),
        lambda: store.propose_reservation("bob", "mask", 100, b"d" * 32),
        lambda: store.deposit_pending("bob", "b2", SecretBits.from_bytes(RNG.bytes(9000)), b""),
        lambda: store.confirm_deposit("bob", "b2"),
        lambda: store.burn_deposit("bob", "b2"),
        lambda: store.journal_output(CONTEXT, b"output"),
        lambda: store.raise_heads("bob", {Lane.MASK: 5000}),
        *windows_of(store),
    ]


def windows_of(store: KeyStore) -> list[Callable[[], object]]:
    """Keys for applications: both ends of a window, and of a batch."""
    own, far = store.windows.new_context(), store.windows.new_context()
    offered = Range(0, 4096)
    keys = [LeasedKey(bytes([n]) * 16, Range(256 + 512 * n, 512)) for n in range(3)]
    use = Use("app", "master", 1, 3, 1536)

    def opened() -> None:
        chosen = store.propose_reservation("bob", Lane.OTP_AB, 4096, own)
        store.windows.opened("bob", chosen, own)

    def fetched() -> None:
        with store.windows.group():
            assert store.windows.fetch("bob", Lane.OTP_BA, [keys[0]], use) is not None
            store.windows.forget("bob", Lane.OTP_BA, keys[1])

    return [
        lambda: store.propose_reservation("bob", Lane.OTP_AB, 4096, own),
        opened,
        lambda: store.windows.deliver("bob", 0, keys, [use], spare={keys[2].key_id}),
        lambda: store.windows.follow("bob", offered, far),
        lambda: store.windows.hand("bob", 0, keys, {keys[2].key_id}, 1e-30),
        fetched,
    ]


def _failure(operation: Callable[[], object]) -> str:
    """What the operation said when it failed; empty if it did not."""
    try:
        operation()
    except StoreError as failure:
        return str(failure)
    return ""


@pytest.mark.parametrize("error", ["SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR_FSYNC"])
def test_r14_a_failure_at_any_write_releases_nothing(store: KeyStore, error: str) -> None:
    FailingDatabase.error = error
    for operation in operations(store):
        before = store.ledger("bob"), store.lane_states("bob"), store.pending_deposits()
        for n in range(1, 100):
            FailingDatabase.writes, FailingDatabase.fail_at = 0, n
            text = _failure(operation)
            FailingDatabase.fail_at = None
            if not text:
                assert n > 1
                break
            assert error in text
            assert "Nothing was released" in text
            assert (store.ledger("bob"), store.lane_states("bob"), store.pending_deposits()) == before
        assert store.ledger("bob").balanced
    FailingDatabase.fail_at = None
    store._core.check_books()


def test_r14_consumption_goes_on_when_deposits_no_longer_fit(store: KeyStore) -> None:
    """The file may not grow (PRAGMA max_page_count): deposits fail, releases and tags still work."""
    store._core.db.checkpoint()
    store._core.db.query("PRAGMA max_page_count=1")  # SQLite takes the present size as the least
    with pytest.raises(StoreError, match="the disk is full"):
        store.deposit_pending("bob", "b2", SecretBits.from_bytes(RNG.bytes(10**6)), b"")
    assert store.pending_deposits() == []
    for n in range(5):
        context = bytes([n]) * 32
        taken = store.propose_reservation("bob", "mask", 1000, context)
        store.commit_reservation("bob", "mask", taken, context)
        assert len(store.release("bob", "mask", taken, context)) == 1000
    assert store.auth("bob").take_outgoing(256)[0] == 0
    store._core.db.query("PRAGMA max_page_count=1000000")
    store.deposit_pending("bob", "b2", SecretBits.from_bytes(RNG.bytes(10**6)), b"")
    store._core.check_books()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from orchestrator.keystore.errors import StoreError
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits

path = Path(sys.argv[1])
store = KeyStore.open(path, "alice", Kek(b"k" * 32))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
try:
    store.deposit_pending("bob", "b2", SecretBits.from_bytes(bytes(3_000_000)), b"")
except StoreError as error:
    print("refused", store.pending_deposits() == [])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.deposit_pending("bob", "b2", SecretBits.from_bytes(bytes(3_000_000)), b"")
print("recovered", len(store.pending_deposits()))
store.close()
"""


def test_r14_a_real_limit_of_the_file_size(store: KeyStore, tmp_path: Path) -> None:
    """The kernel refuses to let the files grow; lifted, the store goes on without being reopened."""
    store.close()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "s.db")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["refused True", "recovered 1"]
    with KeyStore.open(tmp_path / "s.db", "alice", KEK) as again:
        assert again.ledger("bob").balanced


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot create"):
        KeyStore.create(tmp_path / "missing" / "s.db", "alice", KEK)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(KeyStoreError):
        KeyStore.open(tmp_path / "folder.db", "alice", KEK)
