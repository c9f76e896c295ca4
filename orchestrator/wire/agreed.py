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


MOST_NAMED = 5
"""Sections that a refusal names, so that it stays a sentence."""


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
        differing = [name for name in self.testbed if self.testbed[name] != theirs.testbed.get(name)]
        unknown = len(theirs.testbed.keys() - self.testbed.keys())
        if not differing and not unknown:
            return ""
        named = [f"[{name}]" for name in differing[:MOST_NAMED]]
        if more := len(differing) - len(named) + unknown:
            named.append(f"{more} more")
        first = differing[0] if differing else ""
        digests = (
            f" ([{first}]: {theirs.testbed.get(first, 'none')}, here {self.testbed[first]})" if first else ""
        )
        return (
            f"the testbed file of {role} differs from the hub's in {', '.join(named)}{digests}: bring the same testbed.toml to "
            "both machines and start the role again"
        )
