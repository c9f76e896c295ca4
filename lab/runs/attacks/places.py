"""Where attacks are asked for, folders among the roles' state folders with a control socket each, and what both of them keep."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator import runtime
from orchestrator.wire.attack_control import AttackShown

SIMULATOR = "simulator"
"""Of the simulator, which carries attacks on light."""
UP = "up"
"""Of ``qunetlab up``, which has processes lie."""
LEARNING_SERVER = "fl-server"
"""The role that is started anew by every training run."""
NONE = AttackShown("")
"""No attack is on."""


class OneAttack:
    """The attack that is on, if any, and since when; its carrier keeps it."""

    def __init__(self) -> None:
        self._on, self._began_s = NONE, 0.0

    @property
    def name(self) -> str:
        """Empty for none."""
        return self._on.name

    def begin(self, on: AttackShown) -> None:
        """It is on from here."""
        self._on, self._began_s = on, runtime.now()

    def end(self) -> None:
        """None is on any more."""
        self._on = NONE

    def shown(self) -> AttackShown:
        """As it is told."""
        return replace(self._on, for_s=runtime.now() - self._began_s) if self._on.name else NONE
