"""``qunetlab stop`` and ``qunetlab acknowledge``: everything dark at once on this machine, and going on."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lab.cli.options import show
from lab.runs.interlocks import Told, acknowledge, chosen_roles, stop
from lab.runs.shown import shown
from lab.runs.testbeds.machine import Machine


def stop_roles(testbed: Path, role: str | None, state: Path | None, reason: str, as_json: bool) -> int:
    """Stop one role or all; 0 where each is dark and latched, 1 where something is not, or stands elsewhere."""
    machine = Machine(testbed, state)
    who = f"stopped by {getpass.getuser()}" + (f": {reason}" if reason else "")
    return _tell(stop(machine, chosen_roles(machine, role), who[:400]), as_json)


def acknowledge_roles(testbed: Path, role: str | None, state: Path | None, as_json: bool) -> int:
    """Release one role or all; 0 where none is latched any more."""
    machine = Machine(testbed, state)
    return _tell(acknowledge(machine, chosen_roles(machine, role), getpass.getuser()[:64]), as_json)


def _tell(all_told: Sequence[Told], as_json: bool) -> int:
    show(
        [
            {"role": told.role, "ok": told.ok, "text": told.text, "state": msgspec.to_builtins(told.state)}
            for told in all_told
        ],
        as_json,
        "\n".join(shown(told.text) for told in all_told),
    )
    return 0 if all(told.ok for told in all_told) else 1
