"""A testbed's instruments in a notebook: ``with bench.instruments("relay") as station:``.

    from lab import bench
    with bench.load("bench").instruments("relay") as station:
        station.laser.power_mw(1.0)

The station is a QCoDeS ``Station`` with the instruments of one owner or several, connected.  They have one user at a
time on a machine (:mod:`lab.claims`): while the notebook has them the role refuses to start, and the other way round.
Leaving the ``with``, by its
end, an exception or the stop button, makes all of them safe in the order of the catalogue; when the kernel is shut
down or killed inside, the guard process does (:mod:`lab.guard`).

``qunetlab stop`` reaches a notebook as it reaches a role, and so do detectors over rate and a guard that is gone: everything
is dark, latched, and every cell that would enable something raises InterlockedError until somebody gives ``qunetlab
acknowledge`` (:mod:`lab.runs.sessions`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.runs.testbeds.folder import source_path
from lab.testbed import Testbed, UnknownNameError, load_testbed
from orchestrator.events.status import RELAY

if TYPE_CHECKING:
    from qcodes.station import Station

    from drivers.base import LabInstrument
    from lab.runs.sessions import Session


@dataclass(frozen=True)
class Bench:
    """A testbed file; ``state`` is where the state folders of its roles are, beside it by default."""

    path: Path
    testbed: Testbed
    state: Path | None = None

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
            self._opened([RELAY, *here]) as (station, session),
            lit_ring(session, (first, second)) as light,
        ):
            station.add_component(light)
            yield station

    @contextmanager
    def _opened(self, owners: Collection[str]) -> Iterator[tuple[Station, Session]]:
        """All instruments of ``owners`` as one station, and as those of each."""
        from qcodes.station import Station

        from lab.runs.sessions import opened_session

        having = {entry.owner for entry in self.testbed.instruments}
        for owner in owners:
            if owner not in having:
                raise UnknownNameError(
                    f"no instrument belongs to {owner!r}; owners are {', '.join(sorted(having))}"
                )
        before = Station.default
        with ExitStack() as opened:
            opened.callback(setattr, Station, "default", before)
            session = opened.enter_context(opened_session(self.testbed, self.path, owners, self.state))
            held: list[LabInstrument] = [
                each for station in session.stations.values() for each in station.instruments()
            ]
            yield Station(*held), session


def load(path: str | Path, state: str | Path | None = None) -> Bench:
    """The bench of a testbed file or its folder; ``state`` as in ``qunetlab stop --state``.

    Raises TestbedError with every mistake of the file.
    """
    file = source_path(str(path)).absolute()
    return Bench(file, load_testbed(file), Path(state).absolute() if state is not None else None)
