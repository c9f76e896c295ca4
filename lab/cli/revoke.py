"""``qunetlab keys revoke``: the key of a role is refused by every process of this machine that would serve it.

A running process is told at its control socket: it keeps the key on its list first, then ends the connections.  For a
stopped one the list is written here, so that its next start refuses the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.runs.shown import echo
from lab.runs.testbeds.folder import FolderError
from lab.runs.testbeds.machine import Machine
from lab.testbed import Testbed, UnknownNameError


def served_by(testbed: Testbed, process: str) -> tuple[str, ...]:
    """The roles that connect to ``process``."""
    users = testbed.user_names()
    if process == "orchestrator":
        return tuple(role for role in testbed.roles() if role != process)
    if process == "fl-server":
        return tuple(f"fl-{user}" for user in users)
    return (f"fl-{process}",) if process in users else ()


def revoke_role(role: str, testbed: Path, state: Path | None) -> int:
    """Revoke ``role`` wherever it is served here; 1 if a process that serves it could not be told."""
    machine = Machine(testbed, state)
    if role not in machine.testbed.roles():
        raise UnknownNameError(
            f"no role {role!r} in {machine.path}; there are {', '.join(machine.testbed.roles())}"
        )
    refused = refuse_key(machine, role, machine.testbed.public_key(role))
    if not refused.failed and not refused.done:
        raise FolderError(
            f"no process of this machine ({machine.state}) serves {role}; run the command where its hub, node or"
            " learning server is"
        )
    echo("Run it on every other machine that serves this role, too.")
    return 1 if refused.failed else 0


@dataclass(frozen=True)
class Refusing:
    """How many processes refuse a key from here on, and how many could not be told."""

    done: int
    failed: int


def refuse_key(machine: Machine, role: str, public: str) -> Refusing:
    """Have every process of this machine that serves ``role`` refuse the key ``public`` for good, and tell of each."""
    from orchestrator.wire.control_socket import ControlError, ControlRefusedError, Revoke, ask, listens
    from orchestrator.wire.revoked import RevokedError, RevokedKeys

    failed = done = 0
    for process, running in _processes(machine):
        if role not in served_by(machine.testbed, process):
            continue
        try:
            if not running:
                RevokedKeys(machine.folder(process)).add(role, {public: role})
                said = f"it does not run; its next start refuses the key of {role}"
            if running or listens(
                machine.folder(process)
            ):  # or it came up meanwhile, and may have read the list before
                said = ask(machine.folder(process), Revoke(role)).text
        except (ControlError, ControlRefusedError, RevokedError, OSError) as error:
            failed += 1
            echo(f"{process}: NOT revoked: {error}", err=True)
        else:
            done += 1
            echo(f"{process}: {said}")
    return Refusing(done, failed)


def show_revoked(testbed: Path, state: Path | None, as_json: bool) -> int:
    """The refused roles of every process of this machine."""
    from orchestrator.wire.control_socket import ShowRevoked, ask
    from orchestrator.wire.revoked import RevokedKeys

    machine = Machine(testbed, state)
    found = {
        process: ask(machine.folder(process), ShowRevoked()).roles
        if running
        else RevokedKeys(machine.folder(process)).roles
        for process, running in _processes(machine)
        if served_by(machine.testbed, process)
    }
    if as_json:
        echo(json.dumps({"revoked": found}))
        return 0
    for process, roles in found.items():
        echo(f"{process}: {', '.join(roles) or 'nobody is refused'}")
    return 0


def _processes(machine: Machine) -> Iterator[tuple[str, bool]]:
    """Every role that has a state folder here, and whether it runs."""
    from orchestrator.wire.control_socket import listens

    for role in machine.testbed.roles():
        if machine.folder(role).is_dir():
            yield role, listens(machine.folder(role))
