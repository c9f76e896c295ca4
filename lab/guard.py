"""A role's opened instruments with a guard that makes them safe when the role ends without having done so.

The guard is a process of its own (:mod:`drivers.guard`) that acts when the owner was killed, or could not make an
instrument safe.  It shares the owner's claims on the instruments (:mod:`lab.claims`): a successor waits until the guard of
a killed owner is done, and a second user beside a living one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivers.guard import Guard
from lab.claims import claiming
from lab.station import Station, StationError
from lab.testbed import Testbed


@contextmanager
def guarded_station(testbed: Testbed, testbed_path: Path, owner: str) -> Iterator[Station]:
    """The owner's opened station with a guard beside it; leaves the instruments safe and closed.

    Raises OwnedError when another process has one of them, and StationError when some cannot be opened at the
    start or made safe at the end, after the guard has tried as well.
    """
    user = f"{owner} of {testbed_path.absolute()}"
    with claiming(testbed.owned_by(owner), user) as locks:
        guard = Guard(user, locks=locks)
        station = Station(testbed, owner)
        unsafe = False
        try:
            with station:
                guard.watch(station.watched())
                yield station
        finally:
            if station.left_unsafe == {}:
                guard.dismiss()
            else:
                unsafe = not guard.call()
        if unsafe:
            raise StationError(owner, "making safe", station.left_unsafe or {})
