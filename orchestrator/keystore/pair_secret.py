"""The file in which a pair's out-of-band secret travels to each of its two machines.

One file per end, alike but for the name of the end that is to take it: whose secret it is, which generation of
the pair it was made for (0: the next one, whichever that is), the secret of each direction, and a checksum.  The checksum finds a copy that was cut
short or damaged on its way; it authenticates nothing, and the file is as secret as what it holds: mode 0600,
carried by hand, destroyed by the node once its store holds the secret.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from orchestrator.durable import create_file
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.lanes import INITIAL_SECRET_BITS
from orchestrator.randomness import RandomBytes, random_bytes
from orchestrator.secret import SecretBits
from orchestrator.wire.codec import Message, WireError, decode, encode

FORMAT = 1
INITIAL, SUFFIX = "initial", ".secret"
"""A node's halves lie in that folder among its secrets, under the names of its peers."""
_DIRECTION_BYTES = INITIAL_SECRET_BITS // 8
_LARGEST_FILE = 4 * _DIRECTION_BYTES


class PairSecretError(KeyStoreError):
    """A file that is no pair secret, not of this pair, damaged, or readable by others; it was left as it is."""


class _Content(Message, frozen=True):
    """What the file holds; ``checksum`` is SHA-256 over all the rest."""

    format: int
    holder: str
    first: str
    second: str
    generation: int
    auth_ab: bytes
    auth_ba: bytes
    checksum: bytes

    def __repr__(self) -> str:
        return f"<pair secret of {self.first} and {self.second}>"


@dataclass(frozen=True)
class PairSecret:
    """The secret of ``first`` and ``second`` (ring order): 65536 bits for each direction."""

    first: str
    second: str
    generation: int
    auth_ab: SecretBits = field(repr=False)
    auth_ba: SecretBits = field(repr=False)
    holder: str = ""
    """Which end's file this was read from."""

    @classmethod
    def draw(
        cls, first: str, second: str, generation: int = 0, random: RandomBytes = random_bytes
    ) -> PairSecret:
        """A fresh one."""
        auth_ab, auth_ba = (SecretBits.from_bytes(random(_DIRECTION_BYTES)) for _ in range(2))
        return cls(first, second, generation, auth_ab, auth_ba)

    @classmethod
    def read(cls, path: Path) -> PairSecret:
        """The secret in ``path``; raises PairSecretError, or FileNotFoundError if there is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise PairSecretError(f"cannot read {path}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise PairSecretError(f"{path} is not a regular file")
            if mode & 0o077:
                raise PairSecretError(
                    f"{path} can be read by others; if nobody did, run: chmod 600 {path}, otherwise make another"
                )
            data = file.read(_LARGEST_FILE + 1)
        return cls._parse(data, path)

    @classmethod
    def _parse(cls, data: bytes, path: Path) -> PairSecret:
        try:
            content = decode(data, _Content)
        except WireError:
            raise PairSecretError(
                f"{path} ({len(data)} bytes) is no pair secret, or was copied in part; copy it again, or make"
                " another with `qunetlab keys reseed PAIR --new`"
            ) from None
        if content.format != FORMAT:
            raise PairSecretError(f"{path} has format {content.format}, this program knows {FORMAT}")
        if content.checksum != _checksum(content):
            raise PairSecretError(
                f"{path} was damaged on its way: its checksum does not fit; copy it again, or make another with"
                " `qunetlab keys reseed PAIR --new`"
            )
        lengths = len(content.auth_ab), len(content.auth_ba)
        if lengths != (_DIRECTION_BYTES, _DIRECTION_BYTES):
            raise PairSecretError(
                f"{path} holds {lengths[0]} and {lengths[1]} bytes of secret instead of {_DIRECTION_BYTES} each"
            )
        halves = SecretBits.from_bytes(content.auth_ab), SecretBits.from_bytes(content.auth_ba)
        return cls(content.first, content.second, content.generation, *halves, content.holder)

    def write(self, path: Path, holder: str) -> None:
        """Create ``path`` (mode 0600) for the end ``holder``, durable when this returns; raises OSError."""
        halves = self.auth_ab.reveal_bytes(), self.auth_ba.reveal_bytes()
        bare = _Content(FORMAT, holder, self.first, self.second, self.generation, *halves, b"")
        create_file(path, encode(msgspec.structs.replace(bare, checksum=_checksum(bare))), 0o600)

    def check_for(self, holder: str, first: str, second: str, path: Path) -> None:
        """Raise PairSecretError unless this is what the end ``holder`` of that pair is to take."""
        if (self.first, self.second) != (first, second):
            raise PairSecretError(
                f"{path} is the secret of {self.first}-{self.second}, not of {first}-{second}; nothing was taken"
            )
        if self.holder != holder:
            raise PairSecretError(
                f"{path} is the half that {self.holder} is to take, not {holder}: carry it to {self.holder}'s"
                " machine; nothing was taken"
            )

    def wipe(self) -> None:
        """Forget the bits."""
        self.auth_ab.wipe()
        self.auth_ba.wipe()


def _checksum(content: _Content) -> bytes:
    names = f"{content.holder}|{content.first}|{content.second}"
    header = f"qunetlab-pair-secret|{content.format}|{names}|{content.generation}|"
    return hashlib.sha256(header.encode() + content.auth_ab + content.auth_ba).digest()
