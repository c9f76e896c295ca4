"""Carrying an attack: what the process of the simulator does that is asked at its control socket.

The socket lies in the folder :data:`~lab.runs.attacks.places.SIMULATOR` among the roles' state folders and answers attacks alone.  No process of a
real ring opens one: where any instrument is real, the simulator carries none either.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab.runs.attacks.places import SIMULATOR, OneAttack
from orchestrator.durable import make_folder
from orchestrator.wire.attack_control import AttackShown, BeginAttack, EndAttack, ShowAttack
from orchestrator.wire.control_socket import ControlSocket, Done, Failed, Reply, Request
from sim_backends.attacks.light import NOBODY
from sim_backends.attacks.table import attack_named

if TYPE_CHECKING:
    from sim_backends.bench import Bench
    from sim_backends.optics import Ring

logger = logging.getLogger(__name__)


class LightAttacks:
    """Attacks on the light of a simulated ring; ``real`` names the instruments that are not simulated."""

    def __init__(self, ring: Ring, real: Sequence[str]) -> None:
        self._ring, self._real = ring, real
        self._lock = threading.Lock()
        self._on = OneAttack()

    def answer(self, request: Request) -> Reply:
        """Raises ValueError for what cannot be."""
        with self._lock:
            match request:
                case ShowAttack():
                    return self._on.shown()
                case BeginAttack():
                    return self._begin(request)
                case EndAttack(who):
                    return self._end(who)
        return Failed(f"the simulator answers no {type(request).__name__}, only attacks")

    def _begin(self, asked: BeginAttack) -> Reply:
        attack = attack_named(asked.name)
        if self._real:
            return Failed(f"this ring is not simulated alone: {', '.join(self._real)} are real instruments")
        if attack.light is None:
            return Failed(f"{attack.name} is no attack on light: the simulator does not carry it")
        if self._on.name:
            return Failed(f"{self._on.name} is on already: end it first")
        strength = attack.checked(asked.strength)
        self._ring.eavesdrop(attack.light(strength))
        self._on.begin(AttackShown(attack.name, strength, asked.who))
        logger.warning("attack begun by %s: %s", asked.who, attack.told(strength))
        return Done(f"{attack.told(strength)}: on")

    def _end(self, who: str) -> Reply:
        ended = self._on.name
        self._on.end()
        self._ring.eavesdrop(NOBODY)
        if not ended:
            return Done("no attack on light was on")
        logger.warning("attack ended by %s: %s", who, ended)
        return Done(f"{attack_named(ended).title}: ended, the ring is honest again")


@contextmanager
def attacks_on_light(state: Path | None, bench: Bench) -> Iterator[None]:
    """Attacks on the bench's ring may be asked for in the folder ``state`` until the end; nowhere without one.

    Raises ControlError where another simulator listens there, OSError with its place.
    """
    if state is None:
        yield
        return
    make_folder(state / SIMULATOR)
    with ControlSocket(state / SIMULATOR, LightAttacks(bench.ring, bench.real()).answer):
        yield
