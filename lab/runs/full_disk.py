"""Where a command writes, and which of these places is full: a full disk is told by its name.

Writing to an open file fails without the name of a place ("No space left on device"), in our code as in every
library below it.  So when that reaches the command line, the places that a command writes to are looked at:
temporary files, the current folder, whatever the command line names, data sets, the home, shared memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NEARLY_FULL_BYTES = 16 << 20
TEMPORARY = "TMPDIR"


@dataclass(frozen=True)
class Place:
    """A folder that something is written to, how it is called, and what else the user can do about it."""

    folder: Path
    name: str
    instead: str
    free_bytes: int
    size_bytes: int

    def text(self) -> str:
        """For people."""
        named = f" ({self.name})" if self.name else ""
        room = f"{_size(self.free_bytes)} of {_size(self.size_bytes)} free"
        return f"{self.folder}{named} has {room}; make room there{self.instead}"


def full_places(arguments: Sequence[str], environment: Mapping[str, str]) -> list[Place]:
    """The places with next to no room, the fullest first; the one with the least room if none is that full."""
    places: dict[int, Place] = {}
    for folder, name, instead in _written(arguments, environment):
        try:
            device, room = folder.stat().st_dev, os.statvfs(folder)
        except OSError:
            continue
        free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
        if room.f_files and not room.f_favail:  # no more files, whatever the space
            free = 0
        if size:
            places.setdefault(device, Place(folder, name, instead, free, size))
    fullest = sorted(places.values(), key=lambda place: place.free_bytes)
    return [place for place in fullest if place.free_bytes < NEARLY_FULL_BYTES] or fullest[:1]


def _written(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[Path, str, str]]:
    """Existing folders that a command may write to, with their names and what to do instead."""
    temporary = environment.get(TEMPORARY)
    yield (
        Path(temporary or tempfile.gettempdir()),
        TEMPORARY if temporary else "temporary files",
        f", or set {TEMPORARY} to another folder",
    )
    for argument in arguments:
        path = Path(argument.rpartition("=")[2])
        if len(path.parts) > 1 or path.exists():
            yield _standing(path), "named on the command line", ", or name another folder"
    yield _standing(Path()), "the current folder", ", or start in another"
    if data := environment.get("QUNETLAB_DATA"):
        yield _standing(Path(data)), "QUNETLAB_DATA", ", or set it to another folder"
    yield Path(environment.get("HOME") or "/"), "the home folder", ""
    yield Path("/dev/shm"), "shared memory", ", or give it more (mount -o remount,size=...)"


def _standing(path: Path) -> Path:
    """The nearest folder at or above ``path`` that exists."""
    path = Path(os.path.abspath(path))
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def _size(count: int) -> str:
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.{1 if power else 0}f} {units[power]}"
