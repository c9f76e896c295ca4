"""``qunetlab alarms``: what stands, acknowledging, shelving.

The list is what the orchestrator has heard of every role; where it does not answer, what the roles of this machine say
themselves.  An alarm is acknowledged and shelved at its own role, on that role's machine.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from lab.cli.options import show
from lab.runs.following.observer import Observer, ObserverError
from lab.runs.following.terminal import columns
from lab.runs.following.view import alarm_cells, table
from lab.runs.interlocks import owning_roles
from lab.runs.shown import echo
from lab.runs.testbeds.folder import SECRETS
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import Alarm
from orchestrator.wire.control_socket import (
    AcknowledgeAlarm,
    ControlError,
    Request,
    ShelveAlarm,
    ShowAlarms,
    ask,
    listens,
)


class StandingAlarm(Alarm, frozen=True, kw_only=True, tag="Alarm"):
    """One that stands, as it was told; ``id`` is what it is acknowledged by, ``age_s`` None where its role said it just now."""

    id: str
    role: str
    age_s: float | None


CONNECT_TIMEOUT_S = 3.0
UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def list_alarms(testbed: Path, secrets: Path | None, state: Path | None, as_json: bool) -> int:
    """Print every alarm that stands; 0 if none does but shelved ones, else 1."""
    machine = Machine(testbed, state)
    try:
        rows = _from_hub(machine, secrets)
        source = "as the orchestrator heard"
    except (ObserverError, ValueError) as error:  # no hub, or none that the file names
        rows = [(role, alarm, None) for role in owning_roles(machine) for alarm in _from_role(machine, role)]
        source = f"of the roles that run on this machine alone ({error})"
    disturbing = [alarm for _, alarm, _ in rows if not alarm.shelved_s]
    document = [
        StandingAlarm(id=alarm.id_of(role), role=role, age_s=age_s, **msgspec.structs.asdict(alarm))
        for role, alarm, age_s in rows
    ]
    width = columns()
    head = ("ALARM", "", "since", "")
    lines = table(head, [alarm_cells(*row) for row in rows], width) if rows else ["no alarms"]
    show(msgspec.to_builtins(document), as_json, "\n".join([*lines, source]))
    return 1 if disturbing else 0


def _from_hub(machine: Machine, secrets: Path | None) -> list[tuple[str, Alarm, float | None]]:
    keys = secrets or machine.path.parent / SECRETS
    with Observer.connect(machine.testbed, keys, CONNECT_TIMEOUT_S) as observer:
        observer.wait_for_snapshot(CONNECT_TIMEOUT_S)
        return [(role, alarm, age_s) for role, alarm, age_s in observer.said_by(Alarm)]


def _from_role(machine: Machine, role: str) -> list[Alarm]:
    if not listens(machine.folder(role)):
        return []
    alarms: list[Alarm] = ask(machine.folder(role), ShowAlarms()).alarms
    return alarms


def acknowledge_alarm(identity: str, testbed: Path, state: Path | None) -> int:
    """Say that an alarm was seen."""
    return _tell(identity, AcknowledgeAlarm(identity), testbed, state)


def shelve_alarm(identity: str, for_text: str, testbed: Path, state: Path | None) -> int:
    """Keep an alarm out of the way for so long."""
    return _tell(identity, ShelveAlarm(identity, seconds(for_text)), testbed, state)


def _tell(identity: str, request: Request, testbed: Path, state: Path | None) -> int:
    machine = Machine(testbed, state)
    role = identity.partition("/")[0]
    known = owning_roles(machine)
    if role not in known:
        raise ValueError(f"{identity!r} is no alarm: its first part is none of {', '.join(known)}")
    if not listens(machine.folder(role)):
        raise ControlError(f"{role} does not run on this machine; give the command on its machine")
    echo(ask(machine.folder(role), request).text)
    return 0


def seconds(text: str) -> float:
    """A time such as ``90s``, ``30m``, ``2h``; ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)", text.strip())
    if found is None and text.strip() != "0":
        raise ValueError(f"{text!r} is no time; write for instance 90s, 30m or 2h (0 brings it back)")
    return float(found[1]) * UNITS_S[found[2]] if found else 0.0
