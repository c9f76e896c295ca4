"""Encryption at rest: what lies on the medium is worthless without the key-encryption key, and destroyed
bits are worthless even with it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from orchestrator.durable import create_file
from orchestrator.keystore.errors import SealError, StoreError
from orchestrator.keystore.lanes import Range
from orchestrator.keystore.sealing import Kek, seal, unseal
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits, SecretLeakError

RNG = np.random.default_rng(11)
KEK_BYTES = RNG.bytes(32)
CONTEXT = b"c" * 32


def filled_store(path: Path, key: bytes) -> KeyStore:
    store = KeyStore.create(path, "alice", Kek(KEK_BYTES), random_bytes=RNG.bytes)
    store.install_initial_secret(
        "bob",
        SecretBits.from_bytes(RNG.bytes(8192)),
        SecretBits.from_bytes(RNG.bytes(8192)),
        pair_end="first",
    )
    store.deposit_pending("bob", "b1", SecretBits.from_bytes(key), b"")
    store.confirm_deposit("bob", "b1")
    return store


def on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(path.name + "*")))


def windows(key: bytes) -> set[bytes]:
    return {key[at : at + 16] for at in range(0, len(key) - 16, 16)}


def contains_any(data: bytes, wanted: set[bytes]) -> bool:
    return any(window in data for window in wanted)


def test_no_key_byte_lies_on_disk_in_the_clear(tmp_path: Path) -> None:
    key, path = RNG.bytes(20_000), tmp_path / "s.db"
    store = filled_store(path, key)
    assert not contains_any(on_disk(path), windows(key))
    planted = tmp_path / "s.db-leak"
    planted.write_bytes(key[160:176])
    assert contains_any(on_disk(path), windows(key))
    store.close()


def wrapped_keys_that_open(data: bytes) -> set[bytes]:
    """Every data key that the key-encryption key can still unwrap from anywhere in ``data``."""
    found = set()
    for at in range(len(data) - 40):
        try:
            found.add(aes_key_unwrap(KEK_BYTES, data[at : at + 40]))
        except InvalidUnwrap:
            continue
    return found


def test_i7_released_bits_are_destroyed(tmp_path: Path) -> None:
    """After a release no data key under which the released bits were ever sealed is left, log included."""
    path = tmp_path / "s.db"
    store = filled_store(path, RNG.bytes(4096))
    store._core.db.checkpoint()
    before = wrapped_keys_that_open(path.read_bytes())
    sealed = store._core.db.query("SELECT wrapped_key FROM pieces WHERE lane = 'mask'")
    data_keys = {aes_key_unwrap(KEK_BYTES, row[0]) for row in sealed}
    assert data_keys <= before
    wanted = store.propose_reservation("bob", "mask", 3001, CONTEXT)
    store.commit_reservation("bob", "mask", wanted, CONTEXT)
    store.release("bob", "mask", wanted, CONTEXT).wipe()
    assert not data_keys & wrapped_keys_that_open(on_disk(path))
    store.close()


def test_a_piece_is_bound_to_its_place() -> None:
    kek = Kek(KEK_BYTES)
    wrapped, sealed = seal(kek, b"0123456789abcdef", b"here", RNG.bytes)
    assert unseal(kek, wrapped, sealed, b"here") == b"0123456789abcdef"
    with pytest.raises(SealError, match="altered"):
        unseal(kek, wrapped, sealed, b"there")
    with pytest.raises(SealError, match="altered"):
        unseal(kek, wrapped, bytes([sealed[0] ^ 1]) + sealed[1:], b"here")
    with pytest.raises(SealError, match="does not open"):
        unseal(Kek(RNG.bytes(32)), wrapped, sealed, b"here")


def test_pieces_swapped_in_the_file_are_noticed(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.db", RNG.bytes(4096))
    rows = store._core.db.query("SELECT id, wrapped_key, sealed FROM pieces ORDER BY id LIMIT 2")
    (one, *first), (two, *second) = rows
    store._core.db.write("UPDATE pieces SET wrapped_key = ?, sealed = ? WHERE id = ?", *second, one)
    store._core.db.write("UPDATE pieces SET wrapped_key = ?, sealed = ? WHERE id = ?", *first, two)
    with pytest.raises(SealError):
        store.auth("bob").take_outgoing(256)
    store.close()


def test_the_wrong_key_encryption_key_does_not_open_a_store(tmp_path: Path) -> None:
    filled_store(tmp_path / "s.db", RNG.bytes(4096)).close()
    with pytest.raises(SealError, match="does not open this store"):
        KeyStore.open(tmp_path / "s.db", "alice", Kek(RNG.bytes(32)))
    KeyStore.open(tmp_path / "s.db", "alice", Kek(KEK_BYTES)).close()


def test_key_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.key"
    create_file(path, RNG.bytes(32), 0o600)
    wrapped = Kek.from_file(path).wrap(b"k" * 32)
    assert Kek.from_file(path).unwrap(wrapped) == b"k" * 32
    path.chmod(0o640)
    with pytest.raises(SealError, match="chmod it to 600"):
        Kek.from_file(path)
    path.chmod(0o600)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Kek.from_service_manager("store.key").unwrap(wrapped) == b"k" * 32
    path.chmod(0o440)  # root's, and a list of one user who may read it
    assert Kek.from_service_manager("store.key").unwrap(wrapped) == b"k" * 32
    path.chmod(0o444)
    with pytest.raises(SealError, match="may be read by others"):
        Kek.from_service_manager("store.key")
    path.chmod(0o600)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(StoreError, match="LoadCredential"):
        Kek.from_service_manager("store.key")
    with pytest.raises(StoreError, match="cannot read"):
        Kek.from_file(tmp_path / "missing")
    (tmp_path / "short").write_bytes(b"x" * 31)
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(SealError, match="32 bytes"):
        Kek.from_file(tmp_path / "short")


def test_a_key_encryption_key_shows_nothing() -> None:
    kek = Kek(KEK_BYTES)
    assert repr(kek) == str(kek) == "<Kek>"
    with pytest.raises(SecretLeakError):
        pickle.dumps(kek)
    with pytest.raises(TypeError):
        json.dumps(kek)


def test_errors_and_books_hold_no_key_bits(tmp_path: Path) -> None:
    key = RNG.bytes(4096)
    store = filled_store(tmp_path / "s.db", key)
    texts = [repr(store.ledger("bob")), repr(store.stock("bob")), repr(store.auth("bob").take_outgoing(256))]
    for call in (
        lambda: store.release("bob", "mask", Range(0, 8), CONTEXT),
        lambda: store.propose_reservation("bob", "mask", 10**9, CONTEXT),
        lambda: store.deposit_pending("bob", "b1", SecretBits.from_bytes(key), b""),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call()
        texts.append(repr(caught.value) + str(caught.value))
    for text in texts:
        assert key[:8].hex() not in text
        assert repr(key[:8])[2:-1] not in text
    store.close()
