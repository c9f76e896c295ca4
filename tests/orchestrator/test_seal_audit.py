"""Every seal of a store is opened once: which open, which do not, and that no bit is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator import runtime
from orchestrator.keystore.lanes import Lane, SplitRule
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.keystore.pieces import PIECE_BITS
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.windows import Use
from orchestrator.processes.node_control import MOST_UNOPENED, audited, use_of
from orchestrator.secret import SecretBits

KEK = bytes(range(32))
BLOCK_BITS = 3 * PIECE_BITS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a seed, a block of several pieces that is confirmed, one that waits, and a secret that waits."""
    path = tmp_path / "keys.sqlite"
    with KeyStore.create(path, "alice", Kek(KEK), split=SplitRule(otp_per_1024=128)) as store:
        secret = PairSecret.draw("alice", "bob")
        store.install_initial_secret("bob", secret.auth_ab, secret.auth_ba, pair_end="first")
        for block in ("1/1", "1/2"):
            key = SecretBits.from_bytes(bytes(range(256)) * (BLOCK_BITS // 2048))
            store.deposit_pending("bob", block, key, b"context")
        store.confirm_deposit("bob", "1/1")
        another = PairSecret.draw("alice", "bob")
        store.generations.keep("bob", another.auth_ab, another.auth_ba)
    return path


def altered(path: Path, change: Callable[[sqlite3.Connection], Any]) -> None:
    with closing(sqlite3.connect(path)) as db:
        change(db)
        db.commit()


def open_store(path: Path) -> KeyStore:
    return KeyStore.open(path, "alice", Kek(KEK))


def test_all_that_is_stored_opens_and_nothing_changes(path: Path) -> None:
    with open_store(path) as store:
        before, stock = store.ledger("bob"), store.stock("bob")
        found = store.audit()
        assert found.unopened == ()
        assert found.books == ""
        assert found.opened_bits == before.stored
        assert found.opened > 3 + 3 + 1
        assert (store.ledger("bob"), store.stock("bob")) == (before, stock)


def test_a_piece_that_was_altered_moved_or_cut_is_told_with_its_place(path: Path) -> None:
    def harm(db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT id, sealed FROM pieces WHERE lane = 'mask' ORDER BY id").fetchall()
        for (row, sealed), how in zip(rows, ("bit", "key", "cut"), strict=False):
            if how == "bit":
                changed = bytes([sealed[0] ^ 1]) + sealed[1:]
                db.execute("UPDATE pieces SET sealed = ? WHERE id = ?", (changed, row))
            elif how == "key":
                db.execute("UPDATE pieces SET wrapped_key = zeroblob(40) WHERE id = ?", (row,))
            else:
                db.execute("UPDATE pieces SET sealed = ? WHERE id = ?", (sealed[:8], row))

    altered(path, harm)
    with open_store(path) as store:
        found = store.audit()
        assert [(each.peer, each.what) for each in found.unopened] == [("bob", "lane mask")] * 3
        assert {each.block_id for each in found.unopened} == {"1/1"}
        assert all(each.why and each.n_bits > 0 for each in found.unopened)
        told = audited(store)
        assert (told.failed, told.node, told.books) == (3, "alice", "")
        assert told.unopened[0].start == found.unopened[0].start


def test_reusable_keys_and_secrets_that_wait_are_opened_too(path: Path) -> None:
    altered(path, lambda db: db.execute("UPDATE mac_keys SET sealed = zeroblob(48) WHERE lane = 'auth_ab'"))
    altered(path, lambda db: db.execute("UPDATE kept_secrets SET wrapped_key = zeroblob(40)"))
    with open_store(path) as store:
        assert [each.what for each in store.audit().unopened] == [
            "reusable keys of generation 0",
            "a new secret that waits",
        ]


def test_books_that_do_not_balance_while_a_node_runs_are_told(path: Path) -> None:
    with open_store(path) as store:
        with store._core.transaction():
            store._core.count("bob", next(iter(store.stock("bob"))), burnt=8)
        assert "do not balance" in store.audit().books


def test_what_a_node_uses_meanwhile_is_no_finding(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is free between two portions: all pieces go after the first one was looked at."""
    monkeypatch.setattr("orchestrator.keystore.seal_audit.PIECES_AT_ONCE", 1)
    with open_store(path) as store:
        looked, objection = [], store._core.pieces.objection

        def then_burnt(piece: int) -> str:
            looked.append(piece)
            said = objection(piece)
            thread = (
                runtime.spawn(store.burn_deposit, "bob", "1/2", name="burn") if len(looked) == 1 else None
            )
            if thread is not None:
                burning.append(thread)
            return said

        burning: list[Any] = []
        monkeypatch.setattr(store._core.pieces, "objection", then_burnt)
        found = store.audit()
        burning[0].join()
        assert found.unopened == ()
        assert found.books == ""


def test_a_long_list_fits_an_answer(path: Path) -> None:
    with open_store(path) as store:
        found = store.audit()
        many = found.__class__(1, 1, tuple(_some()) * 3, "")
        store.audit = lambda: many  # type: ignore[method-assign]
        told = audited(store)
        assert (told.failed, len(told.unopened)) == (300, MOST_UNOPENED)


def _some() -> list[Any]:
    from orchestrator.keystore.seal_audit import Unopened

    return [Unopened("bob", "lane mask", n, 8, "1/1", "altered") for n in range(100)]


def test_use_by_application_is_what_the_store_booked(path: Path) -> None:
    with open_store(path) as store:
        uses = [Use("app1", "master", 20000, 3, 768), Use("app1", "master", 20001, 1, 256)]
        with store._core.transaction():
            store.windows._book("bob", Lane.OTP_AB, uses)
        (row,) = use_of(store, 20001).rows
        assert (row.sae, row.peer, row.side, row.keys, row.bits, row.bits_today) == (
            *("app1", "bob", "master", 4),
            *(1024, 256),
        )
