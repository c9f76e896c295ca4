"""The processes of this machine, by their state folders, and the users that a command names."""

from __future__ import annotations

from pathlib import Path

from lab.runs.testbeds.folder import STATE, find_testbed
from lab.testbed import Testbed, load_testbed
from orchestrator.events.status import pair_name


class Machine:
    """The testbed and the state folders of its roles on this machine."""

    def __init__(self, testbed: Path, state: Path | None) -> None:
        """Raises TestbedError for a file that is none."""
        self.path = find_testbed(testbed)
        self.testbed: Testbed = load_testbed(self.path)
        self.state = (state or self.path.parent / STATE).absolute()

    def folder(self, role: str) -> Path:
        """The state folder of a role."""
        return self.state / role

    def pair(self, text: str) -> tuple[str, str]:
        """The pair called ``text``, in ring order; raises ValueError if there is none, or more than one.

        ``alice-bob``, or ``alice:bob`` where names with hyphens leave it open which two are meant.
        """
        found = [
            (first, second)
            for first, second in self.testbed.pairs()
            for mark in "-:"
            if text in (f"{first}{mark}{second}", f"{second}{mark}{first}")
        ]
        if len(found) == 1:
            return found[0]
        if found:
            told = " or ".join(":".join(pair) for pair in found)
            raise ValueError(f"{text} may be one of several pairs of {self.path}: write {told}")
        known = ", ".join(pair_name(pair) for pair in self.testbed.pairs())
        raise ValueError(f"{text} is no pair of {self.path}; pairs are {known}")
