"""What may be asked of whoever carries attacks on a simulated ring: its simulator, or what started its roles.

Nothing of a real ring carries any: every other process that is asked refuses, as it does all that is not for it.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from orchestrator.wire.codec import Message
from orchestrator.wire.fields import Role

Strength: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e3)]
"""In the unit of its attack."""


class BeginAttack(Message, frozen=True):
    """Put the ring under the attack ``name``; ``who`` asks."""

    who: Annotated[str, Meta(min_length=1, max_length=64)]
    name: Role
    strength: Strength


class EndAttack(Message, frozen=True):
    """Back to an honest ring."""

    who: Annotated[str, Meta(min_length=1, max_length=64)]


class ShowAttack(Message, frozen=True):
    """The attack that is on."""


class AttackShown(Message, frozen=True):
    """``name``: the attack that is on, empty for none, for ``for_s`` by the clock of whoever carries it."""

    name: str
    strength: float = 0.0
    who: str = ""
    for_s: float = 0.0


AttackRequest: TypeAlias = BeginAttack | EndAttack | ShowAttack
