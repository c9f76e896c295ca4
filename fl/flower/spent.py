"""A mark on disk for every mask that has protected an update: a second update under it would give both away.

``Context.state`` holds a mask between two messages, and taking it out is not enough to use it once: two
messages in flight start from the same state, and a state that was put back from a copy holds the mask again.
The mark is a file of its own, made exclusively and durable (file, then folder) before the mask is used, and
it is never removed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


class MaskSpentError(Exception):
    """The mask of this round has protected an update before."""


def spend_mask(folder: Path, run_id: str, round_number: int) -> None:
    """Mark the mask of a (run, round) as used, durable on return.

    Raises MaskSpentError if it was marked before, by whomever, or OSError; then the mask must not be used.
    """
    run = hashlib.sha256(run_id.encode()).hexdigest()[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"mask-{run}-{round_number:08d}.spent"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MaskSpentError(
            f"the mask of round {round_number} of run {run_id} has protected an update before; begin a new round"
        ) from None
    _sync_and_close(descriptor)
    _sync_and_close(os.open(folder, os.O_RDONLY))
    _sync_and_close(os.open(folder.parent, os.O_RDONLY))


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
