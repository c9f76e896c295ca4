"""The processes of this machine, by their state folders, and the users that a command names."""

from __future__ import annotations

from pathlib import Path

from lab.runs.testbeds.folder import STATE, find_testbed, own_testbed
from lab.testbed import Testbed, load_testbed
from orchestrator.events.status import pair_name


class Machine:
    """The testbed and the state folders of its roles on this machine."""

    def __init__(self, testbed: Path, state: Path | None) -> None:
        """Raises TestbedError for a file that is none, FolderError for a bundled one whose ``state`` is not told."""
        self.path = find_testbed(testbed) if state else own_testbed(testbed)
        self.testbed: Testbed = load_testbed(self.path)
        self.state = (state or self.path.parent / STATE).absolute()

    def folder(self, role: str) -> Path:
        """The state folder of a role."""
        return self.state / role

    def pair(self, text: str) -> tuple[str, str]:
        """The pair called ``text``, in ring order; raises ValueError if there is none, or more than one."""
        return pair_named(self.testbed, text, str(self.path))


def pair_named(testbed: Testbed, text: str, where: str = "this testbed") -> tuple[str, str]:
    """The pair called ``text``, in ring order, whichever of the two was named first.

    ``alice-bob`` or ``alice,bob``, or ``alice:bob`` where names with hyphens leave it open which two are meant.
    Raises ValueError if there is none, or more than one.
    """
    found = [
        (first, second)
        for first, second in testbed.pairs()
        for mark in "-:,"
        if text in (f"{first}{mark}{second}", f"{second}{mark}{first}")
    ]
    if len(found) == 1:
        return found[0]
    if found:
        told = " or ".join(":".join(pair) for pair in found)
        raise ValueError(f"{text} may be one of several pairs of {where}: write {told}")
    known = ", ".join(pair_name(pair) for pair in testbed.pairs())
    raise ValueError(f"{text} is no pair of {where}; pairs are {known}")
