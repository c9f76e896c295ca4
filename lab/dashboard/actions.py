"""What an operator may do from a page: each asks the process that owns it, as the commands do, and says what became of it.

Stopping needs nothing but the button (:mod:`lab.dashboard.stopping`).  Everything else is a request with the dashboard's
token, typed once: the file ``dashboard/token`` in the state folder (0600), whose reader may give the commands anyway.
Who asks is the user of the machine that runs the dashboard, as with the commands.
"""

from __future__ import annotations

import getpass
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from lab.calibration.steps import LEASED, STEPS
from lab.dashboard.machine_watch import records_folder
from lab.dashboard.presence import AUDIT_FILE, AUDIT_PAGE, FOLDER
from lab.interlock.latch import clock_for_people
from lab.runs.attacks import control as attack_range
from lab.runs.audit.auditing import audited, lines
from lab.runs.interlocks import acknowledge, chosen_roles
from lab.runs.pages.audit_page import render_audit
from lab.runs.testbeds.machine import Machine
from orchestrator.decoding import from_plain
from orchestrator.durable import create_file, make_folder, replace_file
from orchestrator.events.status import ORCHESTRATOR
from orchestrator.randomness import random_hex
from orchestrator.wire.control_socket import AcknowledgeAlarm, Done, Request, ShelveAlarm, ask
from orchestrator.wire.queue_control import (
    AbortEntry,
    AddEntry,
    HoldQueue,
    MoveEntry,
    Note,
    Number,
    Priority,
    QueueRequest,
    QueueShown,
    ResumeQueue,
)

_auditing = threading.Lock()
TOKEN_FILE = "token"
SHORTEST_TOKEN = 16
PATIENCE_S = 10.0
"""More than the orchestrator lets an operator wait (:mod:`orchestrator.processes.queue_desk`)."""

Pair: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Step: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class ActionError(ValueError):
    """What was asked cannot be done; the text says why."""


def token_of(machine: Machine) -> str:
    """The token of this testbed's dashboard, made where there is none yet.

    Raises OSError, and ValueError for a file that holds none.
    """
    path = machine.folder(FOLDER) / TOKEN_FILE
    make_folder(path.parent)
    if not path.exists():
        create_file(path, random_hex(16).encode(), 0o600)
    token = path.read_text(encoding="ascii").strip()
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(f"{path} holds no token: remove it, and the next dashboard makes one")
    return token


# -- what may be asked -----------------------------------------------------------------------------------


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request's JSON object."""


class ReleaseRoles(_Asked, frozen=True):
    """Acknowledge the interlock of ``role``, or of all roles here."""

    role: str | None = None


class SeenAlarm(_Asked, frozen=True):
    """An alarm was seen; ``id`` as ``qunetlab alarms`` lists it."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]


class PutAway(_Asked, frozen=True):
    """Keep an alarm out of the way for ``for_s``; 0 brings it back."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    for_s: Annotated[float, Meta(ge=0.0, le=86400.0)]


class Hold(_Asked, frozen=True):
    """Begin nothing more, of one entry or at all."""

    number: Number | None = None


class Resume(_Asked, frozen=True):
    """Go on: one entry, a suspended pair, or all."""

    number: Number | None = None
    pair: Pair | None = None


class Abort(_Asked, frozen=True):
    """Take an entry out; ``take_over`` the maintenance of somebody else."""

    number: Number
    take_over: bool = False


class Move(_Asked, frozen=True):
    """Another place, priority or due time for an entry."""

    number: Number
    before: Number | None = None
    priority: Priority | None = None
    due_in_s: Annotated[float, Meta(gt=0, le=1e8)] | None = None


class OrderKey(_Asked, frozen=True):
    """Key for a pair, as an entry of the queue."""

    pair: Pair
    bits: Annotated[int, Meta(ge=1, le=10**12)]
    note: Note = ""


class Calibrate(_Asked, frozen=True):
    """Calibration steps of a pair, as an entry of the queue."""

    pair: Pair
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=64)]


class AuditRecords(_Asked, frozen=True):
    """Hold the records of this folder against each other, from light to model."""


class Attack(_Asked, frozen=True):
    """Put a simulated ring under an attack (:mod:`lab.runs.attacks`), as strong as is usual unless told."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    strength: Annotated[float, Meta(ge=0.0, le=1e3)] | None = None


class EndTheAttack(_Asked, frozen=True):
    """Back to an honest ring."""


# -- what is done ------------------------------------------------------------------------------------------


def _release(machine: Machine, asked: ReleaseRoles) -> dict[str, Any]:
    all_told = acknowledge(machine, chosen_roles(machine, asked.role), _who())
    roles = [{"role": told.role, "ok": told.ok, "text": told.text} for told in all_told]
    return {"text": "\n".join(told.text for told in all_told), "roles": roles}


def _seen(machine: Machine, asked: SeenAlarm) -> dict[str, Any]:
    return _tell(machine, asked.id.partition("/")[0], AcknowledgeAlarm(asked.id))


def _put_away(machine: Machine, asked: PutAway) -> dict[str, Any]:
    return _tell(machine, asked.id.partition("/")[0], ShelveAlarm(asked.id, asked.for_s))


def _tell(machine: Machine, role: str, request: Request) -> dict[str, Any]:
    (known,) = chosen_roles(machine, role)
    told: Done = ask(machine.folder(known), request, PATIENCE_S)
    return {"text": told.text}


def _hold(machine: Machine, asked: Hold) -> dict[str, Any]:
    return _queue(machine, HoldQueue(_who(), asked.number))


def _resume(machine: Machine, asked: Resume) -> dict[str, Any]:
    if asked.number is not None and asked.pair is not None:
        raise ActionError("resume an entry or a pair, not both")
    pair = None if asked.pair is None else machine.pair(asked.pair)
    return _queue(machine, ResumeQueue(_who(), asked.number, pair))


def _abort(machine: Machine, asked: Abort) -> dict[str, Any]:
    return _queue(machine, AbortEntry(_who(), asked.number, asked.take_over))


def _move(machine: Machine, asked: Move) -> dict[str, Any]:
    return _queue(machine, MoveEntry(_who(), asked.number, asked.before, asked.priority, asked.due_in_s))


def _order(machine: Machine, asked: OrderKey) -> dict[str, Any]:
    pair = machine.pair(asked.pair)
    return _queue(machine, AddEntry(_who(), "key", (pair,), asked.bits, note=asked.note))


def _calibrate(machine: Machine, asked: Calibrate) -> dict[str, Any]:
    if by_hand := [step for step in asked.steps if step not in LEASED]:
        known = ", ".join(step for step in STEPS if step in LEASED)
        raise ActionError(
            f"{', '.join(by_hand)}: the queue calibrates {known}; others with `qunetlab calibrate`"
        )
    pair = machine.pair(asked.pair)
    return _queue(machine, AddEntry(_who(), "calibration", (pair,), steps=asked.steps))


def _audit(machine: Machine, _: AuditRecords) -> dict[str, Any]:
    """One at a time: it reads every record and key book there is, without a secret; the page of it is kept beside the token."""
    if not _auditing.acquire(blocking=False):
        raise ActionError("an audit goes on already: wait until it is done")
    try:
        found = audited(records_folder(machine))
    finally:
        _auditing.release()
    text, path = list(lines(found))[-1], machine.folder(FOLDER) / AUDIT_FILE
    try:
        make_folder(path.parent)
        replace_file(path, render_audit(found, clock_for_people()).encode())
    except OSError as error:
        return {
            "text": f"{text}; {path} cannot be written: {error.strerror}",
            "audit": msgspec.to_builtins(found),
        }
    return {"text": text, "audit": msgspec.to_builtins(found), "page": AUDIT_PAGE}


def _attack(machine: Machine, asked: Attack) -> dict[str, Any]:
    return {"text": attack_range.begin(machine, asked.name, asked.strength)}


def _end_attack(machine: Machine, _: EndTheAttack) -> dict[str, Any]:
    return {"text": attack_range.end(machine)}


def _queue(machine: Machine, request: QueueRequest) -> dict[str, Any]:
    told: Done | QueueShown = ask(machine.folder(ORCHESTRATOR), request, PATIENCE_S)
    if isinstance(told, Done):
        return {"text": told.text}
    text = "; ".join(f"entry {row.number}: {row.what}, {row.state}" for row in told.entries)
    return {"text": text, "queue": msgspec.to_builtins(told)}


def _who() -> str:
    return getpass.getuser()[:64]


ACTIONS: dict[str, tuple[type[Any], Callable[[Machine, Any], dict[str, Any]]]] = {
    "acknowledge": (ReleaseRoles, _release),
    "alarm-acknowledge": (SeenAlarm, _seen),
    "alarm-shelve": (PutAway, _put_away),
    "queue-hold": (Hold, _hold),
    "queue-resume": (Resume, _resume),
    "queue-abort": (Abort, _abort),
    "queue-move": (Move, _move),
    "order-key": (OrderKey, _order),
    "calibrate": (Calibrate, _calibrate),
    "audit": (AuditRecords, _audit),
    "attack": (Attack, _attack),
    "attack-end": (EndTheAttack, _end_attack),
}
"""By the name that a page asks for: the request, and what does it."""


def act(machine: Machine, name: str, asked: object) -> dict[str, Any]:
    """Do it; the answer is for the page, its ``text`` for people.

    Raises ActionError or ValueError for what cannot be asked, ControlRefusedError with what a process answered, and
    ControlError where none did.
    """
    if name not in ACTIONS:
        raise ActionError(f"no action {name!r}; there are {', '.join(ACTIONS)}")
    kind, do = ACTIONS[name]
    return do(machine, from_plain(asked, kind))
