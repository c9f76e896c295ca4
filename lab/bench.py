"""A testbed's instruments in a notebook: ``with bench.instruments("relay") as station:``.

    from lab import bench
    with bench.load("bench").instruments("relay") as station:
        station.laser.power_mw(1.0)

The station is a QCoDeS ``Station`` with the instruments of one owner or several, connected.  They have one user at a
time on a machine (:mod:`lab.claims`): while the notebook has them the role refuses to start, and the other way round.
Leaving the ``with``, by its
end, an exception or the stop button, makes all of them safe in the order of the catalogue; when the kernel is shut
down or killed inside, the guard process does (:mod:`lab.guard`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.guard import guarded_station
from lab.runs.testbeds.folder import find_testbed
from lab.station import Station as OwnersStation
from lab.testbed import Testbed, UnknownNameError, load_testbed

if TYPE_CHECKING:
    from qcodes.station import Station

    from drivers.base import LabInstrument

RELAY = "relay"


@dataclass(frozen=True)
class Bench:
    """A testbed file."""

    path: Path
    testbed: Testbed

    @contextmanager
    def instruments(self, *owners: str) -> Iterator[Station]:
        """A QCoDeS station with the instruments of ``owners``, relay or users, by the names of the testbed file.

        It is QCoDeS' default station while it lasts.  Raises UnknownNameError for an owner without instruments,
        OwnedError while another process has them, and StationError naming each that cannot be opened or made safe.
        """
        with self._opened(owners) as (station, _):
            yield station

    @contextmanager
    def lit(self, first: str, second: str, *, elsewhere: Collection[str] = ()) -> Iterator[Station]:
        """The same of the relay and all users, with the planned light of a pair in the ring and what it does as ``light``.

        ``elsewhere``: users whose instruments another notebook, or their node, has; of the pair the second alone may be.
        Raises besides what :meth:`instruments` does UnknownNameError for what is no pair, and LightAborted with what to
        check where the light is not as planned.
        """
        from lab.runs.lit_ring import lit_ring

        if (first, second) not in self.testbed.pairs() or first in elsewhere:
            raise UnknownNameError(
                f"({first}, {second}) is no pair of this testbed in ring order, or its first user is elsewhere"
            )
        here = [user for user in self.testbed.user_names() if user not in elsewhere]
        with (
            self._opened([RELAY, *here]) as (station, stations),
            lit_ring(self.testbed, (first, second), stations) as light,
        ):
            station.add_component(light)
            yield station

    @contextmanager
    def _opened(self, owners: Collection[str]) -> Iterator[tuple[Station, dict[str, OwnersStation]]]:
        """All instruments of ``owners`` as one station, and as the station of each."""
        from qcodes.station import Station

        having = {entry.owner for entry in self.testbed.instruments}
        for owner in owners:
            if owner not in having:
                raise UnknownNameError(
                    f"no instrument belongs to {owner!r}; owners are {', '.join(sorted(having))}"
                )
        before = Station.default
        with ExitStack() as opened:
            opened.callback(setattr, Station, "default", before)
            held: list[LabInstrument] = []
            stations: dict[str, OwnersStation] = {}
            for owner in sorted(owners, key=lambda owner: owner == RELAY):  # the light goes off first
                of_owner = opened.enter_context(guarded_station(self.testbed, self.path, owner))
                held += of_owner.instruments()
                stations[owner] = of_owner
            yield Station(*held), stations


def load(path: str | Path) -> Bench:
    """The bench of a testbed file or its folder.  Raises TestbedError with every mistake of the file."""
    file = find_testbed(Path(path)).absolute()
    return Bench(file, load_testbed(file))
