"""A node's key store at start: created with the initial pair secrets, or opened as it was left.

The initial authentication secrets of ``qunetlab init`` lie as 0600 files in the node's secrets folder.  They are
installed into a store that is still called ``keys.sqlite.new``.  Only after that file was closed with its log
written back, opened again, its books checked and every secret compared with what its lanes hold, does it get its
name; it is opened once more under that name, and then the files are overwritten and removed.  So a second store
can never start from the same one-time bits, and whatever happens in between - a full disk, a crash - either the
files or a whole store with their content is there, and the next start goes on.

The initial secret of a user who joined the testbed later is installed into the whole store, in the same order:
committed, compared, then its file destroyed.
Further initial secrets that lie there when a whole store is opened renew their pairs: they are kept for the next
generation (:mod:`orchestrator.keystore.generations`), as ``qunetlab keys reseed`` does with a running node.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lab.testbed import Testbed
from orchestrator.durable import SPENT, destroy_file, destroy_spent, move_file, sync_path
from orchestrator.keystore.errors import SealError, StoreError
from orchestrator.keystore.lanes import PairEnd
from orchestrator.keystore.pair_secret import INITIAL, SUFFIX, PairSecret, PairSecretError
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.node_applications import split_rule

logger = logging.getLogger(__name__)

STORE_FILE = "keys.sqlite"
HALF_MADE = ".new"


class InitialSecretError(Exception):
    """The initial pair secrets of a node are missing or not as `qunetlab init` made them."""


def open_node_store(
    testbed: Testbed,
    name: str,
    secrets_dir: Path,
    state_dir: Path,
    kek: Kek | None = None,
    *,
    moved: bool = False,
) -> KeyStore:
    """Open the store of node ``name``; on the first start create it and install the initial secrets.

    ``kek`` seals the store; without it, what ``store.key`` in the secrets folder holds.  ``moved``: an operator says that a
    store that was used elsewhere is gone there.
    Raises KeyStoreError, OSError (with its place), or InitialSecretError when a pair's secret is missing on the
    first start, or on that with a user who joined the testbed; in each case the initial secrets are still there.
    """
    source = f"{secrets_dir / 'store.key'}" if kek is None else "the store key given"
    kek = kek or Kek.from_file(secrets_dir / "store.key")
    path = state_dir / STORE_FILE
    initial = secrets_dir / INITIAL
    if not path.exists():
        _create(testbed, name, kek, initial, path)
    try:
        store = KeyStore.open(path, name, kek, split=split_rule(testbed))
    except SealError as error:
        raise SealError(
            f"{path} cannot be opened with {source}: {error}. Put back the store.key that the"
            f" store was made with; what lies in {initial} was left as it is"
        ) from error
    try:
        store.settle_home(moved=moved)
        destroy_spent(initial)
        _install_joined(store, testbed, initial, path)
        for file in sorted(initial.glob(f"*{SUFFIX}")):
            _take_or_destroy(store, testbed, file)
    except BaseException:
        store.close()
        raise
    return store


def ends_of(testbed: Testbed, name: str, peer: str) -> tuple[str, str]:
    """(first, second) of the pair of ``name`` and ``peer``."""
    first, second = sorted((name, peer), key=testbed.user_names().index)
    return first, second


def _create(testbed: Testbed, name: str, kek: Kek, initial: Path, path: Path) -> None:
    """Make the store of a first start; it has its name only once it was found whole."""
    secrets = {
        peer: _initial_secret(testbed, name, peer, initial) for peer in testbed.user_names() if peer != name
    }
    partial = path.with_name(STORE_FILE + HALF_MADE)
    for leftover in sorted(path.parent.glob(partial.name + "*")):
        logger.warning("%s was left by a first start that did not come to its end: making it again", leftover)
        destroy_file(leftover)
    with KeyStore.create(partial, name, kek, split=split_rule(testbed)) as store:
        for peer, secret in secrets.items():
            _install(store, peer, secret)
    with KeyStore.open(partial, name, kek) as store:
        for peer, secret in secrets.items():
            _check_and_wipe(store, peer, secret, partial)
    sync_path(partial)
    move_file(partial, path)
    logger.info("created the key store with initial secrets for %s", ", ".join(secrets))


def _install(store: KeyStore, peer: str, secret: PairSecret) -> None:
    pair_end: PairEnd = "first" if secret.first == store.owner else "second"
    store.install_initial_secret(
        peer, secret.auth_ab, secret.auth_ba, pair_end=pair_end, generation=secret.generation
    )


def _check_and_wipe(store: KeyStore, peer: str, secret: PairSecret, path: Path) -> None:
    if not store.deposits.holds_seed(peer, secret.auth_ab, secret.auth_ba):
        raise StoreError(
            f"{path} does not hold the initial secret with {peer} that was just put there; check the"
            " disk. The initial secrets are still in their files"
        )
    secret.wipe()


def _install_joined(store: KeyStore, testbed: Testbed, initial: Path, path: Path) -> None:
    """The initial secrets of users who joined the testbed after this store was made."""
    for peer in testbed.user_names():
        if peer != store.owner and peer not in store.peers():
            secret = _initial_secret(testbed, store.owner, peer, initial)
            _install(store, peer, secret)
            store.cut_log()
            _check_and_wipe(store, peer, secret, path)


def _initial_secret(testbed: Testbed, name: str, peer: str, initial: Path) -> PairSecret:
    path = initial / f"{peer}{SUFFIX}"
    try:
        secret = PairSecret.read(path)
    except FileNotFoundError:
        raise InitialSecretError(
            f"{path} is missing: a node needs the initial secret of every pair before its first start with it; "
            f"make a new testbed folder with `qunetlab init`, or, where {peer} runs already, a new secret with"
            f" `qunetlab keys reseed {name}-{peer} --new` on the machine where {peer} runs, and put {name}'s half here"
            " under this name"
        ) from None
    secret.check_for(name, *ends_of(testbed, name, peer), path)
    return secret


def _take_or_destroy(store: KeyStore, testbed: Testbed, path: Path) -> None:
    """An initial secret beside a whole store: destroyed if the store took it already, else a new one to take."""
    secret = PairSecret.read(path)
    taken = store.deposits.took(secret.auth_ab, secret.auth_ba)
    secret.wipe()
    if taken:
        logger.info("the key store holds the initial secret of %s: destroying the file", path)
        destroy_file(path)
    else:
        take_secret(store, testbed, path)


def take_secret(store: KeyStore, testbed: Testbed, path: Path) -> str:
    """Keep the secret in ``path`` for its pair's next generation and destroy the file; the peer's name.

    The file goes only after the store has committed the secret, gave it back unchanged and has cut its log.
    Raises PairSecretError, RefusedError (taken before, of a generation that is over) or StoreError; the file is still
    there then, and nothing was changed, or the text says that the secret is kept.
    """
    name = store.owner
    try:
        secret = PairSecret.read(path)
    except FileNotFoundError:
        raise no_file(path) from None
    peers = [peer for peer in store.peers() if peer in (secret.first, secret.second)]
    if name not in (secret.first, secret.second) or len(peers) != 1:
        raise PairSecretError(
            f"{path} is the secret of {secret.first}-{secret.second}, which is no pair of {name}; nothing was taken"
        )
    peer = peers[0]
    secret.check_for(name, *ends_of(testbed, name, peer), path)
    kept = store.generations.keep(peer, secret.auth_ab, secret.auth_ba, secret.generation)
    back = store.generations.secret(peer, kept)
    same = back.auth_ab.same_as(secret.auth_ab) and back.auth_ba.same_as(secret.auth_ba)
    back.wipe()
    secret.wipe()
    if not same:
        raise StoreError(
            f"the key store does not hold the secret of {path}; check its disk. The file was left"
        )
    store.cut_log()
    try:
        destroy_file(path)
    except OSError as error:
        raise PairSecretError(
            f"{name} keeps the secret of {path} for the next generation with {peer}, but its file cannot be destroyed"
            f" ({error.strerror}): destroy it by hand"
        ) from error
    logger.info("a new secret with %s waits for the other end to take its half", peer)
    return peer


def no_file(path: Path) -> PairSecretError:
    """No secret lies at ``path``; what an interrupted taking left of it is destroyed first."""
    spent = path.with_name(path.name + SPENT)
    if not spent.exists():
        return PairSecretError(f"there is no file {path}")
    destroy_file(spent)
    return PairSecretError(f"the secret in {path} was taken before; what was left of it is destroyed")
