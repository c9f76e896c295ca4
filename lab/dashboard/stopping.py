"""The stop button: light off and latched at every role of this machine, and what instruments read back of it.

Nothing of this needs the hub, the orchestrator, a token or a role's main thread (:mod:`lab.runs.interlocks`).  A role is
*verified* when its own instruments said, after this stop, that nothing emits or lets light through any more; of a role that
does not run, or that had to be ended, nobody has read that back, and the answer says so.
"""

from __future__ import annotations

import getpass
from typing import Any

from drivers import catalogue
from drivers.catalogue import SafeOrder
from lab.interlock.latch import clock_for_people
from lab.runs.interlocks import Told, owning_roles, stop
from lab.runs.testbeds.machine import Machine

DARK = {
    SafeOrder.LIGHT: "emission off",
    SafeOrder.SHUTTER: "shutters closed",
    SafeOrder.ATTENUATION: "attenuated most",
}
"""What the safe state of an instrument in the light means, by its place in the order."""


def stop_all(machine: Machine, reason: str = "") -> dict[str, Any]:
    """Stop every role here; what became of each, and whether all that is here is verified dark."""
    who = f"stopped by {getpass.getuser()} at the dashboard" + (f": {reason}" if reason else "")
    rows = [_row(machine, told) for told in stop(machine, owning_roles(machine), who[:400])]
    return {
        "ok": all(row["ok"] for row in rows),
        "verified": all(row["verified"] for row in rows),
        "roles": rows,
    }


def _row(machine: Machine, told: Told) -> dict[str, Any]:
    """``dark``: what each instrument in the light was brought to; ``verified``: when that was read back, "" if it was not."""
    state = told.state
    verified = bool(state and state.causes and state.dark_s is not None and not state.unsafe)
    dark = _dark(machine, told.role) if verified else {}
    at = clock_for_people() if verified else ""
    text = told.text
    if dark:
        text += f"; {', '.join(f'{name}: {what}' for name, what in dark.items())}; verified {at[11:19]} UTC"
    elif told.ok:
        text += "; nobody read back that it is dark"
    return {
        "role": told.role,
        "ok": told.ok,
        "text": text,
        "dark": dark,
        "verified": at,
        "dark_s": state.dark_s if state else None,
        "unsafe": dict(state.unsafe) if state else {},
    }


def _dark(machine: Machine, role: str) -> dict[str, str]:
    orders = {
        entry.name: catalogue.row(entry.model).safe_order
        for entry in machine.testbed.instruments
        if entry.owner == role
    }
    return {
        name: DARK[order] for name, order in sorted(orders.items(), key=lambda each: each[1]) if order in DARK
    }
