"""What a command stands on before it begins: a current folder that is there, and a home that can be written, or one in its place."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

QCODES_HOME = "QCODES_USER_PATH"
"""The variable by which QCoDeS takes another folder than ``~/.qcodes`` for its logs and settings; it cannot be imported without."""


def stand_somewhere() -> None:
    """Refuse a current folder that was removed: libraries end the process there without a word of why.

    Matplotlib's own words about a home that it cannot write to are left out; it does without.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        Path.cwd()
    except FileNotFoundError:
        from lab.runs.testbeds.folder import FolderError

        raise FolderError("the current folder was removed; change to one that exists and try again") from None


def do_without_home() -> None:
    """Give QCoDeS a private temporary folder where the home cannot be written, this process's children too."""
    if QCODES_HOME in os.environ:
        return
    try:
        home = Path.home()
    except RuntimeError:  # a user without any
        home = Path("/nonexistent")
    if not any(os.access(each, os.W_OK | os.X_OK) and each.is_dir() for each in (home / ".qcodes", home)):
        os.environ[QCODES_HOME] = str(_own_temporary())


def _own_temporary() -> Path:
    """A folder of this user alone, the same one for all commands if nobody else was there first."""
    folder = Path(tempfile.gettempdir(), f"qunetlab-home-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not folder.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
        return Path(tempfile.mkdtemp(prefix="qunetlab-home-"))
    return folder
