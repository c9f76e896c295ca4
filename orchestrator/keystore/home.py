"""Where a key store is at home: the machine and the very file, so that a copy is not taken for the store.

Two copies of a store would use bits twice.  One that was restored at a single end is found out by the other end when they meet
(I6); but only when they meet, and a copy of both ends never.  So a store remembers a digest of the machine's number
(machine-id(5), which is not to be shown) and the number of its file (inode), and is not opened elsewhere until somebody says
that the original is gone.

What it does not see: a copy of the whole disk or of a virtual machine, on a machine with the same number.  A file system that
gives its files new numbers asks for the same word, once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from orchestrator.decoding import from_json
from orchestrator.keystore.errors import StoreError

MACHINE_ID = Path("/etc/machine-id")


class MovedStoreError(StoreError):
    """A key store that is not where it was used last: a copy, or moved."""


class Home(msgspec.Struct, frozen=True):
    """``machine``: digest of its number, empty where it has none; ``file``: the inode."""

    machine: str
    file: int

    @classmethod
    def of(cls, path: Path, store_id: str, machine_id: Path = MACHINE_ID) -> Home:
        """Of the store at ``path``; raises OSError if there is none."""
        try:
            number = machine_id.read_text().strip()
        except (OSError, UnicodeDecodeError):
            number = ""
        digest = hashlib.sha256(f"qunetlab key store|{store_id}|{number}".encode()).hexdigest()[:32]
        return cls(digest if number else "", path.stat().st_ino)

    def objection(self, here: Home) -> str:
        """Why a store that was at home in this place is not at home ``here``; empty where it is."""
        if self.machine and here.machine and self.machine != here.machine:
            return "was used on another machine"
        return (
            ""
            if self.file == here.file
            else "is another file than the one that was used last: a copy, or restored"
        )


def check_home(path: Path, kept: bytes | None, here: Home) -> bytes | None:
    """What the store at ``path`` is to remember, None if that is what it does; raises MovedStoreError.

    A store that remembers nothing is at home where it is.
    """
    if kept is None:
        return msgspec.json.encode(here)
    try:
        home = from_json(kept, Home)
    except (ValueError, RecursionError):
        raise StoreError(f"{path} says nothing readable of where it is at home; check its disk") from None
    if why := home.objection(here):
        raise MovedStoreError(
            f"{path} {why}. Two copies of a key store would use bits twice. If the first is destroyed, and this is its latest state, "
            "start the node once with --moved; if you cannot be sure of both, do that and then renew every pair "
            "(`qunetlab keys reseed PAIR --new`)"
        )
    encoded = msgspec.json.encode(here)
    return encoded if encoded != kept else None
