"""A node's key store at start: created with the initial pair secrets, or opened as it was left.

The initial authentication secrets of ``qunetlab init`` lie as 0600 files in the node's secrets folder.  They
are installed into the (encrypted) store when it is created, then overwritten and removed: a second store
can never start from the same one-time bits.  Where a crash came between the two, the next start removes them.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from lab.testbed import Testbed
from orchestrator.durable import sync_path
from orchestrator.keystore.lanes import SplitRule
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits

logger = logging.getLogger(__name__)

STORE_FILE = "keys.sqlite"


class InitialSecretError(Exception):
    """The initial pair secrets of a node are missing or not as `qunetlab init` made them."""


def open_node_store(testbed: Testbed, name: str, secrets_dir: Path, state_dir: Path) -> KeyStore:
    """Open the store of node ``name``; on the first start create it and install the initial secrets.

    Raises KeyStoreError, or InitialSecretError when a pair's secret is missing on the first start.
    """
    kek = Kek.from_file(secrets_dir / "store.key")
    path = state_dir / STORE_FILE
    initial = secrets_dir / "initial"
    names = testbed.user_names()
    peers = [peer for peer in names if peer != name]
    if path.exists():
        _destroy_leftovers(initial, path)
        return KeyStore.open(path, name, kek)
    data = {peer: _read_secret(initial / f"{peer}.secret") for peer in peers}
    partial = path.with_name(STORE_FILE + ".new")
    for leftover in state_dir.glob(partial.name + "*"):
        leftover.unlink()
    store = KeyStore.create(partial, name, kek, split=SplitRule(testbed.protocol.auth_refill_bits))
    for peer, secret in data.items():
        half = len(secret) // 2
        store.install_initial_secret(
            peer,
            SecretBits.from_bytes(secret[:half]),
            SecretBits.from_bytes(secret[half:]),
            role="first" if names.index(name) < names.index(peer) else "second",
        )
    store.close()
    os.replace(partial, path)
    sync_path(state_dir)
    for peer in peers:
        _destroy(initial / f"{peer}.secret")
    logger.info("created the key store with initial secrets for %s", ", ".join(peers))
    return KeyStore.open(path, name, kek)


def _read_secret(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InitialSecretError(
            f"{path} is missing: the first start of a node needs the initial secret of every pair; "
            "make a new testbed folder with `qunetlab init`, or restore the node's key store"
        ) from None
    if mode & 0o077:
        raise InitialSecretError(f"{path} can be read by others; run: chmod 600 {path}")
    data = path.read_bytes()
    if len(data) < 2 * 1024 or len(data) % 2:
        raise InitialSecretError(f"{path} holds {len(data)} bytes, which is no initial secret")
    return data


def _destroy_leftovers(initial: Path, store: Path) -> None:
    """Initial secrets beside a complete store: they are in it, and must never start another."""
    for leftover in sorted(initial.glob("*.secret")):
        logger.warning("%s exists already: destroying the initial secret %s", store, leftover)
        _destroy(leftover)


def _destroy(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
