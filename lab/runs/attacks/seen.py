"""The attack that is on, as ``qunetlab status`` names it: asked of this machine's simulator, once a second and with little patience.

Of a real ring, and where the simulator is on another machine or does not run, nothing is known and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from lab.runs.attacks.control import attack_on
from lab.runs.testbeds.machine import Machine
from orchestrator import runtime
from orchestrator.wire.attack_control import AttackShown
from orchestrator.wire.control_socket import ControlError, ControlRefusedError
from sim_backends.attacks.table import attack_named

AGAIN_S = 1.0
PATIENCE_S = 0.5


class AttackSeen(msgspec.Struct, frozen=True):
    """An attack of the attack range that is on, for so long; ``told`` is it in words, with its strength."""

    name: str
    told: str
    who: str
    for_s: float


class AttackWatch:
    """What is on, as often as it is asked; the simulator is asked once in :data:`AGAIN_S`."""

    def __init__(self, machine: Machine, ask: Callable[[Machine, float], AttackShown] = attack_on) -> None:
        self._machine, self._ask = machine, ask
        self._known: AttackSeen | None = None
        self._asked_s: float | None = None

    def now(self) -> AttackSeen | None:
        """None while none is on, or nobody here knows."""
        if self._machine.testbed.simulation is None:
            return None
        now_s = runtime.now()
        if self._asked_s is None or now_s - self._asked_s >= AGAIN_S:
            self._known, self._asked_s = self._look(), now_s
        seen = self._known
        return None if seen is None else replace(seen, for_s=round(seen.for_s + now_s - self._asked_s, 3))

    def _look(self) -> AttackSeen | None:
        try:
            on = self._ask(self._machine, PATIENCE_S)
        except (ControlError, ControlRefusedError, OSError):
            return None
        return (
            AttackSeen(on.name, attack_named(on.name).told(on.strength), on.who, on.for_s)
            if on.name
            else None
        )
