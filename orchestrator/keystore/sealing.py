"""Encryption at rest: sealed pieces, each under a data key of its own.

A *piece* (at most 64 KiB of one lane) is encrypted with AES-256-GCM under a random data key that encrypts
nothing else, so that the all-zero nonce is used once per key.  The data key is stored wrapped (AES key
wrap, RFC 3394) by the key-encryption key (KEK).  Destroying a piece means deleting its wrapped data key:
the ciphertext that may linger in the write-ahead log or on the medium is then worthless even to somebody
who holds the KEK.

The KEK is 32 bytes from a file of mode 0600, from the service manager's credentials folder
(systemd ``LoadCredential=``), or derived from a passphrase (:mod:`orchestrator.keystore.passphrase`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from orchestrator.keystore.errors import SealError, StoreError
from orchestrator.randomness import RandomBytes
from orchestrator.secret import SecretLeakError

KEY_BYTES = 32
SALT_BYTES = 16
_NONCE = bytes(12)


class Kek:
    """A key-encryption key; shows nothing of itself."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SealError(f"a key-encryption key has {KEY_BYTES} bytes, got {len(key)}")
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Kek:
        """Read the key from ``path``; a file that others may read is refused."""
        return cls._read(path, 0o077)

    @classmethod
    def _read(cls, path: Path, forbidden: int) -> Kek:
        try:
            mode = path.stat().st_mode
            if stat.S_IMODE(mode) & forbidden:
                raise SealError(
                    f"{path} may be read by others (mode {stat.S_IMODE(mode):o}); chmod it to 600"
                )
            return cls(path.read_bytes())
        except OSError as error:
            raise StoreError(f"cannot read the key-encryption key {path}: {error.strerror}") from error

    @classmethod
    def from_service_manager(cls, name: str) -> Kek:
        """Read the credential ``name`` that systemd passed to this unit (``LoadCredential=``)."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise StoreError(f"no CREDENTIALS_DIRECTORY: add LoadCredential={name}:... to the unit")
        # The manager lets one user of no group read what is root's, and an access list shows as bits of the group.
        return cls._read(Path(folder) / name, 0o037)

    def wrap(self, data_key: bytes) -> bytes:
        return aes_key_wrap(self._key, data_key)

    def unwrap(self, wrapped: bytes) -> bytes:
        try:
            return aes_key_unwrap(self._key, wrapped)
        except (InvalidUnwrap, ValueError) as error:
            raise SealError(
                "the key-encryption key does not open this store; check that its file belongs to it"
            ) from error

    def __repr__(self) -> str:
        return "<Kek>"

    def _refuse(self, *_: object) -> NoReturn:
        raise SecretLeakError("a key-encryption key cannot be serialised")

    __reduce__ = _refuse
    __reduce_ex__ = _refuse


def seal(kek: Kek, plain: bytes, binding: bytes, random_bytes: RandomBytes) -> tuple[bytes, bytes]:
    """Encrypt ``plain`` under a fresh data key; returns (wrapped data key, ciphertext with its tag).

    ``binding`` names the place the piece belongs to and is authenticated with it.
    """
    data_key = random_bytes(KEY_BYTES)
    return kek.wrap(data_key), AESGCM(data_key).encrypt(_NONCE, plain, binding)


def unseal(kek: Kek, wrapped: bytes, sealed: bytes, binding: bytes) -> bytes:
    """The bytes that :func:`seal` encrypted; raises SealError if anything was altered."""
    try:
        return AESGCM(kek.unwrap(wrapped)).decrypt(_NONCE, sealed, binding)
    except InvalidTag as error:
        raise SealError(
            "a sealed piece of the key store was altered; restore no copy of it, seed the pair again"
        ) from error
