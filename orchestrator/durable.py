"""Files that survive a power loss: whole or as they were, and on the disk when the call returns.

Content is durable after ``fsync`` of the file, its name after ``fsync`` of the folder it stands in (fsync(2):
"calling fsync() does not necessarily ensure that the entry in the directory containing the file has also
reached disk").  So the order is: file, then name, then folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace ``path`` by ``content``, durable when this returns: file, then rename, then folder.

    ``mode`` is that of the new file, less the umask.  Raises OSError, and then the old file stands, unless it
    was the folder that could not be synced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    _write(temporary, content, os.O_TRUNC, mode)
    os.replace(temporary, path)
    sync_path(path.parent)


def create_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write ``content`` to a file that did not exist, durable when this returns: file, then folder.

    ``mode`` is that of the file, less the umask.  Raises FileExistsError rather than touch a file, or another
    OSError, after which a part of it may stand there.
    """
    _write(path, content, os.O_EXCL, mode)
    sync_path(path.parent)


def make_folder(folder: Path) -> None:
    """Create ``folder`` (for its owner only) and what is missing above it; the names are durable on return."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_path(folder.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among threads and processes that lock ``path``, which is created and stays.  Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_path(path: Path) -> None:
    """Make durable what stands at ``path``: the content of a file or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes, how: int, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
