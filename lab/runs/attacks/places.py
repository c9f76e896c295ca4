"""Where attacks are asked for: folders among the roles' state folders, with a control socket each."""

from __future__ import annotations

from orchestrator.wire.attack_control import AttackShown

SIMULATOR = "simulator"
"""Of the simulator, which carries attacks on light."""
UP = "up"
"""Of ``qunetlab up``, which has processes lie."""
LEARNING_SERVER = "fl-server"
"""The role that is started anew by every training run."""
NONE = AttackShown("")
"""No attack is on."""
