"""A testbed folder as it is while ``qunetlab up`` has it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.runs.testbeds.folder import UP_LOCK, up_folder


@contextmanager
def held(home: Path) -> Iterator[None]:
    """The lock, with our number in it."""
    up_folder(home).mkdir(parents=True)
    with (up_folder(home) / UP_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
