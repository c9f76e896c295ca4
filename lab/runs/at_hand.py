"""A ring in somebody's hands: instruments of some owners or all, the light of a pair in them if it is wanted.

What a bench has in a notebook (:mod:`lab.bench`), for commands: guarded and interlocked, refused while a role has one of them, dark
at the end.  Simulated instruments whose addresses the file leaves open are served here meanwhile, and a bundled testbed, which has
no folder of its own, gets one for the while: so a ring can be tried before anything is set up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.runs.knobs import Knob, knob, parameter_of
from lab.runs.sessions import Session, answering, opened_session
from lab.runs.testbeds.folder import FolderError, find_testbed, own_testbed
from lab.testbed import Testbed, UnknownNameError, load_testbed
from orchestrator.events.status import RELAY

if TYPE_CHECKING:
    from lab.runs.lit_ring import Interference

LIGHT = "light"
"""What stands in the place of an instrument's name for what the light of a pair does."""


@dataclass(frozen=True)
class AtHand:
    """What was opened; ``light`` is None where none was asked for."""

    session: Session
    light: Interference | None

    def instrument(self, name: str) -> Any:
        """By its name in the testbed file.  Raises UnknownNameError for one that is not here."""
        here = {each.name: each for at in self.session.stations.values() for each in at.instruments()}
        if name not in here:
            raise UnknownNameError(f"{name} is not among the instruments in hand: {', '.join(here)}")
        return here[name]

    def settable(self, wanted: Knob) -> Any:
        """The parameter that is turned."""
        return parameter_of(self.instrument(wanted.entry.name), wanted.parameter)


def owners_of(testbed: Testbed, knobs: Collection[str]) -> list[str]:
    """Who owns the instruments of these knobs.  Raises ValueError, UnknownNameError."""
    return list(dict.fromkeys(knob(testbed, each).entry.owner for each in knobs))


@contextmanager
def at_hand(
    named: Path, owners: Collection[str], pair: tuple[str, str] | None = None, state: Path | None = None
) -> Iterator[AtHand]:
    """The instruments of ``owners``; with ``pair`` everybody's, and the planned light of the pair in the ring.

    Raises what :func:`lab.runs.sessions.opened_session` and :func:`lab.runs.lit_ring.lit_ring` do, and FolderError for a
    bundled testbed that is not simulated.
    """
    file = find_testbed(named).absolute()
    with ExitStack() as opened:
        if state is None and is_bundled(file):
            if load_testbed(file).simulation is None:
                own_testbed(file)  # which says what to name instead
            state = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="qunetlab-hand-")))
        testbed, _ = opened.enter_context(answering(file))
        wanted = [RELAY, *testbed.user_names()] if pair else owners
        session = opened.enter_context(opened_session(testbed, file, wanted, state))
        session.check()
        light = None
        if pair is not None:
            from lab.runs.lit_ring import lit_ring

            light = opened.enter_context(lit_ring(session, pair))
        yield AtHand(session, light)


def is_bundled(file: Path) -> bool:
    """Whether a testbed file has no folder of its own."""
    try:
        own_testbed(file)
    except FolderError:
        return True
    return False
