"""Attacks of processes: ``qunetlab up`` ends an honest process of its simulated ring and starts a lying one in its place.

Asked at the control socket of ``state/up``; done in the loop that owns the processes, one after the other.  A learning server is
not one of them: who starts one asks here which program it is to be (:func:`program_of`).
"""

from __future__ import annotations

import logging
import queue
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from lab.runs.attacks.places import LEARNING_SERVER, UP, OneAttack
from lab.runs.attacks.role import MODULE
from lab.runs.supervising.supervisor import HONEST, ChildError
from orchestrator.wire.attack_control import AttackShown, BeginAttack, EndAttack, ShowAttack
from orchestrator.wire.control_socket import ControlError, Done, Failed, Reply, Request, ask
from sim_backends.attacks.table import attack_named

if TYPE_CHECKING:
    from lab.runs.supervising.supervised import Run

logger = logging.getLogger(__name__)
REPLACING_S = 120.0
"""Longer than a role takes to end and another to be ready."""
SHOW_S = 2.0


class RoleAttacks:
    """The processes of a run, of which one may lie; :meth:`serve` is called by the loop that owns them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._on = OneAttack()
        self._asked: queue.Queue[tuple[BeginAttack | EndAttack, Future[Reply]]] = queue.Queue()

    def answer(self, request: Request) -> Reply:
        """From the socket's thread; waits until the loop has come to it."""
        match request:
            case ShowAttack():
                return self._on.shown()
            case BeginAttack() | EndAttack():
                answer: Future[Reply] = Future()
                self._asked.put((request, answer))
                return answer.result(REPLACING_S)
        return Failed(f"what starts the roles answers no {type(request).__name__}, only attacks")

    def serve(self) -> None:
        """Do what was asked for."""
        while not self._asked.empty():
            request, answer = self._asked.get()
            try:
                answer.set_result(
                    self._begin(request) if isinstance(request, BeginAttack) else self._end(request.who)
                )
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                answer.set_exception(error)

    def _begin(self, asked: BeginAttack) -> Reply:
        attack, run = attack_named(asked.name), self._run
        if run.not_simulated is None or run.not_simulated:
            real = ", ".join(run.not_simulated or ())
            return Failed(
                f"this ring is not simulated alone{f': {real} are real instruments' if real else ''}"
            )
        if not attack.role:
            return Failed(f"{attack.name} is no attack of a process")
        if self._on.name:
            return Failed(f"{self._on.name} is on already: end it first")
        if attack.role != LEARNING_SERVER and attack.role not in run.supervisor.children:
            return Failed(f"{attack.role} does not run here")
        strength = attack.checked(asked.strength)
        on = AttackShown(attack.name, strength, asked.who)
        self._replace(attack.role, lying(on, run.testbed_path))
        self._on.begin(on)
        logger.warning("attack begun by %s: %s", asked.who, attack.told(strength))
        where = "the next training run's server" if attack.role == LEARNING_SERVER else attack.role
        return Done(f"{attack.told(strength)}: on; {where} lies")

    def _end(self, who: str) -> Reply:
        if not self._on.name:
            return Done("no attack of a process was on")
        attack = attack_named(self._on.name)
        self._replace(attack.role, HONEST)
        self._on.end()
        logger.warning("attack ended by %s: %s", who, attack.name)
        return Done(f"{attack.title}: ended, {attack.role} is honest again")

    def _replace(self, role: str, program: tuple[str, ...]) -> None:
        """Raises ChildError where the new process does not get ready; then the honest one is tried once more."""
        if role == LEARNING_SERVER:
            return
        try:
            self._run.replace(role, program)
        except ChildError:
            if program != HONEST:
                self._run.replace(role, HONEST)
            raise


def lying(on: AttackShown, testbed: Path) -> tuple[str, ...]:
    """The program of a process that lies so; its arguments are the honest one's."""
    return (MODULE, on.name, repr(on.strength), str(testbed))


def program_of(role: str, state: Path, testbed: Path, *, simulated: bool) -> tuple[str, ...]:
    """Which program the process of ``role`` is to be: the honest one, but where an attack on a simulated ring says otherwise."""
    if not simulated:
        return HONEST
    try:
        on: AttackShown = ask(state / UP, ShowAttack(), SHOW_S)
    except ControlError:
        return HONEST  # `qunetlab up` does not run, so nobody attacks
    return lying(on, testbed) if on.name and attack_named(on.name).role == role else HONEST
