"""A store key that is kept nowhere: derived from an operator's passphrase with Argon2id.

Beside the store lies a file (mode 0600) with the salt, the cost of the derivation and a *check*: 32 random bytes
wrapped under the key that the passphrase gives, so that a wrong passphrase is told before any store is made or
opened.  Whoever takes the file can try passphrases against it, at the cost written there (RFC 9106, section 4,
second recommendation: 3 passes, 4 lanes, 64 MiB); the file and the store keep an adversary without the passphrase
from the keys only if the passphrase is hard to guess.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from msgspec import Meta

from orchestrator.durable import create_file
from orchestrator.keystore.errors import SealError, StoreError
from orchestrator.keystore.sealing import KEY_BYTES, SALT_BYTES, Kek
from orchestrator.randomness import random_bytes
from orchestrator.wire.codec import Message, WireError, decode, encode

FORMAT = 1
LEAST_CHARACTERS = 12
_LARGEST_FILE = 1024


class PassphraseFile(Message, frozen=True):
    """What is kept of a passphrase; memory in KiB.  The limits keep a forged file from stopping the machine."""

    format: int
    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    check: Annotated[bytes, Meta(min_length=KEY_BYTES + 8, max_length=KEY_BYTES + 8)]
    passes: Annotated[int, Meta(ge=1, le=100)] = 3
    lanes: Annotated[int, Meta(ge=1, le=64)] = 4
    memory_kib: Annotated[int, Meta(ge=8 * 64, le=4 << 20)] = 64 << 10


def create_passphrase(path: Path, passphrase: str, *, passes: int = 3, memory_kib: int = 64 << 10) -> Kek:
    """Choose the passphrase of the store whose file is ``path``, which must not exist; returns its key.

    Raises SealError for a passphrase of fewer than 12 characters, StoreError if the file cannot be written.
    """
    if len(passphrase) < LEAST_CHARACTERS:
        raise SealError(
            f"a passphrase has at least {LEAST_CHARACTERS} characters, this one {len(passphrase)}"
        )
    draft = PassphraseFile(
        FORMAT, random_bytes(SALT_BYTES), bytes(KEY_BYTES + 8), passes=passes, memory_kib=memory_kib
    )
    kek = _derive(draft, passphrase)
    check = kek.wrap(random_bytes(KEY_BYTES))
    kept = PassphraseFile(FORMAT, draft.salt, check, draft.passes, draft.lanes, draft.memory_kib)
    try:
        create_file(path, encode(kept), 0o600)
    except OSError as error:
        raise StoreError(f"cannot create {path}: {error.strerror}") from error
    return kek


def open_passphrase(path: Path, passphrase: str) -> Kek:
    """The key that ``passphrase`` gives; raises SealError if it is not the one that ``path`` was made with."""
    kept = _read(path)
    kek = _derive(kept, passphrase)
    try:
        kek.unwrap(kept.check)
    except SealError:
        raise SealError(
            f"the passphrase is not the one that {path} was made with; nothing was opened or changed, try again"
        ) from None
    return kek


def _derive(kept: PassphraseFile, passphrase: str) -> Kek:
    kdf = Argon2id(
        salt=kept.salt,
        length=KEY_BYTES,
        iterations=kept.passes,
        lanes=kept.lanes,
        memory_cost=kept.memory_kib,
    )
    return Kek(kdf.derive(passphrase.encode()))


def _read(path: Path) -> PassphraseFile:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}; `qunetlab init --store-key passphrase` makes one, and a store"
            " made with a store.key is opened with that"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise SealError(f"{path} must be a regular file that only its owner can read; chmod it to 600")
        data = file.read(_LARGEST_FILE)
    try:
        kept: PassphraseFile = decode(data, PassphraseFile)
    except WireError as error:
        raise SealError(f"{path} is damaged ({error}); put back a copy of it, the store needs it") from error
    if kept.format != FORMAT:
        raise SealError(f"{path} has format {kept.format}, this program knows {FORMAT}")
    return kept
