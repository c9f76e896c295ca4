"""The attack range as an operator has it: which attacks there are, which one is on, beginning and ending one.

Refused for every ring that is not simulated, before anybody is asked.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any

from lab.runs.attacks.places import NONE, SIMULATOR, UP
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import ORCHESTRATOR
from orchestrator.wire.attack_control import AttackShown, BeginAttack, EndAttack, ShowAttack
from orchestrator.wire.control_socket import ControlError, ControlRefusedError, Done, ask, listens
from orchestrator.wire.queue_control import OPEN, AbortEntry, AddEntry, QueueShown, ResumeQueue, ShowQueue
from sim_backends.attacks.table import ATTACKS, Attack, AttackRow, attack_named

PATIENCE_S = 10.0
CLOSED = 200
"""Entries that left the queue, the latest, among which calibrations are looked for."""
REPLACING_S = 150.0
"""More than replacing a process takes."""


class AttackError(ValueError):
    """It cannot be done; the text says why, and what to do."""


def check_simulated(machine: Machine) -> None:
    """Raises AttackError for a ring that is real."""
    if machine.testbed.simulation is None:
        raise AttackError(
            f"{machine.testbed.name} is not simulated: attacks are of simulated rings alone, and nothing was done"
        )


def carrier_of(attack: Attack) -> str:
    """The folder, among the roles', of the process that carries it."""
    return UP if attack.role else SIMULATOR


def attack_on(machine: Machine, patience_s: float = PATIENCE_S) -> AttackShown:
    """The attack that is on, without a name for none.  Raises AttackError, ControlError where no simulator answers."""
    check_simulated(machine)
    shown: AttackShown = ask(machine.folder(SIMULATOR), ShowAttack(), patience_s)
    if shown.name or not listens(machine.folder(UP)):
        return shown
    lies: AttackShown = ask(machine.folder(UP), ShowAttack(), patience_s)
    return lies


def begin(machine: Machine, name: str, strength: float | None) -> str:
    """Begin it; returns what became of it, in words.

    Raises AttackError, ValueError for a name or a strength that there is not, ControlError, ControlRefusedError.
    """
    check_simulated(machine)
    attack = attack_named(name)
    value = attack.checked(strength)
    if (on := attack_on(machine)).name:
        raise AttackError(f"{on.name} is on already: end it first, with `qunetlab attack TESTBED --stop`")
    if attack.role and not listens(machine.folder(UP)):
        raise AttackError(
            f"{name} takes the place of a process, and these were not started here by `qunetlab up`: nothing was done"
        )
    told: Done = ask(machine.folder(carrier_of(attack)), BeginAttack(who(), name, value), REPLACING_S)
    return told.text


def end(machine: Machine) -> str:
    """End whatever is on, and undo what the orchestrator made of it; returns what became of it.  Raises as :func:`begin`."""
    on = attack_on(machine)
    since = time.time() - on.for_s
    carrier = carrier_of(attack_named(on.name)) if on.name else SIMULATOR
    told: Done = ask(machine.folder(carrier), EndAttack(who()), REPLACING_S)
    return "; ".join([told.text, *(_put_right(machine, since) if on.name else ())])


def _put_right(machine: Machine, since: float) -> Iterator[str]:
    """Have pairs make key again that were suspended under the attack, take out calibrations that were queued for them, and order anew
    what was calibrated meanwhile: such values hold for a ring under attack.  What was suspended or queued ``since`` then (wall clock,
    by which the orchestrator dates it), and nothing else; only of an orchestrator on this machine.
    """
    folder = machine.folder(ORCHESTRATOR)
    try:
        queue: QueueShown = ask(folder, ShowQueue(CLOSED), PATIENCE_S)
        for pair in machine.testbed.pairs():
            with suppress(ControlRefusedError):  # it is not suspended, or was before
                yield ask(folder, ResumeQueue(who(), pair=pair, since=since), PATIENCE_S).text
        meanwhile = [
            row for row in queue.entries if row.kind == "calibration" and (row.ended_at or since) >= since
        ]
        for row in meanwhile:
            if row.owner == ORCHESTRATOR and row.state in OPEN and row.added_at >= since:
                yield ask(folder, AbortEntry(who(), row.number), PATIENCE_S).text
        for pairs in dict.fromkeys(row.pairs for row in meanwhile):
            found = (step for row in meanwhile if row.pairs == pairs for step in row.steps[: row.steps_done])
            if steps := tuple(dict.fromkeys(found)):
                anew = AddEntry(who(), "calibration", pairs, steps=steps, note="measured under attack before")
                added: QueueShown = ask(folder, anew, PATIENCE_S)
                yield f"entry {added.entries[0].number} measures anew what was calibrated meanwhile: {', '.join(steps)}"
    except (ControlError, ControlRefusedError) as error:
        yield f"pairs that were suspended stay so ({error}): `qunetlab queue resume --pair PAIR`"


def rows() -> list[dict[str, Any]]:
    """Every attack in words and numbers, as commands and pages show it."""
    shown = [each.name for each in fields(AttackRow)]
    return [{name: getattr(attack, name) for name in shown} for attack in ATTACKS]


def who() -> str:
    """Who asks."""
    return getpass.getuser()[:64]


__all__ = ["NONE", "AttackError", "ControlError", "attack_on", "begin", "check_simulated", "end", "rows"]
