"""Keys that a process refuses for good: a file in its state folder, read at start, written before a key is cut off.

What is revoked is a *key*, not a name: a role that gets a new key in the testbed file is served again, its old
key never.  A file that cannot be read stops the start: whoever was revoked must not come back through a bad disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.durable import locked, make_folder, replace_file
from orchestrator.wire.codec import Message, WireError, decode, encode

FILE = "revoked"
FORMAT = 1


class RevokedError(Exception):
    """The list of revoked keys cannot be used, or a role that is no role was to be revoked."""


class _List(Message, frozen=True):
    format: int
    keys: dict[str, str]


class RevokedKeys:
    """The revoked keys of one process: public key in Z85 -> role it had."""

    def __init__(self, state_dir: Path) -> None:
        """Read the list; raises RevokedError where it is damaged."""
        self._path = state_dir / FILE
        self._keys = self._read()

    def _read(self) -> dict[str, str]:
        try:
            kept = decode(self._path.read_bytes(), _List)
        except FileNotFoundError:
            return {}
        except (OSError, WireError) as error:
            raise RevokedError(f"{self._path} cannot be read ({error}): who is revoked is unknown") from error
        if kept.format != FORMAT:
            raise RevokedError(f"{self._path} has format {kept.format}, this program knows {FORMAT}")
        return kept.keys

    @property
    def roles(self) -> list[str]:
        """The roles whose keys are refused, in order."""
        return sorted(set(self._keys.values()))

    def without(self, allowed: Mapping[str, str]) -> dict[str, str]:
        """``allowed`` (public key -> role) without the revoked keys."""
        return {key: role for key, role in allowed.items() if key not in self._keys}

    def add(self, role: str, allowed: Mapping[str, str]) -> None:
        """Put the key of ``role`` on the list, durable when this returns; raises RevokedError or OSError.

        What another process put there since it was read stays on it.
        """
        keys = {key: name for key, name in allowed.items() if name == role}
        if not keys:
            served = ", ".join(sorted(set(allowed.values())))
            raise RevokedError(f"no role {role!r} is served here; there are {served}")
        make_folder(self._path.parent)
        with locked(self._path.with_name(f".{FILE}.lock")):
            revoked = self._read() | self._keys | keys
            replace_file(self._path, encode(_List(FORMAT, revoked)), 0o600)
        self._keys = revoked
