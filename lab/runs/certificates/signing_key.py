"""``--authority-key``: where the private key of a testbed's authority lies, open or sealed with a passphrase.

``file``               ``ca-key.pem`` (0600), open: whoever reads the folder signs whom they like (the default)
``passphrase``         asked for at the terminal; ``ca-key.sealed`` holds the key, ``ca.passphrase`` salt and cost
``passphrase-file:PATH``, ``passphrase-fd:N``  the same, read from a file (mode 0600) or an open descriptor

A sealed key is encrypted as a piece of a key store is (:mod:`orchestrator.keystore.sealing`), under a key that Argon2id
makes of the passphrase (:mod:`orchestrator.keystore.passphrase`).  Only signing needs it: what was signed and what is
revoked is read without.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab.runs.certificates.making import key_pem
from lab.runs.testbeds.store_key import AUTHORITY_KEY_HELP, StoreKey, StoreKeyError
from orchestrator.decoding import from_json
from orchestrator.delivery.certificates import CertificateError, read_key, read_limited
from orchestrator.durable import create_file, destroy_file
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.passphrase import create_passphrase, open_passphrase
from orchestrator.keystore.sealing import seal, unseal
from orchestrator.randomness import random_bytes

OPTION = "--authority-key"
KEY_FILE = "ca-key.pem"
SEALED_FILE = "ca-key.sealed"
PASSPHRASE_FILE = "ca.passphrase"
FORMAT = 1
_BINDING = b"qunetlab-authority-key-v1"

Passphrase: TypeAlias = Callable[[], str]
"""Asks for it, or reads it; called when a key is needed and not before."""


class SealedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of a sealed key."""

    format: int
    wrapped: bytes
    sealed: bytes


def passphrase_of(option: str, *, confirm: bool = False) -> Passphrase | None:
    """What ``--authority-key`` means; None for an open key.  Raises StoreKeyError, as does what it returns."""
    if option == "file":
        return None
    if not option.startswith("passphrase"):
        raise StoreKeyError(f"{OPTION} {option!r}: give {AUTHORITY_KEY_HELP}")
    key = StoreKey.parse(option, OPTION)
    return lambda: key.passphrase("the authority's key", confirm=confirm)


def has_key(folder: Path) -> bool:
    """Whether an authority's private key lies in ``folder``, open or sealed."""
    return (folder / KEY_FILE).exists() or is_sealed(folder)


def is_sealed(folder: Path) -> bool:
    """Whether it is sealed."""
    return (folder / SEALED_FILE).exists()


def keep_key(folder: Path, key: ec.EllipticCurvePrivateKey, passphrase: Passphrase | None) -> None:
    """Put a fresh key in its place; FileExistsError where there is one, CertificateError for a short passphrase."""
    if has_key(folder):
        raise FileExistsError(f"{folder} holds the key of an authority already")
    if passphrase is None:
        create_file(folder / KEY_FILE, key_pem(key), 0o600)
    else:
        _seal(folder, key, passphrase)


def seal_key(folder: Path, passphrase: Passphrase) -> None:
    """Seal a key that lies open, and destroy the open one; CertificateError, OSError, and then the open one stands.

    One that was interrupted between the two is finished by the next, which takes the same passphrase.
    """
    if is_sealed(folder) and not (folder / KEY_FILE).exists():
        raise CertificateError(f"the authority's key in {folder} is sealed already")
    if not is_sealed(folder):
        _seal(folder, open_key(folder, None), passphrase)
    open_key(folder, passphrase)
    destroy_file(folder / KEY_FILE)


def _seal(folder: Path, key: ec.EllipticCurvePrivateKey, passphrase: Passphrase) -> None:
    (folder / PASSPHRASE_FILE).unlink(missing_ok=True)  # of a making that failed
    try:
        kek = create_passphrase(folder / PASSPHRASE_FILE, passphrase())
    except KeyStoreError as error:
        raise CertificateError(str(error)) from None
    wrapped, sealed = seal(kek, key_pem(key), _BINDING, random_bytes)
    create_file(folder / SEALED_FILE, msgspec.json.encode(SealedKey(FORMAT, wrapped, sealed)), 0o600)


def open_key(folder: Path, passphrase: Passphrase | None) -> ec.EllipticCurvePrivateKey:
    """The key in ``folder``; CertificateError for a wrong passphrase, one too many or none, and for a damaged file."""
    if not is_sealed(folder):
        if passphrase is not None:
            raise CertificateError(f"the authority's key in {folder} is not sealed: leave out {OPTION}")
        key: object = read_key(folder / KEY_FILE)
    else:
        if passphrase is None:
            raise CertificateError(
                f"the authority's key in {folder} is sealed with a passphrase: give {OPTION} passphrase"
            )
        key = _unsealed(folder, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{folder} holds no key of an authority made here")
    return key


def _unsealed(folder: Path, passphrase: Passphrase) -> object:
    path = folder / SEALED_FILE
    try:
        kept = from_json(read_limited(path, private=True), SealedKey)
    except (ValueError, RecursionError):
        raise CertificateError(f"{path} is damaged: put back a copy of it") from None
    if kept.format != FORMAT:
        raise CertificateError(f"{path} has format {kept.format}, this program knows {FORMAT}")
    try:
        kek = open_passphrase(folder / PASSPHRASE_FILE, passphrase())
    except KeyStoreError as error:
        raise CertificateError(str(error)) from None
    try:
        return serialization.load_pem_private_key(unseal(kek, kept.wrapped, kept.sealed, _BINDING), None)
    except (KeyStoreError, ValueError):
        raise CertificateError(f"{path} was altered: put back a copy of it") from None
