"""The guard of one role's instruments: when its owner dies without a word, it makes them safe.

The owner starts the guard with a pipe on the guard's standard input and writes ``clean`` before a normal
end.  If the pipe closes without that word - the owner was killed - the guard opens the owner's instruments
and applies their safe states.  It holds no secret and opens nothing while the owner lives.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.station import Station, in_safe_order
from lab.testbed import Testbed, load_testbed

logger = logging.getLogger(__name__)

CLEAN = b"clean\n"


class Guard:
    """The owner's handle on its guard process."""

    def __init__(self, testbed_path: Path, owner: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lab.guard", str(testbed_path), owner],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Tell the guard that the instruments are safe already, and wait for its end."""
        try:
            self._process.communicate(CLEAN, timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        except BrokenPipeError:
            self._process.wait()


@contextmanager
def guarded_station(testbed: Testbed, testbed_path: Path, owner: str) -> Iterator[Station]:
    """The owner's opened station with a guard beside it; leaves the instruments safe and closed."""
    guard = Guard(testbed_path, owner)
    try:
        with Station(testbed, owner) as station:
            yield station
    finally:
        guard.dismiss()


def make_safe(testbed_path: Path, owner: str) -> int:
    """Open the owner's instruments one by one and make each safe; the number that failed."""
    from drivers.registry import open_instrument

    failed = 0
    for entry in in_safe_order(load_testbed(testbed_path).owned_by(owner)):
        try:
            instrument = open_instrument(entry.model, entry.name, entry.address, **entry.options)
            try:
                instrument.safe_state()
            finally:
                instrument.close()
        except Exception as error:  # noqa: BLE001 - the other instruments must still be made safe
            failed += 1
            logger.error("guard of %s: %s could not be made safe: %s", owner, entry.name, error)
    return failed


def main() -> int:
    """Wait for the owner's end; ``lab.guard TESTBED OWNER``."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    testbed_path, owner = Path(sys.argv[1]), sys.argv[2]
    if sys.stdin.buffer.read().endswith(CLEAN):
        return 0
    logger.warning("%s ended without a word; making its instruments safe", owner)
    failed = make_safe(testbed_path, owner)
    logger.warning("instruments of %s are safe%s", owner, f", except {failed}" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
