"""One owner of a role's instruments at a time, with a guard that makes them safe when it ends without having done so.

The guard is a process of its own (:mod:`drivers.guard`) that acts when the owner was killed, or could not make an
instrument safe.  Owner and guard share a lock file, so that the instruments of a role have one owner at a time on a machine:
a successor waits until the guard of a killed owner is done, and a second owner beside a living one is
refused.  The file holds the owner's process number; the guard empties it when it takes over.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivers.guard import GUARD_LIMIT_S, Guard
from lab.station import Station, StationError, watched
from lab.testbed import Testbed

LOCK_FILE = "instruments.lock"
TAKEOVER_S = 2.0
"""A guard that takes over empties the lock file well within this time."""


class OwnedError(Exception):
    """Another process has the instruments of this role."""


@contextmanager
def owning(lock: Path, owner: str, *, patience_s: float = GUARD_LIMIT_S) -> Iterator[int]:
    """Hold the lock file of the instruments of ``owner``; yields its descriptor.

    Waits for the guard of a killed owner.  Raises OwnedError when an owner lives, or its guard hangs; with no patience,
    at once in either case.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        started = time.monotonic()
        while not _try_lock(descriptor):
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            waited_s = time.monotonic() - started
            if holder and waited_s >= min(TAKEOVER_S, patience_s):
                raise OwnedError(
                    f"process {holder} on this machine runs as {owner} and has its instruments; "
                    "stop it first, each role runs once"
                )
            if waited_s >= patience_s:
                raise OwnedError(
                    f"the guard of a killed {owner} has been making instruments safe for {waited_s:.0f} s; "
                    "look at them, then end it"
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def borrowing(state_dir: Path, owner: str) -> Iterator[None]:
    """Have the instruments of ``owner`` for a look; what brings them to a known state must not meet a role at work.

    ``state_dir`` is where the role keeps its state.  Raises OwnedError at once when another process has them.
    """
    if not state_dir.is_dir():  # no role ever ran here, and a look leaves nothing behind
        yield
        return
    with owning(state_dir / LOCK_FILE, owner, patience_s=0.0):
        yield


@contextmanager
def guarded_station(testbed: Testbed, testbed_path: Path, owner: str, state_dir: Path) -> Iterator[Station]:
    """The owner's opened station with a guard beside it; leaves the instruments safe and closed.

    Raises OwnedError when another process has them, and StationError when some cannot be opened at the
    start or made safe at the end, after the guard has tried as well.
    """
    with owning(state_dir / LOCK_FILE, owner) as lock:
        guard = Guard(f"{owner} of {testbed_path}", lock=lock)
        station = Station(testbed, owner)
        unsafe = False
        try:
            with station:
                guard.watch(watched(station.entries))
                yield station
        finally:
            if station.left_unsafe == {}:
                guard.dismiss()
            else:
                unsafe = not guard.call()
        if unsafe:
            raise StationError(owner, "making safe", station.left_unsafe or {})
