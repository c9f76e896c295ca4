"""Fencing tokens: only strictly newer ones count.

A ring lease carries ``(epoch, slot)``.  The epoch grows by one at every start of the orchestrator
(:class:`EpochFile`, on disk before anything is offered), the slot with every lease.  Relay and nodes keep
a :class:`Fence` and take part only in leases newer than every one they have seen, so a message that was
delayed, replayed or sent by an orchestrator that has been replaced starts nothing.
"""

from __future__ import annotations

import threading
from pathlib import Path

from orchestrator.durable import make_folder, replace_file

_LIMIT = 1 << 62


class EpochError(Exception):
    """The file that keeps the epoch cannot be used."""


class EpochFile:
    """One number in a file; every change is synced to disk before it is used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int:
        """The number kept, 0 if there is no file yet."""
        try:
            text = self._path.read_bytes()[:32]
        except FileNotFoundError:
            return 0
        if not text.strip().isdigit() or int(text) >= _LIMIT:
            raise EpochError(
                f"{self._path} does not hold an epoch; write a number into it that is larger than every epoch "
                "in the logs of the orchestrator"
            )
        return int(text)

    def write(self, epoch: int) -> None:
        """Replace the number, durable when this returns."""
        make_folder(self._path.parent)
        replace_file(self._path, b"%d\n" % epoch)

    def advance(self) -> int:
        """One more than before, durable when this returns."""
        epoch = self.read() + 1
        self.write(epoch)
        return epoch


class Fence:
    """Lets every token through once, and only in growing order.  Thread-safe.

    With ``file`` the newest epoch survives restarts of this process, so an orchestrator that was replaced
    while we were down is refused too.
    """

    def __init__(self, file: EpochFile | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        # An epoch read from the file may come again with any slot: the slots are not kept.
        self._newest = (file.read(), -1) if file is not None else (0, -1)

    @property
    def newest(self) -> tuple[int, int]:
        """The newest (epoch, slot) let through."""
        return self._newest

    def accept(self, epoch: int, slot: int) -> bool:
        """True, once, for a token strictly newer than all before; False for every other."""
        with self._lock:
            if (epoch, slot) <= self._newest:
                return False
            if self._file is not None and epoch > self._newest[0]:
                self._file.write(epoch)
            self._newest = (epoch, slot)
            return True
