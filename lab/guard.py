"""The guard of one role's instruments: it makes them safe when their owner ends without having done so.

The owner starts the guard with a pipe on the guard's standard input and writes ``clean`` before a normal
end.  If the pipe closes without that word - the owner was killed, or could not make an instrument safe - the
guard opens the owner's instruments and applies their safe states.  It holds no secret and opens nothing
while the owner lives.

Owner and guard share a lock file, so that the instruments of a role have one owner at a time on a machine:
a successor waits until the guard of a killed owner is done, and a second owner beside a living one is
refused.  The file holds the owner's process number; the guard empties it when it takes over.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from drivers.catalogue import open_instrument
from lab.station import Station, StationError, in_safe_order
from lab.testbed import InstrumentEntry, Testbed, load_testbed

logger = logging.getLogger(__name__)

CLEAN = b"clean\n"
LOCK_FILE = "instruments.lock"
TAKEOVER_S = 2.0
"""A guard that takes over empties the lock file well within this time."""
GUARD_LIMIT_S = 60.0


class OwnedError(Exception):
    """Another process has the instruments of this role."""


@contextmanager
def owning(lock: Path, owner: str) -> Iterator[int]:
    """Hold the lock file of the instruments of ``owner``; yields its descriptor.

    Waits for the guard of a killed owner.  Raises OwnedError when an owner lives, or its guard hangs.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        started = time.monotonic()
        while not _try_lock(descriptor):
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            waited_s = time.monotonic() - started
            if holder and waited_s > TAKEOVER_S:
                raise OwnedError(
                    f"process {holder} on this machine runs as {owner} and has its instruments; "
                    "stop it first, each role runs once"
                )
            if waited_s > GUARD_LIMIT_S:
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


class Guard:
    """The owner's handle on its guard process; ``lock`` is the descriptor that both keep open."""

    def __init__(self, testbed_path: Path, owner: str, lock: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lab.guard", str(testbed_path), owner, str(lock)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[lock],
        )

    def dismiss(self) -> None:
        """Tell the guard that the instruments are safe already, and wait for its end."""
        self._end(CLEAN, 10.0)

    def call(self) -> bool:
        """Have the guard make the instruments safe; whether it could."""
        return self._end(b"", GUARD_LIMIT_S) == 0

    def _end(self, word: bytes, timeout_s: float) -> int:
        try:
            self._process.communicate(word, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        except BrokenPipeError:
            self._process.wait()
        return self._process.returncode


@contextmanager
def guarded_station(testbed: Testbed, testbed_path: Path, owner: str, state_dir: Path) -> Iterator[Station]:
    """The owner's opened station with a guard beside it; leaves the instruments safe and closed.

    Raises OwnedError when another process has them, and StationError when some cannot be opened at the
    start or made safe at the end, after the guard has tried as well.
    """
    with owning(state_dir / LOCK_FILE, owner) as lock:
        guard = Guard(testbed_path, owner, lock)
        station = Station(testbed, owner)
        unsafe = False
        try:
            with station:
                yield station
        finally:
            if station.left_unsafe:
                unsafe = not guard.call()
            else:
                guard.dismiss()
        if unsafe:
            raise StationError(owner, "making safe", station.left_unsafe)


def make_safe(entries: Iterable[InstrumentEntry], owner: str) -> int:
    """Open the instruments one by one and make each safe; the number that failed."""
    failed = 0
    for entry in in_safe_order(entries):
        try:
            with closing(
                open_instrument(entry.model, entry.name, entry.address, **entry.options)
            ) as instrument:
                instrument.safe_state()
        except Exception as error:  # noqa: BLE001 - the other instruments must still be made safe
            failed += 1
            logger.error("guard of %s: %s could not be made safe: %s", owner, entry.name, error)
    return failed


def main() -> int:
    """Wait for the owner's end; ``lab.guard TESTBED OWNER LOCK_DESCRIPTOR``."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owner, lock = sys.argv[2], int(sys.argv[3])
    entries = load_testbed(Path(sys.argv[1])).owned_by(owner)  # at once: the file may change meanwhile
    if sys.stdin.buffer.read().endswith(CLEAN):
        return 0
    os.ftruncate(lock, 0)
    logger.warning("%s has left its instruments; making them safe", owner)
    failed = make_safe(entries, owner)
    logger.warning("instruments of %s are safe%s", owner, f", except {failed}" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
