"""Instruments of one role or several in a process that is none of them: a notebook, a calibration while no role runs.

Each owner has what its role would give it: the claim on its instruments, a guard, and its interlock with the latch and the
socket in the role's own state folder.  So ``qunetlab stop`` and ``acknowledge`` reach a session as they reach a role, a role
that was stopped stays dark in a notebook, and a stopped notebook leaves a role dark.  A session whose process stands still
(a computation that lets no other thread run) is ended by ``qunetlab stop``, as a role is.

Looked at all the time is what can be looked at whatever somebody does by hand: the guards, and the rates of the relay's
detectors.  Sensors see bright light on purpose while losses are measured, so whoever takes stations into planned light
watches those (:func:`sensors_watched`).  An interlock of a user that trips takes the relay's with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from drivers.links.errors import InterlockedError
from lab import needs
from lab.guard import guarded_role
from lab.interlock.interlock import Interlock
from lab.interlock.watching import watching
from lab.runs.made_safe import left_by, sentence
from lab.runs.shown import echo
from lab.runs.testbeds.folder import STATE
from lab.station import Station
from lab.testbed import AUTO, Testbed, parse_testbed, read_testbed
from orchestrator.events.status import RELAY
from orchestrator.light.own_station import StationInstruments
from orchestrator.processes.interlock_causes import detector_watch, sensor_watch

if TYPE_CHECKING:
    from sim_backends.bench import Bench

POLL_S = 0.2


@dataclass(frozen=True)
class Session:
    """What was opened, by owner."""

    testbed: Testbed
    stations: Mapping[str, Station]
    interlocks: Mapping[str, Interlock]

    def check(self) -> None:
        """Raise InterlockedError while one of the interlocks is latched."""
        for interlock in self.interlocks.values():
            interlock.check()

    def left_safe(self) -> str:
        """What was made safe, in words, once the session has ended."""
        return sentence({owner: left_by(station) for owner, station in self.stations.items()})

    def wait_until_released(self, tell: Callable[[str], object]) -> None:
        """Wait, in the dark, for an operator's acknowledgement where one is latched; ``tell`` says so once."""
        told = ""
        while True:
            try:
                self.check()
            except InterlockedError as error:
                if told != str(error):
                    told = str(error)
                    tell(told)
                time.sleep(POLL_S)
            else:
                return


@contextmanager
def answering(path: Path) -> Iterator[tuple[Testbed, Bench | None]]:
    """The testbed of a file, every instrument with an address: simulated ones are served here where the file leaves it open.

    The second is what serves them, None where nothing has to be.  Raises TestbedError, BenchError.
    """
    data = read_testbed(path)
    testbed = parse_testbed(data, path)
    if testbed.simulation is None or all(each.address != AUTO for each in testbed.instruments):
        yield testbed, None
        return
    from sim_backends.bench import Bench

    with Bench(testbed) as bench:
        yield parse_testbed(bench.resolved(data), path), bench


@contextmanager
def opened_session(
    testbed: Testbed, path: Path, owners: Collection[str], state: Path | None = None
) -> Iterator[Session]:
    """The stations of ``owners`` opened and guarded; the relay, which has the light, is made safe first at the end.

    ``state``: where the state folders of roles are, beside the testbed file by default.  Raises OwnedError while another
    process has an instrument, StationError, and OSError with the place where a folder cannot be written.
    """
    root = state or path.parent / STATE
    managers = {owner: guarded_role(testbed, path, owner, root / owner) for owner in owners}
    stations: dict[str, Station] = {}
    with _told_if_interrupted(stations), ExitStack() as opened:
        with ThreadPoolExecutor(max(len(owners), 1)) as pool:
            opening = {owner: pool.submit(each.__enter__) for owner, each in managers.items()}
        failed: list[BaseException] = []
        interlocks: dict[str, Interlock] = {}
        for owner in sorted(owners, key=lambda each: each == RELAY):
            try:
                stations[owner], interlocks[owner] = opening[owner].result()
                opened.push(managers[owner])
            except BaseException as error:  # noqa: BLE001 - the others are closed first
                failed.append(error)
        if failed:
            raise failed[0]
        for owner, interlock in interlocks.items():
            if owner != RELAY and RELAY in interlocks:
                interlock.when_tripped(partial(_light_off, interlock, interlocks[RELAY]))
        if RELAY in stations:
            watch = detector_watch(testbed, stations[RELAY].get(needs.DETECTORS).count_rates)
            opened.enter_context(watching(interlocks[RELAY], [watch]))
        yield Session(testbed, stations, interlocks)


@contextmanager
def _told_if_interrupted(stations: Mapping[str, Station]) -> Iterator[None]:
    """Say what is safe when somebody has interrupted what went on with the stations; that one is not, is an error."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if words := sentence({owner: left_by(station) for owner, station in stations.items()}):
            echo(words, err=True)
        raise


def _light_off(tripped: Interlock, relay: Interlock, error: InterlockedError) -> None:
    """What one user's interlock found ends the light here, as the end of a lease does where everybody is a role."""
    latest = tripped.causes[-1]
    relay.trip(latest.cause, latest.text)


@contextmanager
def sensors_watched(session: Session, is_in: Mapping[str, Callable[[], bool]]) -> Iterator[None]:
    """The sensors of users while each ``is_in`` the ring, in planned light."""
    with ExitStack() as watched:
        for user, there in is_in.items():
            sensors = StationInstruments.of(session.stations[user]).sensors
            watch = sensor_watch(session.testbed, user, sensors, there)
            watched.enter_context(watching(session.interlocks[user], [watch]))
        yield
