"""Stopping the roles of this machine at once, and letting them go on: what ``qunetlab stop`` does, and any button.

Each role is asked at its interlock's own socket, all at a time; hub and orchestrator are not needed.  A role that does not
answer stands still as a whole: its process is ended, and its guard makes its instruments safe.  The latch is then written
from here, so that the role comes back dark.  A role that does not run is latched too.

Who may do so is who may write into the role's state folder: its own user and root.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab.interlock.interlock import INTERLOCK_SOCKET
from lab.interlock.latch import WHAT_TO_DO, Cause, clock_for_people, keep_causes, kept_causes, with_cause
from lab.runs.testbeds.machine import Machine
from orchestrator.wire.control_socket import (
    Acknowledge,
    ControlError,
    ControlRefusedError,
    InterlockState,
    LatchedCause,
    ShowInterlock,
    Trip,
    ask,
    listener,
    listens,
)

ANSWER_S = 0.4
"""A role whose interlock says nothing for so long stands still: its thread needs nothing but a processor."""
STATE_S, POLL_S = 2.0, 0.05
"""How long it is then waited for darkness."""


@dataclass(frozen=True)
class Told:
    """What became of one role: ``ok`` if it is dark and latched (or released), and in words."""

    role: str
    ok: bool
    text: str
    state: InterlockState | None = None


def owning_roles(machine: Machine) -> list[str]:
    """The roles that own instruments, the one with the light first."""
    owners = {entry.owner for entry in machine.testbed.instruments}
    return sorted(owners, key=lambda owner: (owner != "relay", owner))


def chosen_roles(machine: Machine, role: str | None) -> list[str]:
    """``role``, or all that own instruments; raises ValueError for one that owns none."""
    roles = owning_roles(machine)
    if role is None:
        return roles
    if role not in roles:
        raise ValueError(f"{role!r} owns no instrument of {machine.path}; roles are {', '.join(roles)}")
    return [role]


def stop(machine: Machine, roles: Sequence[str], text: str) -> list[Told]:
    """Light off and latched at every one of ``roles`` on this machine."""
    return _at_once(roles, lambda role: _stop(machine.folder(role), role, text))


def acknowledge(machine: Machine, roles: Sequence[str], operator: str) -> list[Told]:
    """Release every one of ``roles`` on this machine whose cause is gone."""
    return _at_once(roles, lambda role: _acknowledge(machine.folder(role), role, operator))


def states(machine: Machine, roles: Sequence[str], patience_s: float = STATE_S) -> list[Told]:
    """How the interlocks on this machine stand; one that says nothing for ``patience_s`` does not answer."""
    return _at_once(roles, lambda role: _show(machine.folder(role), role, patience_s))


def _at_once(roles: Sequence[str], do_one: Callable[[str], Told]) -> list[Told]:
    """What became of each; one whose folder cannot be used keeps no other from it."""

    def do(role: str) -> Told:
        try:
            return do_one(role)
        except OSError as error:
            return Told(
                role,
                False,
                f"{role}: {error}; give the command as the user that runs it or as root, or make room",
            )

    with ThreadPoolExecutor(max(len(roles), 1)) as pool:
        return list(pool.map(do, roles))


def _elsewhere(role: str) -> Told:
    return Told(
        role, False, f"{role} has no state folder here; give the command on its machine, or with --state"
    )


def _stop(folder: Path, role: str, text: str) -> Told:
    if not folder.is_dir():
        return _elsewhere(role)
    number = listener(folder, name=INTERLOCK_SOCKET)
    if number is None:
        _latch(folder, text)
        return Told(role, True, f"{role} does not run; it stays dark when it is started, until acknowledged")
    try:
        ask(folder, Trip(text), ANSWER_S, name=INTERLOCK_SOCKET)
    except ControlRefusedError as error:
        return Told(role, False, f"{role}: {error}")
    except ControlError as error:
        return _end(folder, role, number, text, error)
    return _outcome(folder, role)


def _outcome(folder: Path, role: str) -> Told:
    """Wait until it is dark and written down, or for :data:`STATE_S`."""
    give_up = time.monotonic() + STATE_S
    while True:
        told = _show(folder, role, STATE_S)
        state = told.state
        if time.monotonic() > give_up:
            return told
        if (
            state is not None
            and state.kept
            and not state.under_way
            and (state.dark_s is not None or state.unsafe)
        ):
            return told
        time.sleep(POLL_S)


def _show(folder: Path, role: str, patience_s: float) -> Told:
    if not folder.is_dir():
        return _elsewhere(role)
    try:
        state = ask(folder, ShowInterlock(), patience_s, name=INTERLOCK_SOCKET)
    except ControlRefusedError as error:
        return Told(role, False, f"{role}: {error}")
    except ControlError as error:
        if listens(folder, name=INTERLOCK_SOCKET):
            return Told(role, False, f"{role} does not say how its interlock stands: {error}")
        causes = [
            LatchedCause(each.cause, each.text, each.at, WHAT_TO_DO[each.cause])
            for each in kept_causes(folder)
        ]
        state = InterlockState(role, causes, None, [], {})
        return Told(role, True, f"{role} does not run; {_why(state)}", state)
    assert isinstance(state, InterlockState)
    parts = [f"{role}: {_why(state)}"]
    if state.causes:
        parts += [f"dark after {state.dark_s:.2f} s"] if state.dark_s is not None else []
        parts += [f"{', '.join(state.under_way)} under way"] if state.under_way else []
        parts += [
            f"{name} COULD NOT BE MADE SAFE ({why}): switch it off by hand"
            for name, why in state.unsafe.items()
        ]
        parts += [] if state.kept else ["the latch is not on the disk, a restart would not know"]
    return Told(role, state.kept and not state.unsafe, "; ".join(parts), state)


def _why(state: InterlockState) -> str:
    told = "; ".join(f"{each.cause}: {each.text} ({each.at}); {each.what_to_do}" for each in state.causes)
    return f"latched by {told}" if told else "not latched"


def _latch(folder: Path, text: str) -> None:
    keep_causes(folder, with_cause(kept_causes(folder), Cause("operator", text, clock_for_people())))


def _end(folder: Path, role: str, number: int, text: str, silence: Exception) -> Told:
    """End a process that stands still; its guard takes over."""
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself meanwhile, and its guard acts
    except PermissionError:
        return Told(
            role, False, f"{role}: {silence}; process {number} belongs to another user: ask that user or root"
        )
    ended = f"{role} did not answer ({silence}): process {number} was ended and its guard makes its instruments safe"
    try:
        _latch(folder, text)
    except OSError as error:
        return Told(role, False, f"{ended}; it would NOT stay dark when it is started ({error})")
    return Told(role, True, f"{ended}; it stays dark when it is started, until acknowledged")


def _acknowledge(folder: Path, role: str, operator: str) -> Told:
    if not folder.is_dir():
        return _elsewhere(role)
    try:
        return Told(role, True, ask(folder, Acknowledge(operator), name=INTERLOCK_SOCKET).text)
    except ControlRefusedError as error:
        return Told(role, False, str(error))
    except ControlError as error:
        if not kept_causes(folder):
            return Told(role, True, f"the interlock of {role} is not latched")
        return Told(role, False, f"{error}; start it (it comes up dark), then acknowledge")
