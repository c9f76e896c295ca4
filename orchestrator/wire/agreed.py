"""What two machines of one ring must have alike: the release, and what the testbed file says to everybody.

A digest for each section of the file, so that a difference is told by its place.  They find files that were not carried
along, not forgers: who speaks is known by its key, and whoever lies here only keeps itself out.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeAlias

from msgspec import Meta, field

from orchestrator.wire.codec import Message

Section: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Digest: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]


class Agreed(Message, frozen=True):
    """``release`` of qunetlab, and the digest of each section of the testbed file, 64 bits as 16 hexadecimal digits."""

    release: Annotated[str, Meta(max_length=64)] = ""
    testbed: Annotated[dict[Section, Digest], Meta(max_length=64)] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """One for all of it, which people compare."""
        told = "|".join((self.release, *(f"{name}:{each}" for name, each in sorted(self.testbed.items()))))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def objection(self, role: str, theirs: Agreed) -> str:
        """Why ``role``, which has ``theirs``, cannot join who has these; empty where they agree."""
        if theirs.release != self.release:
            return (
                f"{role} runs qunetlab {theirs.release or 'of an unknown release'}, the hub {self.release}: install the same "
                "release on both machines"
            )
        names = sorted({*self.testbed, *theirs.testbed})
        differing = [name for name in names if self.testbed.get(name) != theirs.testbed.get(name)]
        if not differing:
            return ""
        told = ", ".join(
            f"[{name}] ({role} {theirs.testbed.get(name, 'has none')}, hub {self.testbed.get(name, 'has none')})"
            for name in differing[:4]
        )
        more = f" and {len(differing) - 4} more sections" if len(differing) > 4 else ""
        return (
            f"the testbed file of {role} differs from the hub's in {told}{more}: bring the same testbed.toml to both machines "
            "and start the role again; `qunetlab check --json` shows the digests"
        )
