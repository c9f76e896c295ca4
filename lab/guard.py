"""A role's opened instruments with a guard that makes them safe when the role ends without having done so.

The guard is a process of its own (:mod:`drivers.guard`) that acts when the owner was killed, or could not make an
instrument safe.  It shares the owner's claims on the instruments (:mod:`lab.claims`): a successor waits until the guard of
a killed owner is done, and a second user beside a living one is refused.

A guard takes a second and more to load its drivers, so nothing is enabled before it could act: whoever enables first waits for it.

Whoever runs a role, or works in its place, has its interlock as well (:mod:`lab.interlock`), which listens before the first instrument is opened, and
which trips when the guard is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from drivers.guard import Guard
from drivers.links.errors import InterlockedError
from lab.claims import claiming
from lab.interlock.interlock import Interlock, interlocked
from lab.interlock.watching import Watch, watching
from lab.station import Station, StationError
from lab.testbed import Testbed
from orchestrator.durable import make_folder

GUARD_EVERY_S = 0.2


@contextmanager
def guarded_role(
    testbed: Testbed, testbed_path: Path, owner: str, state: Path, *, logs_as: str = ""
) -> Iterator[tuple[Station, Interlock]]:
    """The owner's opened station with a guard beside it, and the interlock of the role whose state folder is ``state``, made
    where it is missing; leaves the instruments safe and closed.  The guard logs as the role ``logs_as``, if any.

    Raises OwnedError when another process has one of them, StationError when some cannot be opened at the start or made safe
    at the end, after the guard has tried as well, and OSError for a folder that cannot be written.
    """
    make_folder(state)
    user = f"{owner} of {testbed_path.absolute()}"
    with claiming(testbed.owned_by(owner), user) as locks:
        station = Station(testbed, owner)
        with interlocked(station, state) as interlock, _guarded(station, user, locks, logs_as) as guard:
            if interlock.causes:
                station.safe()  # an instrument that was found on is left so by its driver

            def gone() -> str:
                return (
                    ""
                    if guard.lives
                    else "the guard process has ended: if this role is killed, light stays on"
                )

            with watching(interlock, [Watch("guard-gone", gone, GUARD_EVERY_S)]):
                yield station, interlock


def _permit(owner: str, guard: Guard, permit: Callable[[], None] | None) -> None:
    """Raise InterlockedError while nothing may be enabled, nor could be darkened if this process were killed."""
    if permit is not None:
        permit()
    try:
        guard.await_ready()
    except OSError as error:
        raise InterlockedError(
            f"{owner}: {error}: should it be killed, light would stay on; start it again"
        ) from error


@contextmanager
def _guarded(station: Station, user: str, locks: Sequence[int], logs_as: str) -> Iterator[Guard]:
    guard = Guard(user, locks=locks, logs_as=logs_as)
    station.permit = partial(_permit, station.owner, guard, station.permit)
    unsafe = False
    try:
        with station:
            guard.watch(station.watched())
            yield guard
    finally:
        if station.left_unsafe == {}:
            guard.dismiss()
        else:
            unsafe = not guard.call()
    if unsafe:
        raise StationError(station.owner, "making safe", station.left_unsafe or {})
