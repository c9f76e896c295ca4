"""Fencing tokens: only strictly newer ones count, and no message moves them out of reach.

A ring lease carries ``(epoch, number)``.  The epoch grows by one at every start of the orchestrator
(:class:`EpochFile`, on disk before anything is offered), the number with every lease.  Relay and nodes keep
a :class:`Fence` and take part only in leases newer than every one they have seen, so a message that was
delayed, replayed or sent by an orchestrator that has been replaced starts nothing.

Nobody authenticates the orchestrator's numbers, so no single one may decide for ever:

* an epoch steps at most :data:`EPOCH_STEP` above the stored one, and is stored before light;
* how far it moves altogether is bounded by a :class:`Reach`, so that hours of bad offers move a fence by some steps
  and not by millions.  All have the same, so each can follow where another was led; a restart renews it;
* a refusal names the newest epoch known.  An orchestrator that is behind (its state was restored, or another
  walked the fence up) raises its own just above it, by at most one step for each refused offer; a party that is
  far behind is led up by :class:`~orchestrator.wire.messages.EpochStep`.

So honest parties meet again by themselves after a bounded number of offers, whoever spoke before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator import runtime
from orchestrator.durable import make_folder, replace_file

EPOCH_STEP = 1 << 20
"""An epoch is never more than this above the one before."""
REACH = 64 * EPOCH_STEP
"""How far an epoch may move soon after the start of a process."""
REACH_PER_S = EPOCH_STEP / 86400.0
"""How much further per second, without a bound, so that a process that stood still can follow one that moved on."""
AHEAD = 8 * EPOCH_STEP
"""How much further than the parties an orchestrator may move: one that replaces another is younger than they are."""
_LIMIT = 1 << 62


class EpochError(Exception):
    """The file that keeps the epoch cannot be used."""


class Reach:
    """How far an epoch may move: :data:`REACH` at first, :data:`REACH_PER_S` more with time."""

    def __init__(self, clock: Callable[[], float] = runtime.now, extra: int = 0) -> None:
        self._clock = clock
        self._left, self._counted_s = float(REACH + extra), clock()

    def take(self, distance: int) -> bool:
        """Use ``distance`` of what is left; False, and nothing is used, if that is too little."""
        now_s = self._clock()
        self._left += (now_s - self._counted_s) * REACH_PER_S
        self._counted_s = now_s
        if distance > self._left:
            return False
        self._left -= distance
        return True

    def give_back(self, distance: int) -> None:
        """Give back ``distance``: the epoch was not moved."""
        self._left += distance


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
        """Replace the number, durable when this returns; raises ValueError for one that :meth:`read` refuses."""
        if not 0 <= epoch < _LIMIT:
            raise ValueError(f"an epoch lies below {_LIMIT}, got {epoch}")
        make_folder(self._path.parent)
        replace_file(self._path, b"%d\n" % epoch)

    def advance(self) -> int:
        """One more than before, durable when this returns; raises EpochError where there is none."""
        kept = self.read()
        if kept + 1 >= _LIMIT:
            raise EpochError(f"{self._path} holds {kept}, the largest epoch: begin with a new testbed folder")
        return self.raise_above(kept)

    def raise_above(self, newest: int) -> int:
        """Just above ``newest``, but at most :data:`EPOCH_STEP` above what is kept; durable when this returns.

        What is kept already stays if it is larger.
        """
        kept = self.read()
        epoch = min(newest + 1, kept + EPOCH_STEP, _LIMIT - 1)
        if epoch <= kept:
            return kept
        self.write(epoch)
        return epoch


class Fence:
    """Lets every token through once, and only in growing order.  Thread-safe.

    With ``file`` the newest epoch survives restarts of this process, so an orchestrator that was replaced
    while we were down is refused too.
    """

    def __init__(self, file: EpochFile | None = None, reach: Reach | None = None) -> None:
        self._file = file
        self._reach = reach or Reach()
        self._lock = runtime.lock()
        # An epoch read from the file may come again with any number: the numbers are not kept.
        self._newest = (file.read(), -1) if file is not None else (0, -1)
        self.objection = ""
        """Why the last token was not let through; empty if it was."""

    @property
    def newest(self) -> tuple[int, int]:
        """The newest (epoch, number) let through."""
        return self._newest

    def accept(self, epoch: int, number: int) -> bool:
        """True, once, for a token strictly newer than all before; False, and nothing moved, for every other.

        See :attr:`objection`.  Raises OSError, nothing moved either, if the epoch cannot be stored.
        """
        with self._lock:
            self.objection = self._objection(epoch, number)
            if self.objection:
                return False
            distance = epoch - self._newest[0]
            if self._file is not None and distance:
                try:
                    self._file.write(epoch)
                except OSError:
                    self._reach.give_back(distance)
                    raise
            self._newest = (epoch, number)
            return True

    def step(self, epoch: int) -> bool:
        """Take note of a newer epoch without a lease; within the same bounds, and with the same answer."""
        return epoch > self._newest[0] and self.accept(epoch, -1)

    def _objection(self, epoch: int, number: int) -> str:
        newest, newest_number = self._newest
        if (epoch, number) <= (newest, newest_number):
            return f"the token {epoch}/{number} is not newer than the last one seen, {newest}/{newest_number}"
        if epoch - newest > EPOCH_STEP or epoch >= _LIMIT:
            return f"epoch {epoch} is more than {EPOCH_STEP} above the newest one seen, {newest}"
        if not self._reach.take(epoch - newest):
            return (
                f"the epoch has moved too far in a short time; the newest one seen is {newest}.  A restart of this"
                " process lets it go on"
            )
        return ""
