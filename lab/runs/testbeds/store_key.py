"""``--store-key``: where the key comes from that seals the key store of a node.

``file``               ``store.key`` in the user's secrets folder (the default)
``passphrase``         asked for at the terminal; ``store.passphrase`` in the secrets folder holds salt and cost
``passphrase-file:PATH``, ``passphrase-fd:N``  the same, read from a file (mode 0600) or an open descriptor
``credential``, ``credential:NAME``  the service manager's: systemd's ``LoadCredential=`` or
                       ``LoadCredentialEncrypted=``; NAME is ``store.key`` unless given

A passphrase is never an argument: those can be read by everybody on the machine.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.keystore.sealing import Kek

OPTION = "--store-key"
KEY_FILE = "store.key"
PASSPHRASE_FILE = "store.passphrase"
LONGEST_BYTES = 4096
HELP = "file, passphrase, passphrase-file:PATH, passphrase-fd:N or credential[:NAME] (systemd)."
AUTHORITY_KEY_HELP = "file (open, 0600), passphrase, passphrase-file:PATH or passphrase-fd:N."
"""Of ``--authority-key`` (:mod:`lab.runs.certificates.signing_key`), which takes no credential."""


class StoreKeyError(ValueError):
    """An option that means nothing, or a passphrase that cannot be had."""


@dataclass(frozen=True)
class StoreKey:
    """The option, taken apart."""

    kind: str = "file"
    where: str = ""
    option: str = OPTION

    @classmethod
    def parse(cls, text: str, option: str = OPTION) -> StoreKey:
        """Raises StoreKeyError naming what is allowed; ``option`` is what it stood behind."""
        kind, colon, where = text.partition(":")
        takes = {"file": False, "passphrase": False, "passphrase-file": True, "passphrase-fd": True}
        known = kind == "credential" or takes.get(kind) is bool(colon and where)
        if not known or (kind == "passphrase-fd" and not where.isdigit()):
            raise StoreKeyError(f"{option} {text!r}: give {HELP}")
        return cls(kind, where, option)

    @property
    def is_passphrase(self) -> bool:
        return self.kind.startswith("passphrase")

    def passphrase(self, what: str, *, confirm: bool = False) -> str:
        """Read that of ``what`` from where the option says; ``confirm`` asks twice at a terminal."""
        if self.kind == "passphrase-file":
            return _from_file(Path(self.where))
        if self.kind == "passphrase-fd":
            try:
                return _line(os.read(int(self.where), LONGEST_BYTES), f"descriptor {self.where}")
            except OSError as error:
                raise StoreKeyError(f"{self.option} passphrase-fd:{self.where}: {error.strerror}") from None
        if not sys.stdin.isatty():
            raise StoreKeyError(
                f"{self.option} passphrase asks at a terminal, and there is none: use passphrase-file:PATH or"
                " passphrase-fd:N"
            )
        given = getpass.getpass(f"Passphrase of {what}: ")
        if confirm and getpass.getpass("Once more: ") != given:
            raise StoreKeyError("the two passphrases differ; nothing was made")
        return given

    def chosen(self, what: str) -> str | None:
        """The passphrase with which ``what`` is to be sealed, asked for twice; None where none is meant."""
        return self.passphrase(what, confirm=True) if self.is_passphrase else None

    def kek(self, user: str, secrets: Path) -> Kek:
        """The key of the store of ``user``, whose secrets folder is ``secrets``; raises KeyStoreError."""
        from orchestrator.keystore.passphrase import open_passphrase
        from orchestrator.keystore.sealing import Kek

        if self.is_passphrase:
            return open_passphrase(secrets / PASSPHRASE_FILE, self.passphrase(f"the key store of {user}"))
        if self.kind == "credential":
            return Kek.from_service_manager(self.where or KEY_FILE)
        if not (secrets / KEY_FILE).exists() and (secrets / PASSPHRASE_FILE).exists():
            raise StoreKeyError(
                f"the key store of {user} is sealed with a passphrase ({secrets / PASSPHRASE_FILE}): give"
                " --store-key passphrase"
            )
        return Kek.from_file(secrets / KEY_FILE)


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                raise StoreKeyError(f"{path} can be read by others; chmod it to 600")
            return _line(file.read(LONGEST_BYTES), str(path))
    except OSError as error:
        raise StoreKeyError(f"cannot read the passphrase in {path}: {error.strerror}") from None


def _line(data: bytes, where: str) -> str:
    """The first line, without its end."""
    try:
        text = data.decode().split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError:
        raise StoreKeyError(f"the passphrase in {where} is no UTF-8 text") from None
    if not text:
        raise StoreKeyError(f"there is no passphrase in {where}")
    return text
