"""What an audit says: checks, each passed, failed or not checkable here, and what was found, where, and what it means."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["passed", "failed", "not checkable here"]


class Finding(msgspec.Struct, frozen=True):
    """An inconsistency."""

    what: str
    where: str
    means: str


class Check(msgspec.Struct, frozen=True):
    """One question asked of the records: of how many facts, and how it came out; ``notes`` are no inconsistencies."""

    name: str
    state: State
    looked_at: int
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


class Audit(msgspec.Struct, frozen=True):
    """All checks of one run."""

    run: str
    passed: bool
    checks: tuple[Check, ...]


class Asking:
    """A check while it is made."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._looked_at = 0
        self._findings: list[Finding] = []
        self._notes: dict[str, None] = {}

    def that(self, holds: bool, what: str, where: str, means: str) -> bool:
        """Look at a fact; a finding unless it ``holds``."""
        self._looked_at += 1
        if not holds:
            self._findings.append(Finding(what, where, means))
        return holds

    def same(self, what: str, values: dict[str, object], where: str, means: str) -> bool:
        """Look at a fact that several tell: ``values`` by who tells it must be equal."""
        told = list(values.values())
        said = ", ".join(f"{who} says {value}" for who, value in values.items())
        return self.that(all(each == told[0] for each in told), f"{what} differs: {said}", where, means)

    def same_figures(
        self,
        who: tuple[str, str],
        figures: dict[str, tuple[object, object]],
        of: str,
        where: str,
        means: str,
    ) -> None:
        """Look at several facts that two tell ``of`` the same thing, by name."""
        for name, values in figures.items():
            self.same(f"{name} {of}", dict(zip(who, values, strict=True)), where, means)

    def note(self, text: str) -> None:
        """Something to know that is no inconsistency: what is missing here, or what a kill left."""
        self._notes[text] = None

    def done(self) -> Check:
        """How it came out."""
        state: State = "failed" if self._findings else "passed" if self._looked_at else "not checkable here"
        notes = tuple(self._notes)
        if state == "not checkable here" and not notes:
            notes = ("nothing of the kind stands in these records",)
        return Check(self._name, state, self._looked_at, tuple(self._findings), notes)
