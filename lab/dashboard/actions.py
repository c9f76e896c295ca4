"""What an operator may do from a page: each asks the process that owns it, as the commands do, and says what became of it.

Stopping needs nothing but the button.  Everything else is a request with the dashboard's token, typed once: the file
``dashboard/token`` in the state folder (0600), whose reader may give the commands anyway.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

from lab.runs.interlocks import Told, acknowledge, owning_roles, stop
from lab.runs.testbeds.machine import Machine
from orchestrator.durable import create_file, make_folder
from orchestrator.randomness import random_hex

TOKEN_FILE = "token"
FOLDER = "dashboard"


class ActionError(ValueError):
    """What was asked cannot be done; the text says why."""


def token_of(machine: Machine) -> str:
    """The token of this testbed's dashboard, made where there is none yet."""
    path = machine.folder(FOLDER) / TOKEN_FILE
    make_folder(path.parent)
    if not path.exists():
        create_file(path, random_hex(16).encode(), 0o600)
    return path.read_text(encoding="ascii").strip()


def stop_all(machine: Machine, reason: str) -> list[dict[str, Any]]:
    """Light off and latched at every role here; what became of each."""
    who = f"stopped by {getpass.getuser()} at the dashboard" + (f": {reason}" if reason else "")
    return _rows(stop(machine, owning_roles(machine), who[:400]))


def _acknowledge(machine: Machine, _: dict[str, Any]) -> list[dict[str, Any]]:
    return _rows(acknowledge(machine, owning_roles(machine), getpass.getuser()[:64]))


ACTIONS: dict[str, Callable[[Machine, dict[str, Any]], Any]] = {"acknowledge": _acknowledge}
"""By the name that a page asks for; each gets the rest of the request and raises ActionError."""


def act(machine: Machine, name: str, asked: dict[str, Any]) -> Any:
    """Do it; the answer is for the page."""
    if name not in ACTIONS:
        raise ActionError(f"no action {name!r}; there are {', '.join(ACTIONS)}")
    return ACTIONS[name](machine, asked)


def _rows(all_told: list[Told]) -> list[dict[str, Any]]:
    return [{"role": told.role, "ok": told.ok, "text": told.text} for told in all_told]
