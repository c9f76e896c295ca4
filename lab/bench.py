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

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.guard import guarded_station
from lab.runs.testbeds.folder import find_testbed
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
            for owner in sorted(owners, key=lambda owner: owner == RELAY):  # the light goes off first
                of_owner = opened.enter_context(guarded_station(self.testbed, self.path, owner))
                held += of_owner.instruments()
            yield Station(*held)


def load(path: str | Path) -> Bench:
    """The bench of a testbed file or its folder.  Raises TestbedError with every mistake of the file."""
    file = find_testbed(Path(path)).absolute()
    return Bench(file, load_testbed(file))
